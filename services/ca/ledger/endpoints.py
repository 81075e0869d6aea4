"""The operators' window on the ledger: reads only, in pages, behind the caller policy.

| endpoint                             | what                                                                        |
|--------------------------------------|-----------------------------------------------------------------------------|
| GET /v1/ledger/certificates          | search (`services.ca.ledger.query` has the parameters); a page and its cursor |
| GET /v1/ledger/certificates/{serial} | one issuance, with its certificate                                          |
| GET /v1/ledger/refusals              | what was refused, the newest first; `since`, `limit`, `cursor`              |
| GET /v1/ledger/inventory             | issuing CAs and live certificates by algorithm                              |
"""

from typing import Final

from pkicore.clock import Clock, unix
from pkicore.errors import MalformedError
from services.ca.errors import UnknownCertificateError
from services.ca.ledger.inventory import Inventories
from services.ca.ledger.query import LedgerQuery, optional_number, page_limit, parameters
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.store.search import LedgerSearch
from services.ca.ledger.wire import RefusalPage
from services.ca.wire import format_serial, parse_serial
from services.chassis.asgi import Request, Response, Route

_JSON: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_REFUSALS: Final = frozenset({"since", "limit", "cursor"})
_ID: Final = 26  # characters: ten of the time, sixteen of chance
_AFTER_ALL: Final = "g"  # greater than hex digits


class LedgerEndpoints:
    """The handlers."""

    def __init__(self, search: LedgerSearch, refusals: RefusalStore, inventories: Inventories, clock: Clock) -> None:
        self._search = search
        self._refusals = refusals
        self._inventories = inventories
        self._clock = clock

    def routes(self) -> list[Route]:
        """What the mTLS listener answers."""
        return [
            Route("GET", "/v1/ledger/certificates", self.certificates),
            Route("GET", "/v1/ledger/certificates/{serial}", self.certificate),
            Route("GET", "/v1/ledger/refusals", self.refusals),
            Route("GET", "/v1/ledger/inventory", self.inventory),
        ]

    async def certificates(self, request: Request) -> Response:
        """A page of a search."""
        page = await self._search.page(LedgerQuery.parse(_query(request)), unix(self._clock.now()))
        return Response(200, page.to_json(), [*_JSON])

    async def certificate(self, request: Request) -> Response:
        """One issuance."""
        serial = format_serial(parse_serial(request.params["serial"]))
        entry = await self._search.entry(serial, unix(self._clock.now()))
        if entry is None:
            raise UnknownCertificateError("this CA never used that serial")
        return Response(200, entry.to_json(), [*_JSON])

    async def refusals(self, request: Request) -> Response:
        """A page of refusals."""
        given = parameters(_query(request), _REFUSALS)
        most, before = page_limit(given), given.get("cursor", _AFTER_ALL)
        if before != _AFTER_ALL and (len(before) != _ID or not set(before) <= set("0123456789abcdef")):
            raise MalformedError("cursor is none that this server gave")
        rows = await self._refusals.page(before, optional_number(given, "since") or 0, most)
        page = RefusalPage(tuple(rows), rows[-1].id if len(rows) == most else None)
        return Response(200, page.to_json(), [*_JSON])

    async def inventory(self, _request: Request) -> Response:
        """What is certified, by algorithm."""
        return Response(200, (await self._inventories.take()).to_json(), [*_JSON])


def _query(request: Request) -> bytes:
    query: bytes = request.scope.get("query_string", b"")
    return query
