"""The directory (RFC 8555 §7.1.1) and newNonce (§7.2)."""

from __future__ import annotations

from typing import Any, Final

import orjson

from services.acme.requests import AccountRequest
from services.acme.urls import Urls
from services.chassis.asgi import Request, Response

# What is not served is not advertised.
_RESOURCES: Final = {
    "newNonce": "new-nonce",
    "newAccount": "new-account",
    "newOrder": "new-order",
    "revokeCert": "revoke-cert",
}


class Directory:
    """Where clients start; its body is made once."""

    def __init__(self, urls: Urls, terms: str) -> None:
        document: dict[str, Any] = {name: urls.of(path) for name, path in _RESOURCES.items()}
        if terms:
            document["meta"] = {"termsOfService": terms}
        self._body = orjson.dumps(document)

    async def get(self, _: Request) -> Response:
        """The directory, for anybody."""
        return self._response()

    async def post(self, request: AccountRequest, _: str) -> Response:
        """The directory by POST-as-GET.

        Raises:
            AcmeError: malformed: a payload.
        """
        request.require_read()
        return self._response()

    def _response(self) -> Response:
        return Response(200, self._body, [(b"content-type", b"application/json")])


async def head_nonce(_: Request) -> Response:
    """A fresh nonce, which the frame puts into the header."""
    return Response(200)


async def get_nonce(_: Request) -> Response:
    """Likewise, said with 204 since there is no body."""
    return Response(204)


async def post_nonce(request: AccountRequest, _: str) -> Response:
    """Likewise by POST-as-GET.

    Raises:
        AcmeError: malformed: a payload.
    """
    request.require_read()
    return Response(204)
