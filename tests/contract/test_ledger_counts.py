"""Counts and refusals of the ledger on both engines, and what is read for them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from pkicore.clock import from_unix
from services.ca.app import MIGRATIONS
from services.ca.ledger.refusals import first_id
from services.ca.ledger.store.counts import CountStore, Ending, Live, ending_statement, live_statement
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.store.standing import Standing, StandingStore
from services.ca.ledger.wire import RefusalEntry
from services.ca.schema import revocations
from services.chassis.database import Database, Unit, Write
from tests.support.clock import ManualClock
from tests.support.ledger_rows import DAY, NOW, Row, add_rows
from tests.support.migrated import migrated
from tests.support.query_plans import assert_indexed, plan_of


@pytest.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    """A CA's database."""
    await migrated(empty_url, MIGRATIONS)
    opened = await Database.open(empty_url, clock=ManualClock(from_unix(NOW)))
    yield opened
    await opened.close()


async def revoke(database: Database, serial: str, sequence: int, reason: str) -> None:
    """A row of the feed."""
    write = database.prepare(sa.insert(revocations).values({c.name: sa.bindparam(c.name) for c in revocations.c}))
    values = {"serial": serial, "sequence": sequence, "reason": reason, "revoked_at": NOW, "entry": b"\x30"}
    values |= {"issuer": "issuing-ecdsa", "not_after": NOW + DAY, "shard": 0, "revoked_by": ""}
    await database.commit(Unit("revoked", [Write(write, values, 1)]))


async def test_live_certificates_are_counted(database: Database) -> None:
    """What is expired, revoked or not signed does not count; a released hold does."""
    rows = [
        Row(not_after=NOW - 1),
        Row(not_after=NOW),
        Row(not_after=NOW + DAY - 1),
        Row(not_after=NOW + DAY, recorded_at=NOW - 50),
        Row(not_after=NOW + 5, signed=False),
        Row(not_after=NOW + 6),
        Row(not_after=NOW + 7),
        Row(not_after=NOW + 9 * DAY, profile="client", algorithm="ml-dsa-65", recorded_at=NOW - 7),
    ]
    serials = await add_rows(database, rows)
    await revoke(database, serials[5], 1, "keyCompromise")
    await revoke(database, serials[6], 2, "removeFromCRL")
    store = CountStore(database, 2)
    assert await store.ending(NOW, [NOW + DAY, NOW + 7 * DAY]) == [Ending("server", "issuing-ecdsa", (3, 4), NOW)]
    assert await store.live(NOW) == [Live("ecdsa-p256", "server", 4, NOW - 50), Live("ml-dsa-65", "client", 1, NOW - 7)]


@pytest.mark.parametrize("what", ["ending", "live"])
async def test_a_count_reads_indexes(database: Database, empty_url: str, what: str) -> None:
    """Neither count reads a table whole."""
    await add_rows(database, [Row()] * 100)
    statement = database.prepare(ending_statement(1) if what == "ending" else live_statement())
    assert_indexed(await plan_of(empty_url, statement, statement.bind({"now": NOW, "before_0": NOW + DAY})))


async def test_what_stands_below_an_issuer_is_told_by_profile(database: Database) -> None:
    """How many are in force, and when the last one ends; what is recorded counts, since it may be signed."""
    rows = [
        Row(not_after=NOW - 1),
        Row(not_after=NOW),
        Row(not_after=NOW + DAY, signed=False),
        Row(not_after=NOW + 9 * DAY),
        Row(not_after=NOW + 8 * DAY),
        Row(not_after=NOW + 5, profile="client"),
        Row(not_after=NOW + 6, issuer="issuing-other"),
    ]
    serials = await add_rows(database, rows)
    await revoke(database, serials[3], 1, "superseded")
    await revoke(database, serials[4], 2, "removeFromCRL")
    server = Standing("issuing-ecdsa", "server", 3, NOW + 8 * DAY)
    expected = [Standing("issuing-ecdsa", "client", 1, NOW + 5), server]
    assert await StandingStore(database).below(["issuing-ecdsa", "issuing-none"], NOW) == expected


def refusal(at: int, number: int) -> RefusalEntry:
    """A refusal of a second."""
    return RefusalEntry(
        f"{first_id(at)}{number:016x}", at, "spiffe://pki.test/a", "", "server", ["a'%"], "names", "2", "no"
    )


async def test_refusals_are_kept_for_a_time_and_up_to_a_number(database: Database) -> None:
    """The oldest go first, whether they are too old or too many; the newest stay, newest first."""
    store = RefusalStore(database)
    rows = [refusal(NOW + number, number) for number in range(8)]
    for row in rows:
        await store.add(row)
    assert await store.page("g", 0, 100) == rows[::-1]
    assert await store.page("g", NOW + 6, 100) == rows[:5:-1]
    assert await store.page(rows[3].id, 0, 2) == [rows[2], rows[1]]
    await store.forget(first_id(NOW + 2), 100)
    assert await store.page("g", 0, 100) == rows[:1:-1]
    await store.forget(first_id(0), 3)
    assert await store.page("g", 0, 100) == rows[:4:-1]
    await store.forget(first_id(NOW + 99), 3)
    assert await store.page("g", 0, 100) == []
