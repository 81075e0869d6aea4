"""What ACME clients in a browser need: cross-origin requests (RFC 8555 §6.1, CORS of the WHATWG Fetch standard).

Every origin may ask, since no answer depends on anything that a browser adds by itself: there are no cookies, and each
POST proves its account by a signature. A page from the Internet is not helped to reach a server in a private network:
`Access-Control-Allow-Private-Network` is not answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.chassis.asgi import Handler, Headers, Request, Response, Route

EVERY_ORIGIN: Final[Headers] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Link, Location, Replay-Nonce, Retry-After"),
]
_SECONDS: Final = b"86400"  # a browser need not ask again so long


def preflights(routes: Sequence[Route]) -> list[Route]:
    """The route that answers OPTIONS for the path of each route."""
    methods: dict[str, list[str]] = {}
    for route in routes:
        methods.setdefault(route.path, []).append(route.method)
    return [Route("OPTIONS", path, _preflight(allowed)) for path, allowed in methods.items()]


def _preflight(allowed: Sequence[str]) -> Handler:
    headers = [
        (b"access-control-allow-methods", ", ".join(dict.fromkeys(allowed)).encode()),
        (b"access-control-allow-headers", b"Content-Type"),
        (b"access-control-max-age", _SECONDS),
    ]

    async def handle(_: Request) -> Response:
        return Response(204, headers=[*headers])

    return handle
