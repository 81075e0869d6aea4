"""Evidence and legal holds, as callers manage those of their own tenant.

| endpoint                       | what                                                                            |
|--------------------------------|---------------------------------------------------------------------------------|
| POST   /v1/evidence            | make an archive of `{name, signatures, subjects, profile}` (201)                |
| GET    /v1/evidence            | those of the tenant, the newest first                                           |
| GET    /v1/evidence/{id}       | one                                                                             |
| GET    /v1/holds/{signature}   | what keeps a signature beyond its rule                                          |
| PUT    /v1/holds/{signature}   | lay a legal hold, `{reason}` (204)                                              |
| DELETE /v1/holds/{signature}   | lift it (204)                                                                   |
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import fastapi
import orjson

from pkicore.jose.strict import strict_object
from services.signing.admin import AddRoutes, CallerOf, json_body
from services.signing.callers import Action, Caller
from services.signing.decisions import Decisions, access, caller_name
from services.signing.evidence.export import Evidence, ExportRequest
from services.signing.retention import Retention
from services.signing.store.evidence import StoredEvidence

_JSON: Final = "application/json"
_NO_STORE: Final = {"cache-control": "no-store"}
_CREATED, _NO_CONTENT = 201, 204


def evidence_routes(evidence: Evidence, retention: Retention, decisions: Decisions) -> AddRoutes:
    """The endpoints above."""

    async def permitted(request: fastapi.Request, caller_of: CallerOf, action: Action) -> Caller:
        caller = await caller_of(request)
        await decisions.permit(access(caller, action))
        return caller

    def add(router: fastapi.APIRouter, caller_of: CallerOf) -> None:
        @router.post("/evidence", status_code=_CREATED)
        async def export(request: fastapi.Request) -> fastapi.Response:
            """Make an archive."""
            caller = await permitted(request, caller_of, "export_evidence")
            wanted = ExportRequest.of(strict_object(await json_body(request), "the request"))
            made = await evidence.export(caller, wanted)
            return _answer(_members(made), _CREATED, {"location": f"/v1/evidence/{made.id}"})

        @router.get("/evidence")
        async def listed(request: fastapi.Request) -> fastapi.Response:
            """Archives of the tenant; `next` is the `after` of the following page."""
            caller = await permitted(request, caller_of, "export_evidence")
            found, following = await evidence.page(caller.tenant, request.query_params.get("after"))
            return _answer({"evidence": [_members(one) for one in found], "next": following})

        @router.get("/evidence/{evidence_id}")
        async def one(request: fastapi.Request, evidence_id: str) -> fastapi.Response:
            """An archive's record."""
            caller = await permitted(request, caller_of, "export_evidence")
            return _answer(_members(await evidence.find(caller.tenant, evidence_id)))

        _add_holds(router, caller_of, retention, permitted)

    return add


def _add_holds(router: fastapi.APIRouter, caller_of: CallerOf, retention: Retention, permitted: Any) -> None:  # noqa: ANN401 -- the function above
    @router.get("/holds/{signature}")
    async def keeping(request: fastapi.Request, signature: str) -> fastapi.Response:
        """What keeps a signature."""
        caller = await permitted(request, caller_of, "hold_signatures")
        return _answer(asdict(await retention.keeping(caller.tenant, signature)))

    @router.put("/holds/{signature}", status_code=_NO_CONTENT)
    async def hold(request: fastapi.Request, signature: str) -> fastapi.Response:
        """Lay a legal hold."""
        caller = await permitted(request, caller_of, "hold_signatures")
        body = strict_object(await json_body(request), "the request")
        await retention.hold(caller.tenant, caller_name(caller), signature, body.get("reason"))
        return fastapi.Response(status_code=_NO_CONTENT)

    @router.delete("/holds/{signature}", status_code=_NO_CONTENT)
    async def release(request: fastapi.Request, signature: str) -> fastapi.Response:
        """Lift a legal hold."""
        caller = await permitted(request, caller_of, "hold_signatures")
        await retention.release(caller.tenant, caller_name(caller), signature)
        return fastapi.Response(status_code=_NO_CONTENT)


def _members(found: StoredEvidence) -> dict[str, Any]:
    return asdict(found) | {"urls": {"self": f"/v1/evidence/{found.id}", "archive": f"/v1/evidence/{found.id}/archive"}}


def _answer(members: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> fastapi.Response:
    return fastapi.Response(orjson.dumps(members), status, {**_NO_STORE, **(headers or {})}, _JSON)
