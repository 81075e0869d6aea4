"""What both engines promise alike: the same tests run on SQLite and on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import Boolean, Column, MetaData, Table, bindparam, func, insert, select, update

from pkicore.audit import MAX_DETAIL, parse_export, verify_chain
from pkicore.errors import AuditError
from services.chassis.audit import audit_head, export_audit, verify_audit
from services.chassis.database import AuditEvent, Database, Prepared, Unit, Write
from services.chassis.errors import (
    ConflictError,
    ConstraintError,
    DuplicateError,
    InvalidValueError,
    OverloadedError,
    UnavailableError,
)
from tests.support.clock import ManualClock
from tests.support.databases import AUDIT, BOOKS, SHELVES, opened


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
async def database(url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """The database, opened."""
    async with opened(url, clock) as database:
        yield database


def add_shelf(database: Database, number: int, name: str | None = None) -> Write:
    """One more shelf."""
    return Write(database.prepare(insert(SHELVES)), {"id": number, "name": name or f"shelf {number}"}, 1)


def add_book(database: Database, number: int, shelf: int | None = None, state: str = "new") -> Write:
    """One more book."""
    return Write(database.prepare(insert(BOOKS)), {"id": number, "shelf": shelf, "state": state, "cover": None}, 1)


def move(database: Database, number: int, before: str, after: str) -> Write:
    """The conditional update that every state machine here uses."""
    statement = (
        update(BOOKS).where(BOOKS.c.id == bindparam("book"), BOOKS.c.state == before).values(state=bindparam("to"))
    )
    return Write(database.prepare(statement), {"book": number, "to": after}, 1)


async def count(database: Database, table: Table = BOOKS) -> int:
    """How many rows a table has."""
    row = await database.fetch_one(database.prepare(select(func.count().label("n")).select_from(table)))
    assert row is not None
    return int(row["n"])


async def state_of(database: Database, number: int) -> str | None:
    """A book's state, or None where there is no such book."""
    row = await database.fetch_one(database.prepare(select(BOOKS.c.state).where(BOOKS.c.id == number)))
    return None if row is None else str(row["state"])


def event(name: str = "book.added", **detail: object) -> AuditEvent:
    """Something to record."""
    return AuditEvent(name, "tester", detail)


async def test_what_was_committed_is_read_back_with_its_types(database: Database) -> None:
    """Text, numbers up to 64 bits, bytes and NULL come back as they went in."""
    params = {"id": 2**63 - 1, "shelf": None, "state": "grün ✓", "cover": b"\x00\xff"}
    await database.commit(Unit("add", [Write(database.prepare(insert(BOOKS)), params, 1)]))
    row = await database.fetch_one(database.prepare(select(BOOKS)))
    assert row == params


async def test_fetch_one_answers_none_where_nothing_is(database: Database) -> None:
    """An absent row is None, not an error."""
    assert await database.fetch_one(database.prepare(select(BOOKS))) is None


async def test_fetch_all_honours_order_limit_and_membership(database: Database) -> None:
    """Literals, IN lists and LIMIT inside a statement work on both engines."""
    await database.commit(Unit("add", [add_book(database, n, state=("even", "odd")[n % 2]) for n in range(6)]))
    statement = (
        select(BOOKS.c.id)
        .where(BOOKS.c.state.in_(["odd", "none"]), BOOKS.c.id > bindparam("after"))
        .order_by(BOOKS.c.id)
        .limit(2)
    )
    rows = await database.fetch_all(database.prepare(statement), after=1)
    assert [row["id"] for row in rows] == [3, 5]


async def test_a_unit_is_written_whole_or_not_at_all(database: Database) -> None:
    """A unit whose last write fails leaves none of its writes and none of its audit records."""
    with pytest.raises(DuplicateError):
        await database.commit(
            Unit("add", [add_book(database, 1), add_book(database, 2), add_book(database, 1)], [event(book=1)])
        )
    assert await count(database) == 0
    assert await count(database, AUDIT.log) == 0


