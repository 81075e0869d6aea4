"""What processes on one PostgreSQL need of each other; each `Database` here stands for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert

from services.chassis.database import Database
from services.chassis.database.shared import SharedDatabase
from services.chassis.errors import UnavailableError
from tests.support.clock import ManualClock
from tests.support.databases import SHELVES, create_schema, opened
from tests.support.postgres import PostgresServer

CLAIM = insert(SHELVES).values(id=bindparam("id"), name=bindparam("name")).on_conflict_do_nothing()


@pytest.fixture
async def pair(postgres: PostgresServer | None) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes on one database."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    await create_schema(postgres.url())
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(opened(postgres.url(), ManualClock())) for _ in range(2)]
        yield one, other


async def test_of_all_who_claim_one_gets_it(pair: tuple[Database, Database]) -> None:
    """Of many claims for one key at once, in two processes, exactly one is granted; and none after that."""
    claims = []
    for database in pair:
        assert database.shared is not None
        prepared = database.prepare(CLAIM)
        claims += [database.shared.claim(prepared, id=1, name="shelf") for _ in range(20)]
    assert sorted(await asyncio.gather(*claims)) == [False] * 39 + [True]
    assert pair[0].shared is not None
    assert await pair[0].shared.claim(pair[0].prepare(CLAIM), id=2, name="other")


async def test_a_lease_is_one_processes_at_a_time(pair: tuple[Database, Database]) -> None:
    """While one process has a lease, no other gets it, but others of other names; it ends with its context."""
    one, other = pair[0].shared, pair[1].shared
    assert one is not None
    assert other is not None
    async with one.lease("clean-up") as held, other.lease("clean-up") as second, other.lease("another") as third:
        assert (held, second, third) == (True, False, True)
    with pytest.raises(ValueError, match="the work's own"):
        await _failing(other)
    async with one.lease("clean-up") as held:
        assert held


async def _failing(shared: SharedDatabase) -> None:
    async with shared.lease("clean-up") as held:
        assert held
        raise ValueError("the work's own error")


async def test_a_dead_process_holds_no_lease(pair: tuple[Database, Database]) -> None:
    """A lease ends with the connections of its holder, without its doing."""
    one, other = pair[0].shared, pair[1].shared
    assert one is not None
    assert other is not None
    async with one.lease("clean-up") as held:
        assert held
        one.terminate()
        async with asyncio.timeout(10):
            while True:
                async with other.lease("clean-up") as taken:
                    if taken:
                        break
                await asyncio.sleep(0.01)


async def test_a_database_that_is_away(postgres: PostgresServer | None) -> None:
    """Claims and leases say that the database does not answer, and say no more than that."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    await create_schema(postgres.url())
    async with opened(postgres.url(), ManualClock()) as database:
        assert database.shared is not None
        prepared = database.prepare(CLAIM)
        database.shared.terminate()
        with pytest.raises(UnavailableError):
            await database.shared.claim(prepared, id=1, name="shelf")
        with pytest.raises(UnavailableError):
            async with database.shared.lease("clean-up"):
                pytest.fail("nobody has it")
