"""What anybody may read of the log, besides its checkpoint and tiles (`services.chassis.tlog.read`).

| endpoint                                 | what                                                              |
|------------------------------------------|-------------------------------------------------------------------|
| GET /v1/log/entries/{index}              | a TransparencyLogEntry, proved by the newest checkpoint           |
| GET /v1/log/consistency?first=M&second=N | that the tree of N entries continues the one of M (RFC 9162 §2.1.4) |
"""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import parse_qs

from pkicore.errors import MalformedError
from services.chassis.asgi import Request, Response, Route, json_response
from services.chassis.errors import RouteNotFoundError
from services.chassis.tlog import NoEntryError, log_routes
from services.signing.log.writer import SigningLog

PREFIX: Final = "/v1/log"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_NO_CACHE: Final = ((b"cache-control", b"no-cache"),)  # a later checkpoint proves it anew


def signing_log_routes(log: SigningLog) -> list[Route]:
    """Every route of the log; all of them are public."""
    endpoints = _Endpoints(log)
    return [
        *log_routes(log.tiles, PREFIX),
        Route("GET", f"{PREFIX}/entries/{{index}}", endpoints.entry),
        Route("GET", f"{PREFIX}/consistency", endpoints.consistency),
    ]


class _Endpoints:
    def __init__(self, log: SigningLog) -> None:
        self._log = log

    async def entry(self, request: Request) -> Response:
        try:
            entry = await self._log.entry(_number(request.params["index"]))
        except (MalformedError, NoEntryError) as error:
            raise RouteNotFoundError(str(error)) from error
        return json_response(entry.members(), headers=_NO_CACHE)

    async def consistency(self, request: Request) -> Response:
        first, second = _sizes(request.scope.get("query_string", b""))
        try:
            hashes = await self._log.tiles.consistency(first, second)
        except NoEntryError as error:
            raise RouteNotFoundError(str(error)) from error
        encoded = [base64.b64encode(item).decode() for item in hashes]
        return json_response({"first": first, "second": second, "hashes": encoded})


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MalformedError("an index or size of a log is a whole number")
    return int(text)


def _sizes(query: bytes) -> tuple[int, int]:
    try:
        fields = parse_qs(query.decode("latin-1"), max_num_fields=2)
    except ValueError as error:
        raise MalformedError("too many query parameters: there are first=M and second=N") from error
    if {name: len(values) for name, values in fields.items()} != {"first": 1, "second": 1}:
        raise MalformedError("a consistency proof is asked for with first=M and second=N")
    return _number(fields["first"][0]), _number(fields["second"][0])