async def test_a_conditional_write_that_meets_another_state_is_a_conflict(database: Database) -> None:
    """The row count is checked, and the error says which write and how many rows."""
    await database.commit(Unit("add", [add_book(database, 1)]))
    with pytest.raises(ConflictError, match="lend: write 1 changed 0 rows where 1 were expected") as caught:
        await database.commit(Unit("lend", [add_book(database, 2), move(database, 1, "lent", "new")], [event()]))
    assert (caught.value.label, caught.value.write, caught.value.rows) == ("lend", 1, 0)
    assert await state_of(database, 2) is None


async def test_of_concurrent_moves_of_one_row_exactly_one_wins(database: Database) -> None:
    """A conditional update decides a race; the losers hear of a conflict."""
    await database.commit(Unit("add", [add_book(database, 1)]))
    results = await asyncio.gather(
        *(database.commit(Unit("lend", [move(database, 1, "new", "lent")])) for _ in range(20)), return_exceptions=True
    )
    assert results.count(None) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 19


async def test_a_refused_unit_costs_its_neighbours_nothing(database: Database) -> None:
    """In one batch, refused units are undone and all others are durable, with their audit records in order."""
    await database.commit(Unit("add", [add_book(database, 3)]))
    results = await asyncio.gather(
        *(database.commit(Unit("add", [add_book(database, n)], [event(book=n)])) for n in range(8)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if result is not None] == [DuplicateError]
    assert await count(database) == 8
    lines = [line async for line in export_audit(database)]
    assert b'"book":3' not in b"".join(lines)
    assert len(lines) == 7


async def test_foreign_keys_and_not_null_are_constraints(database: Database) -> None:
    """Both engines enforce foreign keys and NOT NULL, and say so with the same error."""
    with pytest.raises(ConstraintError):
        await database.commit(Unit("add", [add_book(database, 1, shelf=99)]))
    params = {"id": 1, "shelf": None, "state": None, "cover": None}
    with pytest.raises(ConstraintError):
        await database.commit(Unit("add", [Write(database.prepare(insert(BOOKS)), params)]))
    assert await count(database) == 0


async def test_a_unique_column_is_a_duplicate(database: Database) -> None:
    """A second row with the same unique value is a duplicate, whatever its key."""
    await database.commit(Unit("add", [add_shelf(database, 1, "a")]))
    with pytest.raises(DuplicateError):
        await database.commit(Unit("add", [add_shelf(database, 2, "a")]))


@pytest.mark.parametrize(
    "value", ["nul \0 inside", "lone surrogate \ud800", 7, b"bytes"], ids=["nul", "surrogate", "number", "bytes"]
)
async def test_a_text_column_refuses_what_is_no_text(database: Database, value: object) -> None:
    """Both engines refuse alike what only one of them could hold."""
    params = {"id": 1, "shelf": None, "state": value, "cover": None}
    with pytest.raises(InvalidValueError):
        await database.commit(Unit("add", [Write(database.prepare(insert(BOOKS)), params)]))
    assert await count(database) == 0


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "1"])
async def test_a_number_column_refuses_what_is_no_64_bit_number(database: Database, value: object) -> None:
    """Numbers beyond 64 bits and texts are refused when written and when looked up."""
    params = {"id": value, "shelf": None, "state": "new", "cover": None}
    with pytest.raises(InvalidValueError):
        await database.commit(Unit("add", [Write(database.prepare(insert(BOOKS)), params)]))
    with pytest.raises(InvalidValueError):
        await database.fetch_one(database.prepare(select(BOOKS).where(BOOKS.c.id == bindparam("book"))), book=value)


async def test_a_hostile_text_is_data(database: Database) -> None:
    """Quotes and statements inside a value change nothing but that value."""
    hostile = "'; DROP TABLE books; --"
    await database.commit(Unit("add", [add_book(database, 1, state=hostile)]))
    assert await state_of(database, 1) == hostile


async def test_a_missing_parameter_is_its_callers_mistake_alone(database: Database) -> None:
    """A unit without a parameter is refused before it joins a batch."""
    broken = database.commit(Unit("add", [Write(database.prepare(insert(BOOKS)), {"id": 1})]))
    results = await asyncio.gather(
        broken, database.commit(Unit("add", [add_book(database, 2)])), return_exceptions=True
    )
    assert isinstance(results[0], KeyError)
    assert results[1] is None


