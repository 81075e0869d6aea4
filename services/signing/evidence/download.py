"""`GET /v1/evidence/{id}/archive`: an archive, sent piece by piece; the admin API would hold all of it in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.chassis.asgi import Request, Response, Route
from services.signing.callers import Caller
from services.signing.decisions import Decisions, access
from services.signing.errors import NotFoundError
from services.signing.evidence.export import Evidence

CallerOf = Callable[[Request], Awaitable[Caller]]


def archive_routes(evidence: Evidence, decisions: Decisions, caller_of: CallerOf) -> list[Route]:
    """The endpoint."""

    async def archive(request: Request) -> Response:
        caller = await caller_of(request)
        await decisions.permit(access(caller, "export_evidence"))
        found = await evidence.find(caller.tenant, request.params["id"])
        path = evidence.path(found.id)
        if not await asyncio.to_thread(path.exists):
            raise NotFoundError("the file of this archive is gone: make it again")
        name = f'attachment; filename="{found.name}.tar"'.encode()
        headers = [(b"content-type", b"application/x-tar"), (b"content-disposition", name)]
        headers.append((b"cache-control", b"no-store"))
        return Response.file(request, path, found.size, found.sha256, headers)

    return [Route("GET", "/v1/evidence/{id}/archive", archive)]
