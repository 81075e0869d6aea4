"""A small schema with the audit tables, and databases of either engine that hold it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import BigInteger, Column, ForeignKey, LargeBinary, MetaData, Table, Text
from sqlalchemy.ext.asyncio import create_async_engine

from pkicore.clock import Clock
from services.chassis.database import CommitObserver, Database, audit_tables

METADATA = MetaData()
SHELVES = Table(
    "shelves",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)
BOOKS = Table(
    "books",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("shelf", BigInteger, ForeignKey("shelves.id")),
    Column("state", Text, nullable=False),
    Column("cover", LargeBinary),
)
AUDIT = audit_tables(METADATA)


async def create_schema(url: str) -> None:
    """Makes the tables, empty."""
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    scheme, _, rest = url.partition(":")
    engine = create_async_engine(f"{driver[scheme]}:{rest}")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    await engine.dispose()


@asynccontextmanager
async def opened(url: str, clock: Clock, observer: CommitObserver | None = None) -> AsyncIterator[Database]:
    """The database behind a URL, closed at the end."""
    database = await Database.open(url, clock=clock, commit_observer=observer)
    try:
        yield database
    finally:
        await database.close()
