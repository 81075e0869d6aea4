"""Transparency logs in a database of their own: a schema, a key in memory, and large ones filled in bulk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from pkicore.clock import Clock
from pkicore.keys import SigningKey
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.tiles import Tile
from services.chassis.database import CommitObserver, Database, audit_tables
from services.chassis.tlog import TileLog, tlog_tables
from services.chassis.tlog.store import LogStore

ORIGIN = "log.example/one"
METADATA = MetaData()
TABLES = tlog_tables(METADATA, "one")
OTHER_TABLES = tlog_tables(METADATA, "other")
audit_tables(METADATA)
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_CHUNK = 16_384


async def create_log_schema(url: str) -> None:
    """Make the tables, empty."""
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(f"{_DRIVERS[scheme]}:{rest}")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    await engine.dispose()


@asynccontextmanager
async def opened_log(
    url: str,
    key: SigningKey,
    clock: Clock,
    *,
    observer: CommitObserver | None = None,
    origin: str = ORIGIN,
    kept: Path | None = None,
) -> AsyncIterator[TileLog]:
    """The log behind a URL, as one process opens it, closed at the end; `kept`: file of its last checkpoint."""
    database = await Database.open(url, clock=clock, commit_observer=observer)
    try:
        log = await TileLog.open(database, TABLES, key=key, origin=origin, kept=kept)
        try:
            yield log
        finally:
            await log.close()
    finally:
        await database.close()


def entry_of(index: int) -> bytes:
    """The entry that a filled log has at an index."""
    return b"entry %d" % index


async def fill_log(database: Database, size: int) -> Frontier:
    """Fill an empty log with so many entries, in large commits; the checkpoint is left to whoever opens it."""
    store, tree = LogStore(database, TABLES), Frontier.empty()
    await store.begin()
    for first in range(0, size, _CHUNK):
        entries = [entry_of(index) for index in range(first, min(first + _CHUNK, size))]
        tiles: dict[Tile, bytes]
        grown, tiles = tree.append([leaf_hash(entry) for entry in entries])
        await store.grow(tree.size, entries, tiles)
        tree = grown
    return tree
