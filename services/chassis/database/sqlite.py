"""SQLite through the standard library: reads and lone commits on the event loop, batches in one thread.

WAL with `synchronous=FULL`: a commit is on the disk before its caller goes on. A read costs microseconds, less than
handing it to a thread would.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine.interfaces import Dialect

from pkicore.audit import GENESIS, ChainHead
from pkicore.clock import Clock, unix
from services.chassis.database import journal
from services.chassis.database.statement import BoundUnit, BoundWrite, Prepared, Row, compile_statement
from services.chassis.database.writer import Outcome
from services.chassis.errors import (
    ConflictError,
    ConstraintError,
    DatabaseError,
    DuplicateError,
    InvalidValueError,
    UnavailableError,
)

_INLINE_WRITES = 16
"""Statements that a lone unit may run on the event loop; a longer one takes the thread."""
_LOCK_WAIT = 5.0
"""Seconds to wait for another process's write transaction."""
_LOCK_RETRY = 0.005
_READ_BUSY_MS = 1000
_SCAN_ROWS = 512
_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

CommitObserver = Callable[[str, str], None]


class SqliteEngine:
    """One SQLite file, one reading and one writing connection.

    Args:
        path: The file; made with mode 0600 when it does not exist.
        clock: Times of audit records.
        observer: Called with ("before" | "after", label) around each durable commit.

    Raises:
        UnavailableError: the file cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock, observer: CommitObserver | None) -> None:
        self._path = path
        self._clock = clock
        self._observer = observer
        self.dialect: Dialect = sqlite_dialect(paramstyle="qmark")
        self._audit = _AuditStatements(self.dialect)
        self._reader = self._connect(busy_ms=_READ_BUSY_MS)
        self._writer: sqlite3.Connection | None = self._connect(busy_ms=0)
        self._write_thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._scan_thread = ThreadPoolExecutor(1, "sqlite-scan")

    def _connect(self, busy_ms: int) -> sqlite3.Connection:
        try:
            create_private(self._path)
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            for pragma in (
                f"busy_timeout={_READ_BUSY_MS}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                f"busy_timeout={busy_ms}",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except (OSError, sqlite3.Error) as error:
            raise UnavailableError(f"cannot open the database {self._path}: {error}") from error
        return connection

    async def fetch(self, prepared: Prepared, arguments: tuple[Any, ...], limit: int) -> list[Row]:
        """Reads at most `limit` rows (-1: all) on the event loop."""
        try:
            cursor = self._reader.execute(prepared.sql, arguments)
            rows = cursor.fetchall() if limit < 0 else cursor.fetchmany(limit)
            cursor.close()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise _read_error(error) from error
        return _named(cursor, rows)

    async def scan(self, prepared: Prepared, arguments: tuple[Any, ...]) -> AsyncIterator[Row]:
        """Streams a large result from a thread, over its own connection and one snapshot."""
        run = asyncio.get_running_loop().run_in_executor
        connection = self._connect(busy_ms=_READ_BUSY_MS)
        try:
            cursor = await run(self._scan_thread, connection.execute, prepared.sql, arguments)
            while rows := await run(self._scan_thread, cursor.fetchmany, _SCAN_ROWS):
                for row in _named(cursor, rows):
                    yield row
        except sqlite3.Error as error:
            raise _read_error(error) from error
        finally:
            self._scan_thread.submit(connection.close)  # in its thread: a cancelled read may still be running there

    async def commit_batch(self, units: Sequence[BoundUnit]) -> Sequence[Outcome]:
        """Writes the units in one transaction, each in its own savepoint."""
        connection = await self._begin()
        if len(units) == 1 and len(units[0].writes) <= _INLINE_WRITES:
            return self._transact(connection, units)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._write_thread, self._transact, connection, units)

    async def close(self) -> None:
        """Closes both connections; what was committed is in the file."""
        self._write_thread.shutdown()
        self._scan_thread.shutdown()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()

    async def _begin(self) -> sqlite3.Connection:
        """Takes the write lock without ever blocking the event loop."""
        if self._writer is None:
            self._writer = self._connect(busy_ms=0)
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if _primary_code(error) not in _BUSY:
                    self._drop_writer()
                    raise UnavailableError(f"the database cannot begin a write: {error}") from error
                if time.monotonic() > deadline:
                    raise UnavailableError(f"another process has held the write lock for {_LOCK_WAIT:g} s") from error
                await asyncio.sleep(_LOCK_RETRY)
            else:
                return self._writer

    def _transact(self, connection: sqlite3.Connection, units: Sequence[BoundUnit]) -> Sequence[Outcome]:
        try:
            outcomes = _Transaction(connection, self._audit, unix(self._clock.now())).run(units)
            labels = [unit.label for unit, outcome in zip(units, outcomes, strict=True) if outcome is None]
            self._observe("before", labels)
            connection.execute("COMMIT")
        except BaseException as error:
            self._drop_writer()
            if isinstance(error, sqlite3.Error):
                raise UnavailableError(f"the database cannot write: {error}") from error
            raise
        self._observe("after", labels)
        return outcomes

    def _observe(self, moment: str, labels: Sequence[str]) -> None:
        if self._observer is not None:
            for label in labels:
                self._observer(moment, label)

    def _drop_writer(self) -> None:
        """Closes the connection, which undoes its transaction; the next commit opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def create_private(path: Path) -> None:
    """Makes the file for its owner alone, if it does not exist; SQLite gives its side files the same mode.

    Raises:
        OSError: the directory is missing or cannot be written.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class _AuditStatements:
    def __init__(self, dialect: Dialect) -> None:
        self.select_head = compile_statement(journal.SELECT_HEAD, dialect)
        self.insert_head = compile_statement(journal.INSERT_HEAD, dialect)
        self.update_head = compile_statement(journal.UPDATE_HEAD, dialect)
        self.insert_record = compile_statement(journal.INSERT_RECORD, dialect)


class _Transaction:
    """The inside of one transaction: units in savepoints, the audit head carried from one to the next."""

    def __init__(self, connection: sqlite3.Connection, audit: _AuditStatements, at: int) -> None:
        self._connection = connection
        self._audit = audit
        self._at = at
        self._head: ChainHead | None = None
        self._head_moved = False

    def run(self, units: Sequence[BoundUnit]) -> list[Outcome]:
        outcomes = [self._isolated(unit) for unit in units]
        if self._head is not None and self._head_moved:
            update = self._audit.update_head
            bound = update.bind({"to_sequence": self._head.sequence, "to_hash": self._head.hash})
            self._connection.execute(update.sql, bound)
        return outcomes

    def _isolated(self, unit: BoundUnit) -> Outcome:
        self._connection.execute("SAVEPOINT unit")
        try:
            for index, write in enumerate(unit.writes):
                self._write(unit.label, index, write)
            if unit.audit:
                self._record(unit)
        except DatabaseError as error:
            self._connection.execute("ROLLBACK TO unit")
            self._connection.execute("RELEASE unit")
            return error
        self._connection.execute("RELEASE unit")
        return None

    def _write(self, label: str, index: int, write: BoundWrite) -> None:
        try:
            rows = self._connection.execute(write.sql, write.arguments).rowcount
        except sqlite3.IntegrityError as error:
            raise _integrity_error(label, error) from error
        except (
            sqlite3.InterfaceError,
            sqlite3.ProgrammingError,
            sqlite3.DataError,
            OverflowError,
            UnicodeError,
        ) as error:
            raise InvalidValueError(f"{label}: write {index}: {error}") from error
        if write.expect is not None and rows != write.expect:
            raise ConflictError(label, index, rows, write.expect)

    def _record(self, unit: BoundUnit) -> None:
        try:
            head, rows = journal.chain_events(self._chain_head(), unit.audit, self._at)
            insert = self._audit.insert_record
            self._connection.executemany(insert.sql, [insert.bind(row) for row in rows])
        except (TypeError, UnicodeError) as error:
            raise InvalidValueError(f"{unit.label}: the audit detail cannot be recorded: {error}") from error
        except sqlite3.IntegrityError as error:
            raise UnavailableError(f"{unit.label}: the audit log refuses its next record: {error}") from error
        self._head, self._head_moved = head, True

    def _chain_head(self) -> ChainHead:
        if self._head is None:
            row = self._connection.execute(self._audit.select_head.sql, self._audit.select_head.bind({})).fetchone()
            self._head = ChainHead(*row) if row else self._first_head()
        return self._head

    def _first_head(self) -> ChainHead:
        insert = self._audit.insert_head
        self._connection.execute(insert.sql, insert.bind({}))
        return GENESIS


def _named(cursor: sqlite3.Cursor, rows: Sequence[tuple[Any, ...]]) -> list[Row]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _read_error(error: Exception) -> DatabaseError:
    if isinstance(error, OverflowError | UnicodeError | sqlite3.InterfaceError | sqlite3.ProgrammingError):
        return InvalidValueError(f"a value cannot be looked up: {error}")
    return UnavailableError(f"the database cannot be read: {error}")


def _integrity_error(label: str, error: sqlite3.IntegrityError) -> DatabaseError:
    if error.sqlite_errorcode in _UNIQUE:
        return DuplicateError(f"{label}: {error}")
    return ConstraintError(f"{label}: {error}")
