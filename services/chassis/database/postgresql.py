"""PostgreSQL through asyncpg: a pool for reads, one connection for the group commit.

A batch first runs without savepoints; where a unit is refused, the batch is undone and run again with one savepoint per
unit, so that the refused one costs its neighbours time, never their rows. A batch that loses a deadlock or a
serialisation race to another process is run again: units are data and can be.

Batches with contended rows go one after another, whichever process they are of: each holds its rows until its end, and
two that took the same rows in another order would wait for each other for the second that a deadlock takes to be found.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, Self

import asyncpg  # type: ignore[import-untyped] # ships no types
from asyncpg import exceptions as pg
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.engine.interfaces import Dialect

from pkicore.audit import GENESIS, ChainHead
from pkicore.clock import Clock, unix
from services.chassis.database import journal
from services.chassis.database.shared import SharedDatabase
from services.chassis.database.statement import BoundUnit, Prepared, Row
from services.chassis.database.writer import CommitObserver, Outcome
from services.chassis.errors import (
    CommitUnknownError,
    ConflictError,
    ConstraintError,
    DatabaseError,
    DuplicateError,
    InvalidValueError,
    UnavailableError,
)

_CONNECT_SECONDS = 5.0
_COMMAND_SECONDS = 10.0
_READERS = 8
_HASTY = 4
"""Connections whose commits do not wait for the disk; none is opened before it is used."""
_STATEMENTS = 512
_SCAN_ROWS = 512
_ATTEMPTS = 5
_LOST = (OSError, TimeoutError, pg.PostgresConnectionError, pg.InterfaceError, pg.OperatorInterventionError)
_BEGIN = "BEGIN"
_BEGIN_CONTENDED = "BEGIN; SELECT pg_advisory_xact_lock(1346523987, 1)"  # numbers that nobody else has a reason to take
_RACES = (pg.DeadlockDetectedError, pg.SerializationError)
_REFUSED = (pg.IntegrityConstraintViolationError, pg.DataError)
_FAILED = (*_LOST, pg.PostgresError)
_CONNECTION: Mapping[str, Any] = {
    "timeout": _CONNECT_SECONDS,
    "command_timeout": _COMMAND_SECONDS,
    "statement_cache_size": _STATEMENTS,
    "server_settings": {
        "application_name": "pqcpki",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "30s",
    },
}
_HASTY_CONNECTION: Mapping[str, Any] = {
    **_CONNECTION,
    "server_settings": {**_CONNECTION["server_settings"], "synchronous_commit": "off"},
}


class _RefusedError(Exception):
    """A unit was refused; inside this module only."""

    def __init__(self, error: DatabaseError) -> None:
        super().__init__(str(error))
        self.error = error


class _RaceError(Exception):
    """Another process won, and nothing of this batch was written; inside this module only."""


class PostgresqlEngine:
    """One PostgreSQL database; `open` makes one."""

    def __init__(
        self, url: URL, pool: asyncpg.Pool, shared: SharedDatabase, clock: Clock, observer: CommitObserver | None
    ) -> None:
        self._dsn = url.render_as_string(hide_password=False)
        self._pool = pool
        self._clock = clock
        self._observer = observer
        self._writer: asyncpg.Connection | None = None
        self.dialect: Dialect = asyncpg_dialect()  # type: ignore[no-untyped-call] # SQLAlchemy left it untyped
        self._audit = journal.AuditStatements(self.dialect)
        self.shared = shared

    @classmethod
    async def open(cls, url: URL, clock: Clock, observer: CommitObserver | None) -> Self:
        """Connects.

        Raises:
            UnavailableError: the server or the database cannot be reached.
        """
        dsn = url.render_as_string(hide_password=False)
        try:
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=_READERS, reset=_leave_as_is, **_CONNECTION)
            hasty = await asyncpg.create_pool(dsn, min_size=0, max_size=_HASTY, reset=_leave_as_is, **_HASTY_CONNECTION)
        except _FAILED as error:
            raise UnavailableError(f"cannot open the database {url.render_as_string()}: {error}") from error
        return cls(url, pool, SharedDatabase(hasty), clock, observer)

    async def fetch(self, prepared: Prepared, arguments: tuple[Any, ...], limit: int) -> list[Row]:
        """Reads at most `limit` rows (-1: all) over a connection of the pool."""
        try:
            async with self._pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                if limit == 1:
                    row = await connection.fetchrow(prepared.sql, *arguments)
                    return [] if row is None else [dict(row)]
                return [dict(row) for row in await connection.fetch(prepared.sql, *arguments)]
        except _FAILED as error:
            raise _read_error(error) from error

    async def scan(self, prepared: Prepared, arguments: tuple[Any, ...]) -> AsyncGenerator[Row, None]:
        """Streams a large result through a cursor, one snapshot."""
        try:
            async with (
                self._pool.acquire(timeout=_CONNECT_SECONDS) as connection,
                connection.transaction(readonly=True),
            ):
                async for row in connection.cursor(prepared.sql, *arguments, prefetch=_SCAN_ROWS):
                    yield dict(row)
        except _FAILED as error:
            raise _read_error(error) from error

    async def commit_batch(self, units: Sequence[BoundUnit]) -> Sequence[Outcome]:
        """Writes the units in one transaction, each whole or not at all."""
        isolate = False
        for _ in range(_ATTEMPTS):
            try:
                return await self._attempt(units, isolate=isolate)
            except _RefusedError as refused:
                if len(units) == 1:
                    return [refused.error]
                isolate = True
            except _RaceError:
                continue
        raise UnavailableError(f"other processes won {_ATTEMPTS} races for the same rows")

    async def close(self) -> None:
        """Closes every connection."""
        self._drop_writer()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.gather(self._pool.close(), self.shared.close())
        except TimeoutError:
            self._pool.terminate()
            self.shared.terminate()

    async def _attempt(self, units: Sequence[BoundUnit], *, isolate: bool) -> Sequence[Outcome]:
        connection = await self._connected()
        try:
            await connection.execute(_BEGIN_CONTENDED if any(unit.contended for unit in units) else _BEGIN)
            outcomes = [await self._apply(connection, unit, isolate=isolate) for unit in units]
            written = [unit for unit, outcome in zip(units, outcomes, strict=True) if outcome is None]
            await self._record(connection, written)
            await self._commit(connection, written)
        except (_RefusedError, *_RACES) as error:
            await self._undo(connection)
            if isinstance(error, _RefusedError):
                raise
            raise _RaceError from error
        except BaseException as error:
            self._drop_writer()
            if isinstance(error, _FAILED):
                raise UnavailableError(f"the database cannot write: {_reason(error)}") from error
            raise
        return outcomes

    async def _connected(self) -> asyncpg.Connection:
        if self._writer is None or self._writer.is_closed():
            try:
                self._writer = await asyncpg.connect(self._dsn, **_CONNECTION)
            except _FAILED as error:
                raise UnavailableError(f"cannot connect to the database: {_reason(error)}") from error
        return self._writer

    async def _undo(self, connection: asyncpg.Connection) -> None:
        try:
            await connection.execute("ROLLBACK")
        except _FAILED:
            self._drop_writer()

    def _drop_writer(self) -> None:
        """Ends the connection, which undoes its transaction; the next commit opens another."""
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None

    async def _apply(self, connection: asyncpg.Connection, unit: BoundUnit, *, isolate: bool) -> Outcome:
        if not isolate:
            await self._write(connection, unit)
            return None
        await connection.execute("SAVEPOINT unit")
        try:
            await self._write(connection, unit)
        except _RefusedError as refused:
            await connection.execute("ROLLBACK TO unit; RELEASE unit")
            return refused.error
        await connection.execute("RELEASE unit")
        return None

    @staticmethod
    async def _write(connection: asyncpg.Connection, unit: BoundUnit) -> None:
        for index, write in enumerate(unit.writes):
            try:
                status = await connection.execute(write.sql, *write.arguments)
            except _REFUSED as error:
                raise _RefusedError(_refusal(unit.label, error)) from error
            rows = int(status.rpartition(" ")[2])
            if write.expect is not None and rows != write.expect:
                raise _RefusedError(ConflictError(unit.label, index, rows, write.expect))

    async def _record(self, connection: asyncpg.Connection, units: Sequence[BoundUnit]) -> None:
        """Chains the audit events last, so that other processes wait for the head's lock as briefly as can be."""
        events = [event for unit in units for event in unit.audit]
        if not events:
            return
        row = await connection.fetchrow(self._audit.select_head.sql, *self._audit.select_head.bind({}))
        head = ChainHead(*row) if row else await self._first_head(connection)
        head, rows = journal.chain_events(head, events, unix(self._clock.now()))
        record, update = self._audit.insert_record, self._audit.update_head
        try:
            await connection.executemany(record.sql, [record.bind(row) for row in rows])
        except _REFUSED as error:
            raise UnavailableError(f"the audit log refuses its next record: {error}") from error
        await connection.execute(update.sql, *update.bind({"to_sequence": head.sequence, "to_hash": head.hash}))

    async def _first_head(self, connection: asyncpg.Connection) -> ChainHead:
        insert = self._audit.insert_head
        try:
            await connection.execute(insert.sql, *insert.bind({}))
        except pg.UniqueViolationError as error:
            raise pg.SerializationError("another process wrote the first audit record") from error
        return GENESIS

    async def _commit(self, connection: asyncpg.Connection, units: Sequence[BoundUnit]) -> None:
        self._observe("before", units)
        try:
            await connection.execute("COMMIT")
        except _LOST as error:
            raise CommitUnknownError(f"the connection went during COMMIT: {error}") from error
        self._observe("after", units)

    def _observe(self, moment: Literal["before", "after"], units: Sequence[BoundUnit]) -> None:
        if self._observer is not None:
            for unit in units:
                self._observer(moment, unit.label)


async def _leave_as_is(_: object) -> None:
    """Nothing that readers do changes a session, so handing a connection back costs no round trip."""


def _refusal(label: str, error: Exception) -> DatabaseError:
    if isinstance(error, pg.UniqueViolationError):
        return DuplicateError(f"{label}: {error.constraint_name}")
    if isinstance(error, pg.IntegrityConstraintViolationError):
        return ConstraintError(f"{label}: {error.constraint_name or error.column_name}")
    return InvalidValueError(f"{label}: {error}")


def _read_error(error: BaseException) -> DatabaseError:
    if isinstance(error, pg.DataError):
        return InvalidValueError(f"a value cannot be looked up: {error}")
    return UnavailableError(f"the database cannot be read: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__  # a TimeoutError says nothing
