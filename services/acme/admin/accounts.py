"""Accounts: found, shown, agreed for, deactivated."""

# No postponed annotations: FastAPI reads those of the endpoints, which stand inside a function.
from typing import Annotated, Final

import fastapi

from services.acme.admin.operator import operator_of
from services.acme.administration import AccountAdministration
from services.acme.wire import MAX_PAGE, MAX_SEARCH, AccountEntry, AccountPage, AccountQuery
from services.chassis.fields import Fields

_Text = Annotated[str, fastapi.Query(max_length=MAX_SEARCH)]
_MAX_URL: Final = 2048
_Limit = Annotated[int, fastapi.Query(ge=1, le=MAX_PAGE)]


def add_accounts(router: fastapi.APIRouter, accounts: AccountAdministration) -> None:
    """Add the endpoints."""

    @router.get("/accounts")
    async def page(
        contact: _Text = "",
        thumbprint: _Text = "",
        eab_kid: _Text = "",
        status: _Text = "",
        cursor: _Text = "",
        limit: _Limit = 100,
    ) -> AccountPage:
        """Accounts that have all of what is given, the newest first."""
        return await accounts.page(AccountQuery(contact, thumbprint, eab_kid, status, cursor, limit))

    @router.get("/accounts/{id}")
    async def one(id: str) -> AccountEntry:  # noqa: A002 - the path's own word
        """An account by its id, the end of its URL."""
        return await accounts.one(id)

    @router.post("/accounts/{id}/agreement")
    async def agree(id: str, request: fastapi.Request) -> AccountEntry:  # noqa: A002 - the path's own word
        """Record that its holder agreed to the terms in force, which the operator knows from elsewhere."""
        body = Fields.parse(await request.body(), {"terms"})
        return await accounts.agree(id, body.text("terms", _MAX_URL), operator_of(request))

    @router.post("/accounts/{id}/deactivation")
    async def deactivate(id: str, request: fastapi.Request) -> AccountEntry:  # noqa: A002 - the path's own word
        """End an account, for good."""
        return await accounts.deactivate(id, operator_of(request))
