"""The hot endpoints of the mTLS listener: JSON in, JSON out, no rules; `services.signer_hsm.admin` has the others.

Who may call what is decided before a body is read; what a caller may do with which key, afterwards.

| endpoint                           | what                                                    |
|------------------------------------|---------------------------------------------------------|
| POST /v1/keys/{id}/sign            | sign one payload, or up to 64                           |
| GET  /v1/keys/{id}/pubkey?version= | the public key of a version                             |
| POST /sign                         | the same; the body names the key                        |
| GET  /pubkey?key=&version=         | the same; the query names the key                       |
| GET  /health                       | the caller's back ends and the key policy               |
"""

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

from pkicore.errors import MalformedError
from services.chassis.asgi import Request, Response, Route
from services.signer_hsm.callers import Callers
from services.signer_hsm.health import Health
from services.signer_hsm.operations import Operations
from services.signer_hsm.policy import Caller
from services.signer_hsm.wire import MAX_SIGN_BODY, SignRequest, checked_version, split_key_id

_JSON: Final = (b"content-type", b"application/json")
_MEDIA: Final = ("application/json",)
_MAX_QUERY: Final = 4096
_MAX_PARAMETERS: Final = 4
_VERSION_DIGITS: Final = 7


class SignerEndpoints:
    """The handlers over the domain."""

    def __init__(self, *, callers: Callers, operations: Operations, health: Health) -> None:
        self._callers = callers
        self._operations = operations
        self._health = health

    def routes(self) -> list[Route]:
        """What the mTLS listener answers quickly."""
        return [
            Route("POST", "/v1/keys/{id}/sign", self.sign, _MEDIA, MAX_SIGN_BODY),
            Route("GET", "/v1/keys/{id}/pubkey", self.public_key),
            Route("POST", "/sign", self.sign_short, _MEDIA, MAX_SIGN_BODY),
            Route("GET", "/pubkey", self.public_key_short),
            Route("GET", "/health", self.health),
        ]

    async def sign(self, request: Request) -> Response:
        """Sign with the key in the path."""
        wanted = SignRequest.from_json(await request.body())
        return await self._sign(request, request.params["id"], wanted)

    async def sign_short(self, request: Request) -> Response:
        """Sign with the key in the body."""
        wanted = SignRequest.from_json(await request.body(), short=True)
        return await self._sign(request, wanted.key, wanted)

    async def _sign(self, request: Request, key_id: str | None, wanted: SignRequest) -> Response:
        tenant, name = split_key_id(key_id)
        body = await self._operations.sign(await self._caller(request), tenant, name, wanted)
        return Response(200, body, [_JSON])

    async def public_key(self, request: Request) -> Response:
        """The public key of the key in the path."""
        return await self._public_key(request, request.params["id"], _query(request, {"version"}))

    async def public_key_short(self, request: Request) -> Response:
        """The public key of the key in the query."""
        query = _query(request, {"key", "version"})
        return await self._public_key(request, query.get("key"), query)

    async def _public_key(self, request: Request, key_id: str | None, query: Mapping[str, str]) -> Response:
        tenant, name = split_key_id(key_id)
        version = parse_version(query.get("version"))
        body = await self._operations.public_key(await self._caller(request), tenant, name, version)
        return Response(200, body, [_JSON])

    async def health(self, request: Request) -> Response:
        """The state of the caller's back ends."""
        answer = await self._health.seen_by(await self._caller(request))
        return Response(200, answer.to_json(), [_JSON, (b"cache-control", b"no-store")])

    async def _caller(self, request: Request) -> Caller:
        return await self._callers.caller(request.peer, request.scope["headers"], request.method, request.path)


def parse_version(text: str | None) -> int | None:
    """The version that a query names.

    Raises:
        MalformedError: it is no whole number in range.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS):
        raise MalformedError("version must be a whole number")
    return checked_version(int(text))


def _query(request: Request, allowed: Collection[str]) -> Mapping[str, str]:
    raw: bytes = request.scope.get("query_string", b"")
    if not raw:
        return {}
    if len(raw) > _MAX_QUERY:
        raise MalformedError("the query is too long")
    try:
        pairs = parse_qsl(
            raw.decode("latin-1"), keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_PARAMETERS
        )
    except ValueError as error:
        raise MalformedError("the query is no list of name=value, or too long a one") from error
    query = dict(pairs)
    if len(query) < len(pairs) or not query.keys() <= set(allowed):
        raise MalformedError(f"the query may have {', '.join(sorted(allowed))}, each once")
    return query
