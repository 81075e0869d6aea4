"""Rate limits: shown, set for somebody, their buckets filled."""

# No postponed annotations: FastAPI reads those of the endpoints, which stand inside a function.
from typing import Final

import fastapi

from services.acme.admin.operator import operator_of
from services.acme.rate_limits.administration import LimitAdministration
from services.acme.rate_limits.wire import LimitEntry, LimitList
from services.chassis.fields import Fields

_NO_CONTENT: Final = 204


def add_limits(router: fastapi.APIRouter, limits: LimitAdministration) -> None:
    """Add the endpoints."""

    @router.get("/limits")
    async def shown() -> LimitList:
        """The usual limits, then those of accounts and external accounts."""
        return await limits.all()

    @router.post("/limits")
    async def change(request: fastapi.Request) -> LimitList:
        """Give an account, or every account of a key identifier, another limit."""
        body = Fields.parse(await request.body(), {"subject", "name", "limit"})
        wanted = LimitEntry(body.text("name"), body.text("limit"), body.text("subject"))
        return await limits.set(wanted, operator_of(request))

    @router.post("/limits/reset", status_code=_NO_CONTENT)
    async def reset(request: fastapi.Request) -> None:
        """Fill the buckets of an account, an address or a name."""
        body = Fields.parse(await request.body(), {"subject"})
        await limits.reset(body.text("subject"), operator_of(request))
