"""What need not be quick, by FastAPI and described by OpenAPI. Same door as the hot paths.

| endpoint                 | what                                         |
|--------------------------|----------------------------------------------|
| POST   /v1/api-keys      | make an API key (201): shown this once       |
| GET    /v1/api-keys      | those of the tenant                          |
| DELETE /v1/api-keys/{id} | revoke one (204)                             |
| GET    /v1/openapi.json  | this API, as OpenAPI                         |
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import fastapi

from pkicore.errors import MalformedError
from services.chassis.admin import admin_api
from services.chassis.asgi import AsgiApp, Scope
from services.chassis.errors import MediaTypeError
from services.signing.api_keys import ManagedApiKeys
from services.signing.callers import Caller
from services.signing.errors import NotFoundError
from services.signing.wire import NewApiKeyRequest

CallerOf: TypeAlias = Callable[[fastapi.Request], Awaitable[Caller]]
"""Who calls: step 1 for the admin API."""
AddRoutes: TypeAlias = Callable[[fastapi.APIRouter, CallerOf], None]
"""Adds endpoints of another part of the service."""

_JSON: Final = "application/json"
_CREATED: Final = 201
_NO_CONTENT: Final = 204
_CALLER: Final = "pqcpki.caller"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)  # of whatever is in a path here


def signing_admin(
    who: Callable[[Scope], Awaitable[Caller]],
    api_keys: ManagedApiKeys,
    more: Sequence[AddRoutes] = (),
) -> AsgiApp:
    """The admin API.

    Args:
        who: who calls; nobody gets past the door without one good credential.
        api_keys: of tenants.
        more: further endpoints.
    """
    router = fastapi.APIRouter(prefix="/v1")

    async def guard(request: fastapi.Request) -> None:
        request.scope[_CALLER] = await who(request.scope)
        if not all(_ID.fullmatch(value) for value in request.path_params.values()):
            raise NotFoundError("there is nothing of that id")

    async def caller_of(request: fastapi.Request) -> Caller:
        found = request.scope[_CALLER]
        if not isinstance(found, Caller):
            raise TypeError("the guard comes first")
        return found

    _add_api_keys(router, api_keys, caller_of)
    for add in more:
        add(router, caller_of)
    return admin_api("pqcpki signing service", "API keys of tenants, and what else is managed.", router, guard)


def _add_api_keys(router: fastapi.APIRouter, api_keys: ManagedApiKeys, caller_of: CallerOf) -> None:
    @router.post("/api-keys", status_code=_CREATED)
    async def create(request: fastapi.Request) -> fastapi.Response:
        """Make an API key for the caller's tenant."""
        wanted = NewApiKeyRequest.from_json(await json_body(request))
        made = await api_keys.create(await caller_of(request), wanted)
        headers = {"location": f"/v1/api-keys/{made.described.id}", "cache-control": "no-store"}
        return fastapi.Response(made.to_json(), _CREATED, headers, _JSON)

    @router.get("/api-keys")
    async def listed(request: fastapi.Request) -> fastapi.Response:
        """The API keys of the caller's tenant."""
        found = await api_keys.listed(await caller_of(request))
        return fastapi.Response(found.to_json(), headers={"cache-control": "no-store"}, media_type=_JSON)

    @router.delete("/api-keys/{key_id}", status_code=_NO_CONTENT)
    async def revoke(request: fastapi.Request, key_id: str) -> fastapi.Response:
        """Revoke an API key of the caller's tenant."""
        await api_keys.revoke(await caller_of(request), key_id)
        return fastapi.Response(status_code=_NO_CONTENT)


async def json_body(request: fastapi.Request) -> bytes:
    """The body of a request that must be JSON.

    Raises:
        MediaTypeError: it says that it is something else.
        MalformedError: there is none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise MediaTypeError((_JSON,))
    body = await request.body()
    if not body:
        raise MalformedError("the request has no body")
    return body
