"""External accounts: made, shown, revoked."""

# No postponed annotations: FastAPI reads those of the endpoints, which stand inside a function.
from typing import Annotated, Final

import fastapi

from services.acme.admin.operator import operator_of
from services.acme.external_accounts.administration import ExternalAccountAdministration
from services.acme.wire import (
    MAX_PAGE,
    MAX_SEARCH,
    ExternalAccountEntry,
    ExternalAccountPage,
    ExternalAccountRequest,
    NewExternalAccount,
    RevokedExternalAccount,
)
from services.chassis.fields import Fields

_Text = Annotated[str, fastapi.Query(max_length=MAX_SEARCH)]
_Limit = Annotated[int, fastapi.Query(ge=1, le=MAX_PAGE)]
_CREATED: Final = 201
_DEACTIVATE: Final = "deactivate_accounts"


def add_external_accounts(router: fastapi.APIRouter, external: ExternalAccountAdministration) -> None:
    """Add the endpoints."""

    @router.post("/external-accounts", status_code=_CREATED)
    async def create(request: fastapi.Request, response: fastapi.Response) -> NewExternalAccount:
        """Make a key identifier; its MAC key is told this once."""
        wanted = ExternalAccountRequest.from_json(await request.body())
        response.headers["cache-control"] = "no-store"
        return await external.create(wanted, operator_of(request))

    @router.get("/external-accounts")
    async def page(cursor: _Text = "", limit: _Limit = 100) -> ExternalAccountPage:
        """External accounts, the newest first."""
        return await external.page(cursor, limit)

    @router.get("/external-accounts/{kid}")
    async def one(kid: str) -> ExternalAccountEntry:
        """An external account by its key identifier."""
        return await external.one(kid)

    @router.post("/external-accounts/{kid}/revocation")
    async def revoke(kid: str, request: fastapi.Request) -> RevokedExternalAccount:
        """Let no account be made with it, nor anything be ordered by those that were."""
        body = Fields.parse(await request.body(), {_DEACTIVATE})
        deactivate = body.flag(_DEACTIVATE) if _DEACTIVATE in body.members else False
        return await external.revoke(kid, operator_of(request), deactivate_accounts=deactivate)
