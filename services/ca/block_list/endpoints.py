"""The block list on the mTLS listener: operators change it, services ask about a key.

Who may call what is decided before a body is read.

| endpoint                            | what                                                   |
|-------------------------------------|--------------------------------------------------------|
| POST /v1/blocked-keys               | block a key (201; 200 if it was), and revoke what it has |
| GET /v1/blocked-keys?after=HASH     | the entries, in pages                                  |
| GET /v1/blocked-keys/{key_hash}     | whether a key is blocked, and whether it is certified  |
| DELETE /v1/blocked-keys/{key_hash}  | let it be certified again                              |
"""

from typing import Final
from urllib.parse import parse_qs

from pkicore.errors import MalformedError
from services.ca.api import caller_of
from services.ca.block_list.blocking import BlockList
from services.ca.block_list.wire import BlockRequest, parse_key_hash
from services.ca.ledger.refusals import Asked, Refusals
from services.chassis.asgi import Request, Response, Route

_JSON: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_MAX_BODY: Final = 4096  # octets


class BlockListEndpoints:
    """The handlers."""

    def __init__(self, block_list: BlockList, refusals: Refusals) -> None:
        self._block_list = block_list
        self._refusals = refusals

    def routes(self) -> list[Route]:
        """What the mTLS listener answers."""
        return [
            Route("POST", "/v1/blocked-keys", self.add, ("application/json",), _MAX_BODY),
            Route("GET", "/v1/blocked-keys", self.page),
            Route("GET", "/v1/blocked-keys/{key_hash}", self.status),
            Route("DELETE", "/v1/blocked-keys/{key_hash}", self.remove),
        ]

    async def add(self, request: Request) -> Response:
        """Block a key."""
        caller, wanted = caller_of(request), BlockRequest.from_json(await request.body())
        async with self._refusals.recorded(caller, lambda: Asked("block", (wanted.key_hash.hex(),))):
            answer = await self._block_list.add(caller, wanted)
        return Response(201 if answer.is_new else 200, answer.to_json(), [*_JSON])

    async def page(self, request: Request) -> Response:
        """Some entries."""
        return Response(200, (await self._block_list.page(_after(request))).to_json(), [*_JSON])

    async def status(self, request: Request) -> Response:
        """Whether a key is blocked, and whether it is certified."""
        status = await self._block_list.status(parse_key_hash(request.params["key_hash"]))
        return Response(200, status.to_json(), [*_JSON])

    async def remove(self, request: Request) -> Response:
        """Unblock a key."""
        caller, key_hash = caller_of(request), parse_key_hash(request.params["key_hash"])
        async with self._refusals.recorded(caller, lambda: Asked("unblock", (key_hash.hex(),))):
            await self._block_list.remove(caller, key_hash)
        return Response(200, b"{}", [*_JSON])


def _after(request: Request) -> bytes:
    try:
        query = parse_qs(request.scope.get("query_string", b"").decode("latin-1"), max_num_fields=4)
    except ValueError as error:
        raise MalformedError("too many query parameters: there is after=HASH only") from error
    (value,) = query.get("after", [""])[:1]
    return parse_key_hash(value) if value else b""
