"""What a log answers to anybody (C2SP tlog-tiles): the checkpoint, tiles, and bundles of entries. All of it is public.

| path                    | what                                            | may be cached |
|-------------------------|-------------------------------------------------|---------------|
| <prefix>/checkpoint     | the last signed checkpoint, a signed note       | no            |
| <prefix>/tile/<L>/<N>   | hashes; `.p/<W>` behind a partial tile          | for ever      |
| <prefix>/tile/entries/… | entries, each led by its length in two octets   | for ever      |

What is served is covered by the checkpoint that is served.
"""

from __future__ import annotations

from typing import Final

from pkicore.errors import MalformedError
from pkicore.tlog.tiles import WIDTH, Tile, encode_entries
from services.chassis.asgi import Headers, Request, Response, Route
from services.chassis.errors import RouteNotFoundError
from services.chassis.tlog.errors import NoEntryError
from services.chassis.tlog.log import TileLog

_CHECKPOINT: Final = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-cache"))
_TILE: Final = (
    (b"content-type", b"application/octet-stream"),
    (b"cache-control", b"public, max-age=31536000, immutable"),
)


def log_routes(log: TileLog, prefix: str) -> list[Route]:
    """The routes of a log below a prefix, as "/v1/log"."""
    endpoints = _LogEndpoints(log)
    return [
        Route("GET", f"{prefix}/checkpoint", endpoints.checkpoint),
        Route("GET", f"{prefix}/tile/{{path...}}", endpoints.tile),
    ]


class _LogEndpoints:
    def __init__(self, log: TileLog) -> None:
        self._log = log

    async def checkpoint(self, _: Request) -> Response:
        try:
            return Response(200, (await self._log.checkpoint()).note, _headers(_CHECKPOINT))
        except NoEntryError as error:
            raise RouteNotFoundError(str(error)) from error

    async def tile(self, request: Request) -> Response:
        try:
            body = await self._read(Tile.parse(f"tile/{request.params['path']}"))
        except (MalformedError, NoEntryError) as error:
            raise RouteNotFoundError(str(error)) from error
        return Response(200, body, _headers(_TILE))

    async def _read(self, tile: Tile) -> bytes:
        if tile.level is not None:
            return await self._log.tile(tile)
        first = tile.number * WIDTH
        return encode_entries(await self._log.entries(first, first + tile.width))


def _headers(pairs: tuple[tuple[bytes, bytes], ...]) -> Headers:
    return list(pairs)