def boolean_column() -> Table:
    """A table that breaks both rules of what is portable."""
    return Table("flags", MetaData(), Column("on", Boolean), Column("n", BOOKS.c.id.type, default=1))


async def test_only_portable_statements_are_prepared(database: Database) -> None:
    """A type that the engines do not share, or a Python-side default, is refused when the statement is first used."""
    flags = boolean_column()
    with pytest.raises(TypeError, match="use TEXT, BIGINT, INTEGER or BLOB"):
        await database.fetch_all(database.prepare(select(flags).where(flags.c.on == bindparam("on"))), on=True)
    insertion = Write(database.prepare(insert(flags).values(on=bindparam("on"))), {"on": True})
    with pytest.raises(TypeError, match="column defaults are not applied"):
        await database.commit(Unit("insert", [insertion]))


async def test_cancelling_a_waiter_neither_undoes_its_unit_nor_disturbs_others(database: Database) -> None:
    """A request that goes away leaves the batch as it was."""
    commits = [asyncio.create_task(database.commit(Unit("add", [add_book(database, n)]))) for n in range(6)]
    await asyncio.sleep(0)
    commits[2].cancel()
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [result for n, result in enumerate(results) if n != 2] == [None] * 5
    assert await count(database) == 6


async def test_a_full_queue_refuses_at_once(database: Database) -> None:
    """Beyond the queue's bound a write is refused, and what had queued is written."""
    small = Database(database._engine, queue=5)
    results = await asyncio.gather(
        *(small.commit(Unit("add", [add_book(database, n)])) for n in range(8)), return_exceptions=True
    )
    assert [type(result) for result in results if result] == [OverloadedError] * 3
    assert await count(database) == 5
    await small._writer.close()


async def test_closing_writes_what_is_waiting(url: str, clock: ManualClock) -> None:
    """A unit that was queued before the close is durable after it; a later one is refused."""
    database = await Database.open(url, clock=clock)
    commits = [asyncio.create_task(database.commit(Unit("add", [add_book(database, n)]))) for n in range(50)]
    await asyncio.sleep(0)
    unit = Unit("late", [add_book(database, 99)])
    await database.close()
    await asyncio.gather(*commits)
    with pytest.raises(UnavailableError, match="closed"):
        await database.commit(unit)
    async with opened(url, clock) as again:
        assert await count(again) == 50


async def test_the_observer_sees_each_durable_unit_before_and_after(url: str, clock: ManualClock) -> None:
    """Crash tests hang on these two calls; a refused unit is not among them."""
    calls: list[tuple[str, str]] = []

    def observe(moment: str, label: str) -> None:
        calls.append((moment, label))

    async with opened(url, clock, observe) as database:
        await database.commit(Unit("one", [add_book(database, 1)]))
        with pytest.raises(DuplicateError):
            await database.commit(Unit("two", [add_book(database, 1)]))
    assert calls == [("before", "one"), ("after", "one")]


async def test_a_scan_streams_every_row_of_one_snapshot(database: Database) -> None:
    """Rows that appear while a scan is under way are not in it."""
    for start in range(0, 1200, 300):
        await database.commit(Unit("add", [add_book(database, n) for n in range(start, start + 300)]))
    seen = 0
    async for _ in database.scan(database.prepare(select(BOOKS).order_by(BOOKS.c.id))):
        seen += 1
        if seen == 10:
            await database.commit(Unit("add", [add_book(database, 5000)]))
    assert seen == 1200
    assert await count(database) == 1201


async def test_a_scan_that_is_left_early_gives_its_connection_back(database: Database) -> None:
    """Twenty abandoned scans, more than there are readers, leave the database readable and writable."""
    await database.commit(Unit("add", [add_book(database, n) for n in range(30)]))
    query = database.prepare(select(BOOKS))
    for _ in range(20):
        scan = database.scan(query)
        await anext(scan)
        await scan.aclose()
    await database.commit(Unit("add", [add_book(database, 99)]))
    assert await count(database) == 31


