"""The one way to a service's database, SQLite or PostgreSQL by URL.

Statements are SQLAlchemy Core, compiled once with `Database.prepare`. Everything that is written goes through
`Database.commit` as a `Unit`: whole or not at all, its audit records with it, several units in one durable transaction.
Nothing is read and then written on the strength of what was read: a conditional write says how many rows it `expect`s.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
from sqlalchemy import URL, make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import ArgumentError

from pkicore.clock import Clock
from services.chassis.database.journal import AuditTables, audit_tables
from services.chassis.database.sqlite import SqliteEngine
from services.chassis.database.statement import (
    AuditEvent,
    BoundUnit,
    Prepared,
    Row,
    Statement,
    Unit,
    Write,
    bind_unit,
)
from services.chassis.database.writer import CommitObserver, GroupCommit, Outcome
from services.chassis.errors import SettingsError
from services.chassis.tracing import step

if TYPE_CHECKING:
    from services.chassis.database.shared import SharedDatabase  # needs asyncpg, as PostgreSQL alone does

__all__ = [
    "AuditEvent",
    "AuditTables",
    "CommitObserver",
    "Database",
    "Prepared",
    "Row",
    "Statement",
    "Unit",
    "Write",
    "audit_tables",
    "parse_url",
]

_QUEUE = 4096
"""Units that may wait for the writer."""


class Engine(Protocol):
    """What differs between SQLite and PostgreSQL."""

    dialect: Dialect

    @property
    def shared(self) -> "SharedDatabase | None":
        """What several processes on it need of each other; None where there is one."""
        ...

    async def fetch(self, prepared: Prepared, arguments: tuple[Any, ...], limit: int) -> list[Row]:
        """Reads at most `limit` rows (-1: all)."""
        ...

    def scan(self, prepared: Prepared, arguments: tuple[Any, ...]) -> AsyncGenerator[Row, None]:
        """Streams a large result."""
        ...

    async def commit_batch(self, units: Sequence[BoundUnit]) -> Sequence[Outcome]:
        """Writes units in one durable transaction."""
        ...

    async def close(self) -> None:
        """Gives back what the engine holds."""
        ...


def parse_url(url: str) -> URL:
    """Reads `sqlite:////absolute/path` or `postgresql://user@host/name`.

    Raises:
        SettingsError: another form.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("database_url is not a URL such as sqlite:////var/lib/pqcpki/ca.sqlite3") from error
    if parsed.drivername == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed
    if parsed.drivername == "postgresql" and parsed.database:
        return parsed
    raise SettingsError(
        f"database_url must be sqlite:////path or postgresql://user@host/name, not {parsed.render_as_string()}"
    )


class Database:
    """A service's database; `await Database.open(...)` makes one."""

    def __init__(self, engine: Engine, *, queue: int = _QUEUE) -> None:
        self._engine = engine
        self._writer = GroupCommit(engine, queue)
        self._log = structlog.get_logger("audit")

    @classmethod
    async def open(cls, url: str, *, clock: Clock, commit_observer: CommitObserver | None = None) -> Self:
        """Opens the database that the URL names.

        Args:
            url: `sqlite:////absolute/path` or `postgresql://user@host/name`.
            clock: The time of audit records.
            commit_observer: Called with ("before" | "after", label) around each unit's durable commit.

        Raises:
            SettingsError: the URL is of another form, or the PostgreSQL driver is not installed.
            UnavailableError: the database cannot be opened.
        """
        parsed = parse_url(url)
        if parsed.drivername == "sqlite":
            return cls(SqliteEngine(Path(str(parsed.database)), clock, commit_observer))
        try:
            from services.chassis.database.postgresql import PostgresqlEngine
        except ModuleNotFoundError as error:
            raise SettingsError("a postgresql database_url needs asyncpg: pip install 'pqcpki[postgresql]'") from error
        return cls(await PostgresqlEngine.open(parsed, clock, commit_observer))

    @property
    def shared(self) -> "SharedDatabase | None":
        """What other processes on this database and this one need of each other; None for SQLite: one process."""
        return self._engine.shared

    def prepare(self, statement: Statement) -> Prepared:
        """A statement for this database; TypeError at its first use where it uses what the two engines do not share."""
        return Prepared(statement, self._engine.dialect)

    async def fetch_one(self, prepared: Prepared, /, **params: Any) -> Row | None:  # noqa: ANN401 - column values
        """The first row, or None.

        Raises:
            UnavailableError: the database cannot be read.
            InvalidValueError: a parameter that no column can hold.
        """
        rows = await self._engine.fetch(prepared, prepared.bind(params), 1)
        return rows[0] if rows else None

    async def fetch_all(self, prepared: Prepared, /, **params: Any) -> list[Row]:  # noqa: ANN401 - column values
        """Every row; for results that are known to be small.

        Raises:
            UnavailableError: the database cannot be read.
            InvalidValueError: a parameter that no column can hold.
        """
        return await self._engine.fetch(prepared, prepared.bind(params), -1)

    async def scan(self, prepared: Prepared, /, **params: Any) -> AsyncGenerator[Row, None]:  # noqa: ANN401 - column values
        """Streams a large result, one snapshot, without holding up the event loop; who stops early closes it.

        Raises:
            UnavailableError: the database cannot be read.
        """
        async with aclosing(self._engine.scan(prepared, prepared.bind(params))) as rows:
            async for row in rows:
                yield row

    async def commit(self, unit: Unit) -> None:
        """Makes a unit durable; returns when it is.

        Raises:
            KeyError: a statement's parameter is missing.
            ConflictError: a write changed another number of rows than it expects; nothing was written.
            DuplicateError: a unique key exists already; nothing was written.
            ConstraintError: a foreign key, NOT NULL or CHECK rule; nothing was written.
            InvalidValueError: a value that no column can hold; nothing was written.
            OverloadedError: too many units are waiting.
            UnavailableError: the database cannot write (`CommitUnknownError`: it may have).
        """
        with step("commit", unit.label):
            await self._writer.commit(bind_unit(unit))
        for event in unit.audit:  # what was done is in the log too, with the id of the request that did it
            if event.logged:
                self._log.info(event.event, actor=event.actor, detail=dict(event.detail))

    async def close(self) -> None:
        """Writes what is waiting, then closes."""
        await self._writer.close()
        await self._engine.close()
