"""Incidents: prepared, opened, watched, closed."""

# No postponed annotations: FastAPI reads those of the endpoints, which stand inside a function.
from typing import Annotated, Final

import fastapi

from services.acme.admin.operator import operator_of
from services.acme.incidents.incidents import Incidents
from services.acme.incidents.wire import (
    MAX_AT_RISK,
    AtRiskPage,
    IncidentEntry,
    IncidentList,
    IncidentRequest,
    Selected,
    Selection,
)
from services.acme.wire import MAX_SEARCH

_Text = Annotated[str, fastapi.Query(max_length=MAX_SEARCH)]
_Limit = Annotated[int, fastapi.Query(ge=1, le=MAX_AT_RISK)]
_CREATED: Final = 201
_NO_CONTENT: Final = 204


def add_incidents(router: fastapi.APIRouter, incidents: Incidents) -> None:
    """Add the endpoints."""

    @router.post("/incidents", status_code=_CREATED)
    async def prepare(request: fastapi.Request) -> IncidentEntry:
        """Prepare an incident; nobody is told of it yet."""
        return await incidents.prepare(IncidentRequest.from_json(await request.body()), operator_of(request))

    @router.get("/incidents")
    async def listed() -> IncidentList:
        """Open and closed incidents, the newest first."""
        return await incidents.listed()

    @router.get("/incidents/{id}")
    async def one(id: str) -> IncidentEntry:  # noqa: A002 - the path's own word
        """An incident and how far it is."""
        return await incidents.one(id)

    @router.delete("/incidents/{id}", status_code=_NO_CONTENT)
    async def discard(id: str) -> None:  # noqa: A002 - the path's own word
        """Forget a prepared incident."""
        await incidents.discard(id)

    @router.post("/incidents/{id}/certificates")
    async def add(id: str, request: fastapi.Request) -> Selected:  # noqa: A002 - the path's own word
        """Have a prepared incident concern more certificates."""
        return await incidents.add(id, Selection.from_json(await request.body()))

    @router.post("/incidents/{id}/opening")
    async def open(id: str, request: fastapi.Request) -> IncidentEntry:  # noqa: A001, A002 - the act, and the path's own word
        """Move the suggested windows of all that it concerns into the past."""
        return await incidents.open(id, operator_of(request))

    @router.post("/incidents/{id}/closure")
    async def close(id: str, request: fastapi.Request) -> IncidentEntry:  # noqa: A002 - the path's own word
        """Have suggested windows be as they were."""
        return await incidents.close(id, operator_of(request))

    @router.get("/incidents/{id}/at-risk")
    async def at_risk(id: str, after: _Text = "", limit: _Limit = MAX_AT_RISK) -> AtRiskPage:  # noqa: A002 - the path's own word
        """Certificates that nobody has replaced."""
        return await incidents.at_risk(id, after, limit)
