"""What SQLite's engine does by itself: where it waits for the disk, and what one refused unit costs its neighbours."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import insert

from services.chassis.database import Database, Unit, Write
from services.chassis.errors import DuplicateError
from tests.support.clock import ManualClock
from tests.support.databases import SHELVES, create_schema, opened


@pytest.fixture
async def url(tmp_path: Path) -> str:
    """Of a database with the tables."""
    made = f"sqlite:///{tmp_path / 'db'}"
    await create_schema(made)
    return made


def shelf(database: Database, number: int) -> Unit:
    """One more shelf; of each number there is one."""
    write = Write(database.prepare(insert(SHELVES)), {"id": number, "name": f"shelf {number}"}, 1)
    return Unit(f"shelf {number}", [write])


async def test_the_event_loop_does_not_wait_for_a_slow_disk(url: str) -> None:
    """After some commits that took long, the next ones are a thread's, until the disk is tried again."""
    threads: list[int] = []

    def slow_disk(moment: str, _label: str) -> None:
        if moment == "before":
            threads.append(threading.get_ident())
            time.sleep(0.004)

    async with opened(url, ManualClock(), slow_disk) as database:
        for number in range(20):
            await database.commit(shelf(database, number))
    assert threads[0] == threading.get_ident()
    assert threads[-1] != threading.get_ident()
    assert len(set(threads)) == 2


async def test_a_refused_unit_costs_its_neighbours_nothing_but_time(url: str) -> None:
    """The batch is undone and run again; each unit is written once, and its commit seen once."""
    committed: list[str] = []

    def observer(moment: str, label: str) -> None:
        if moment == "after":
            committed.append(label)

    async with opened(url, ManualClock(), observer) as database:
        numbers = (1, 2, 2, 3)
        outcomes = await asyncio.gather(
            *(database.commit(shelf(database, number)) for number in numbers), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), DuplicateError, type(None)]
    assert committed == ["shelf 1", "shelf 2", "shelf 3"]
