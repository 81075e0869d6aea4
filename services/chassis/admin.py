"""The frame of the admin APIs: FastAPI behind the door of the hot paths.

`services.chassis.asgi.Application` asks the admin API for every path that is none of its own. So both have one request
id, one guard, one table of problems, one log line and one metric; FastAPI adds typed parameters and the OpenAPI page.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.chassis.errors import BodyMalformedError, MethodNotAllowedError, RouteNotFoundError

OPENAPI_PATH = "/v1/openapi.json"

_METHOD_NOT_ALLOWED = 405


def admin_api(
    title: str, description: str, router: fastapi.APIRouter, guard: Callable[[fastapi.Request], Awaitable[None]]
) -> fastapi.FastAPI:
    """An admin API of the router's endpoints and the OpenAPI page; `guard` raises when the caller may not use a path.

    It decides first, also of paths and methods that there are not: who may not call learns nothing of them.

    Whatever an endpoint raises goes through to the frame, which makes it a problem document.
    """

    async def refuse_path(request: fastapi.Request, error: Exception) -> fastapi.Response:
        await guard(request)
        if isinstance(error, HTTPException) and error.status_code == _METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            raise MethodNotAllowedError(tuple(allowed.split(", "))) from error
        raise RouteNotFoundError("there is nothing at this path") from error

    app = fastapi.FastAPI(
        title=title,
        description=description,
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be answered before the guard, to whatever Host was sent
        dependencies=[fastapi.Depends(guard)],
        exception_handlers={HTTPException: refuse_path, RequestValidationError: _refuse_parameters},
    )

    async def openapi() -> dict[str, Any]:
        """This description."""
        return app.openapi()

    app.include_router(router)
    app.add_api_route(OPENAPI_PATH, openapi, methods=["GET"])
    return app


async def _refuse_parameters(_request: fastapi.Request, error: Exception) -> fastapi.Response:
    if not isinstance(error, RequestValidationError):
        raise error
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    raise BodyMalformedError("; ".join(faults)) from error
