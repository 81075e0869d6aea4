"""Searches of the ledger on both engines: what is found, in which pages, and what is read for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from pkicore.clock import from_unix
from pkicore.errors import MalformedError
from services.ca.app import MIGRATIONS
from services.ca.ledger.query import CANDIDATES, KEYS, LedgerQuery, Way, format_cursor
from services.ca.ledger.store.search import LedgerSearch, page_statement, page_values
from services.ca.ledger.wire import LedgerEntry
from services.ca.schema import revocations
from services.chassis.database import Database, Unit, Write
from tests.support.clock import ManualClock
from tests.support.ledger_rows import DAY, NOW, Row, add_rows, rows_of
from tests.support.migrated import migrated
from tests.support.query_plans import assert_indexed, plan_of


@dataclass
class Ledger:
    """A ledger to search."""

    url: str
    database: Database
    search: LedgerSearch

    async def find(self, **filters: Any) -> list[LedgerEntry]:  # noqa: ANN401 -- query parameters
        """Every row that meets the filters, page by page."""
        found: list[LedgerEntry] = []
        cursor = None
        while True:
            given = filters if cursor is None else filters | {"cursor": cursor}
            page = await self.search.page(LedgerQuery.parse(urlencode(given).encode()), NOW)
            assert len(page.certificates) <= int(filters.get("limit", 100))
            found += page.certificates
            if page.next is None:
                return found
            cursor = page.next

    async def serials(self, **filters: Any) -> list[str]:  # noqa: ANN401 -- query parameters
        """Their serials."""
        return [entry.serial for entry in await self.find(**filters)]

    async def revoke(self, serial: str, sequence: int, reason: str = "superseded") -> None:
        """A row of the feed, as a revocation or a released hold leaves it."""
        write = self.database.prepare(
            sa.insert(revocations).values({c.name: sa.bindparam(c.name) for c in revocations.c})
        )
        values = {"serial": serial, "sequence": sequence, "reason": reason, "revoked_at": NOW - 5, "entry": b"\x30"}
        values |= {
            "issuer": "issuing-ecdsa",
            "not_after": NOW + 90 * DAY,
            "shard": 0,
            "revoked_by": "spiffe://pki.test/o/a",
        }
        await self.database.commit(Unit("revoked", [Write(write, values, 1)]))


@pytest.fixture
async def ledger(empty_url: str) -> AsyncIterator[Ledger]:
    """An empty one."""
    await migrated(empty_url, MIGRATIONS)
    database = await Database.open(empty_url, clock=ManualClock(from_unix(NOW)))
    yield Ledger(empty_url, database, LedgerSearch(database))
    await database.close()


def dns(*names: str) -> list[tuple[str, str]]:
    """DNS names as a row has them."""
    return [("dns", name) for name in names]


ROWS = [
    Row(dns("example.org", "www.example.org"), account="https://acme/acct/1", recorded_at=NOW - 10),
    Row(dns("*.example.org"), account="https://acme/acct/2", key=b"two", recorded_at=NOW - 9),
    Row(dns("example.org.attacker.test"), recorded_at=NOW - 8, not_after=NOW - 1),
    Row(
        [("uri", "spiffe://pki.test/workload/a"), ("common_name", "Printer 7%")], profile="client", recorded_at=NOW - 7
    ),
    Row([("uri", "spiffe://pki.test/workload/a/b")], profile="client", issuer="issuing-mldsa", recorded_at=NOW - 6),
    Row([("uri", "spiffe://pki.test/workloads")], profile="client", algorithm="ml-dsa-65", recorded_at=NOW - 5),
    Row([("ip", "2001:db8::1"), ("email", "a@example.org")], recorded_at=NOW - 4, not_after=NOW + DAY),
    Row(dns("pending.test"), recorded_at=NOW - 3, signed=False),
    Row(dns("revoked.test"), recorded_at=NOW - 2),
    Row(dns("held.test"), recorded_at=NOW - 1),
]


@pytest.fixture
async def filled(ledger: Ledger) -> tuple[Ledger, list[str]]:
    """A ledger with ROWS, of which one is revoked, and one was held and released."""
    serials = await add_rows(ledger.database, ROWS)
    await ledger.revoke(serials[8], 1)
    await ledger.revoke(serials[9], 2, "removeFromCRL")
    return ledger, serials


async def test_every_filter_finds_its_rows(filled: tuple[Ledger, list[str]]) -> None:
    """Each filter alone, and each with another, finds what it says in the order that it says."""
    ledger, serials = filled
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"name": "example.org"}, [0]),
        ({"name": "WWW.example.org"}, [0]),
        ({"name": "*.example.org"}, [1, 0]),
        ({"name": "*.org"}, [0, 1]),
        ({"name": "spiffe://pki.test/workload/*"}, [3, 4]),
        ({"name": "spiffe://pki.test/workload/a"}, [3]),
        ({"name": "2001:DB8::1"}, [6]),
        ({"name": "*@example.org"}, [6]),
        ({"common_name": "Printer 7%"}, [3]),
        ({"common_name": "Printer 7_"}, []),
        ({"account": "https://acme/acct/1"}, [0]),
        ({"key": await _key_of(ledger, serials[1])}, [1]),
        ({"serial": serials[4].upper()}, [4]),
        ({"issuer": "issuing-mldsa"}, [4]),
        ({"profile": "client"}, [5, 4, 3]),
        ({"status": "revoked"}, [8]),
        ({"status": "pending"}, [7]),
        ({"status": "expired"}, [2]),
        ({"ends_before": NOW}, [2]),
        ({"ends_after": NOW, "ends_before": NOW + DAY + 1}, [6]),
        ({"profile": "client", "issuer": "issuing-mldsa"}, [4]),
        ({"name": "*.example.org", "account": "https://acme/acct/2"}, [1]),
        ({"name": "*.example.org", "serial": serials[1]}, [1]),
        ({"name": "*.example.org", "serial": serials[2]}, []),
        ({"name": "spiffe://pki.test/workload/*", "common_name": "Printer 7%"}, [3]),
        ({"status": "good", "profile": "client"}, sorted([3, 4, 5], key=lambda row: serials[row])),
        ({"profile": "no-such-profile"}, []),
    ]
    for filters, rows in expected:
        found = await ledger.serials(**filters)
        assert found == [serials[row] for row in rows], filters


async def _key_of(ledger: Ledger, serial: str) -> str:
    (entry,) = await ledger.find(serial=serial)
    return entry.key_hash


async def test_a_released_hold_is_good_again(filled: tuple[Ledger, list[str]]) -> None:
    """A certificate whose hold was released is good, and shows nothing of the revocation."""
    ledger, serials = filled
    (released,) = await ledger.find(serial=serials[9])
    (revoked,) = await ledger.find(serial=serials[8])
    assert (released.status, released.reason, released.revoked_at) == ("good", None, None)
    assert (revoked.status, revoked.reason, revoked.revoked_by) == ("revoked", "superseded", "spiffe://pki.test/o/a")


@pytest.mark.parametrize(
    "filters", [{}, {"name": "*.many.test"}, {"profile": "server"}, {"ends_after": NOW}, {"account": "a"}]
)
async def test_pages_have_every_row_once(ledger: Ledger, filters: dict[str, Any]) -> None:
    """Pages of seven, over rows of the same second, miss none and repeat none, and keep the order of one large page."""
    rows = [Row(dns(f"h{number % 9}.many.test", f"x{number}.many.test"), account="a") for number in range(60)]
    await add_rows(ledger.database, rows)
    found = await ledger.serials(**filters, limit=7)
    assert len(set(found)) == len(found) == len(rows)
    assert found == await ledger.serials(**filters, limit=1000)


async def test_a_page_looks_at_a_bounded_number_of_rows(ledger: Ledger) -> None:
    """Where the other filters leave out nearly all, pages end early, and the cursor goes on to the rest."""
    rows = rows_of(CANDIDATES + 150, Row(profile="client"), recorded_at=1)
    rows[0] = Row(dns("needle.test"), profile="client", issuer="issuing-mldsa")
    serials = await add_rows(ledger.database, rows)
    query = LedgerQuery.parse(b"profile=client&issuer=issuing-mldsa")
    page = await ledger.search.page(query, NOW)
    assert page.certificates == ()
    assert page.next is not None
    last = await ledger.search.page(query.following(page.next), NOW)
    assert [entry.serial for entry in last.certificates] == [serials[0]]
    assert last.next is None


QUERIES: dict[Way, str] = {
    "serial": "serial=0a",
    "name": "name=example.org",
    "below": "name=*.example.org",
    "key": "key=" + "00" * 32,
    "account": "account=a",
    "ends": f"ends_after={NOW}",
    "revoked": "status=revoked",
    "pending": "status=pending",
    "profile": "profile=server",
    "issuer": "issuer=issuing-ecdsa",
    "recorded": "",
}
AFTER: dict[type, Any] = {int: NOW, str: "ab", bytes: b"org.example"}


@pytest.mark.parametrize("way", KEYS)
async def test_a_search_reads_one_index(ledger: Ledger, way: Way) -> None:
    """Every way, on its first page and on the next, is led by its index, without a scan of a table or a sort of it."""
    await add_rows(ledger.database, rows_of(300, Row(dns("a.test")), recorded_at=1))
    query = LedgerQuery.parse(QUERIES[way].encode())
    assert query.way == way
    cursor = format_cursor(way, tuple(AFTER[kind] for kind in KEYS[way]))
    for asked in (query, query.following(cursor)):
        statement = ledger.database.prepare(page_statement(way, follows=asked.after is not None))
        values = page_values(asked, NOW, asked.after) | {"candidates": 9, "most": 9}
        plan = await plan_of(ledger.url, statement, statement.bind(values))
        assert_indexed(plan)


@pytest.mark.parametrize(
    "query",
    [
        "name=%25",
        "name=a'%20OR%201=1",
        "name=a&name=b",
        "name=",
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=1e3",
        "limit=99999999999999999999999",
        "status=alive",
        "key=00",
        "key=zz",
        "serial=0",
        "serial=x",
        "ends_after=tomorrow",
        "colour=blue",
        "account=%00",
        "profile=a%0bb",
        "name=%ff%fe",
        "cursor=AAAA",
        "cursor=%E2%82%AC",
        "&&&&",
        "name",
    ],
)
def test_what_makes_no_sense_is_refused(query: str) -> None:
    """A parameter that is unknown, twice there, empty, out of bounds or no value of its kind never becomes a search."""
    with pytest.raises(MalformedError):
        LedgerQuery.parse(query.encode())


@pytest.mark.parametrize(
    "cursor",
    [
        format_cursor("name", (NOW, "ab")),
        format_cursor("recorded", (NOW,)),
        format_cursor("recorded", (NOW, "zz")),
        format_cursor("recorded", (-1, "ab")),
        format_cursor("recorded", (2**62, "ab")),
        format_cursor("recorded", ("ab", NOW)),
        format_cursor("recorded", (True, "ab")),
        "e30",
        "W10",
        "bnVsbA",
        "A" * 9000,
    ],
)
def test_a_cursor_that_was_made_up_is_refused(cursor: str) -> None:
    """A cursor of another query, of other values or of none at all is a mistake of the caller, not of ours."""
    with pytest.raises(MalformedError):
        LedgerQuery.parse(urlencode({"cursor": cursor}).encode())


async def test_a_cursor_shows_nothing_that_the_query_does_not(filled: tuple[Ledger, list[str]]) -> None:
    """A cursor that points outside of its query's range yields rows of the query only."""
    ledger, serials = filled
    query = LedgerQuery.parse(b"name=*.example.org")
    outside = query.following(format_cursor("below", (b"", 0, "1")))
    page = await ledger.search.page(outside, NOW)
    assert {entry.serial for entry in page.certificates} == {serials[0], serials[1]}