async def test_audit_records_are_chained_and_verify(database: Database, clock: ManualClock) -> None:
    """Records of many units and seconds make one chain that verifies from the database and from its export."""
    for n in range(4):
        clock.advance(timedelta(seconds=1))
        await asyncio.gather(
            *(
                database.commit(Unit("add", [add_book(database, 10 * n + i)], [event(book=i), event("book.seen")]))
                for i in range(3)
            )
        )
    head = await verify_audit(database, (), None)
    assert head.sequence == 24
    exported = [line async for line in export_audit(database)]
    assert verify_chain(parse_export(exported)) == head  # type: ignore[arg-type] # no line is unfinished here
    assert head == await audit_head(database)


async def test_two_processes_write_one_chain(url: str, clock: ManualClock) -> None:
    """Two writers on one database take turns at the head: no fork, no gap, not even for the first record."""
    async with opened(url, clock) as one, opened(url, clock) as two:
        await asyncio.gather(
            *(
                database.commit(Unit("add", [add_book(database, 2 * n + side)], [event(book=n)]))
                for n in range(30)
                for side, database in enumerate((one, two))
            )
        )
        assert (await verify_audit(one, (), None)).sequence == 60


@pytest.mark.parametrize(
    "bad",
    [
        event(value=object()),
        event(value=2**70),
        event(text="\ud800"),
        AuditEvent("a\0b", "x"),
        AuditEvent("a", "x\0"),
        event(text="x" * MAX_DETAIL),
    ],
    ids=["object", "huge", "surrogate", "event-nul", "actor-nul", "too-long"],
)
async def test_what_cannot_be_recorded_does_not_happen(database: Database, bad: AuditEvent) -> None:
    """Where an audit record cannot be written, nothing of its unit is."""
    with pytest.raises(InvalidValueError):
        await database.commit(Unit("add", [add_book(database, 1)], [bad]))
    assert await count(database) == 0


async def test_an_audit_log_that_was_tampered_with_stops_writing(database: Database) -> None:
    """A head that was set back makes the next record collide: the act does not happen, and the caller hears it."""
    await database.commit(Unit("add", [add_book(database, 1)], [event()]))
    await database.commit(Unit("forge", [Write(_set_head(database), {"to": 0}, 1)]))
    with pytest.raises(UnavailableError, match="audit log refuses"):
        await database.commit(Unit("add", [add_book(database, 2)], [event()]))
    assert await state_of(database, 2) is None
    await database.commit(Unit("add", [add_book(database, 3)]))
    assert await state_of(database, 3) == "new"


def _set_head(database: Database) -> Prepared:
    return database.prepare(update(AUDIT.head).values(sequence=bindparam("to")))


async def test_a_changed_or_deleted_record_is_named(database: Database) -> None:
    """Verification names the first bad record, and notices a cut tail by the head."""
    await database.commit(Unit("add", [], [event(n=n) for n in range(5)]))
    forge = database.prepare(update(AUDIT.log).where(AUDIT.log.c.sequence == 3).values(actor=bindparam("to")))
    await database.commit(Unit("forge", [Write(forge, {"to": "somebody else"}, 1)]))
    with pytest.raises(AuditError, match="record 3 was changed") as caught:
        await verify_audit(database, (), None)
    assert caught.value.sequence == 3
    await database.commit(Unit("forge", [Write(forge, {"to": "tester"}, 1)]))
    cut = database.prepare(AUDIT.log.delete().where(AUDIT.log.c.sequence == bindparam("last")))
    await database.commit(Unit("forge", [Write(cut, {"last": 5}, 1)]))
    with pytest.raises(AuditError, match="record 5 is missing") as caught:
        await verify_audit(database, (), None)
    assert caught.value.sequence == 5


async def test_many_producers_lose_and_invent_nothing(database: Database) -> None:
    """Under 32 producers every acknowledged unit is there, exactly once, with its record."""

    async def produce(producer: int) -> None:
        for n in range(25):
            await database.commit(Unit("add", [add_book(database, 1000 * producer + n)], [event(p=producer, n=n)]))

    await asyncio.gather(*(produce(producer) for producer in range(32)))
    assert await count(database) == 800
    assert (await verify_audit(database, (), None)).sequence == 800
