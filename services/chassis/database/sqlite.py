"""SQLite through the standard library: reads, statements and quick commits on the event loop, slow commits in a thread.

WAL with `synchronous=FULL`: a commit is on the disk before its caller goes on. A read costs microseconds, less than
handing it to a thread would; so does a commit where the disk is quick.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine.interfaces import Dialect

from pkicore.audit import GENESIS, ChainHead
from pkicore.clock import Clock, unix
from services.chassis.database import journal
from services.chassis.database.journal import AuditStatements
from services.chassis.database.statement import BoundUnit, BoundWrite, Prepared, Row
from services.chassis.database.writer import CommitObserver, Outcome
from services.chassis.errors import (
    ConflictError,
    ConstraintError,
    DatabaseError,
    DuplicateError,
    InvalidValueError,
    UnavailableError,
)

_QUICK_COMMIT = 0.002
"""Seconds that commits on the event loop may take; while the disk takes longer, they wait for it in the thread."""
_RECENT_COMMITS = 9
_COMMITS_AWAY = 256
"""Commits in the thread before the disk is tried again on the event loop."""
_LOG_PAGES = 8000
"""Pages (of 4 KiB) of the log before a commit moves them into the database file: it waits for that, so it is rare."""
_INLINE_WRITES = 256
"""Statements of a batch that run on the event loop; in the thread each would wait for the interpreter's lock."""
_LOCK_WAIT = 5.0
"""Seconds to wait for another process's write transaction."""
_LOCK_RETRY = 0.005
_READ_BUSY_MS = 1000
_OPEN_TO_OTHERS = 0o077
_SCAN_ROWS = 512
_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})
_UNFIT = (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError, OverflowError, UnicodeError)
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class _RefusedError(Exception):
    """A unit was refused; inside this module only."""

    def __init__(self, error: DatabaseError) -> None:
        super().__init__(str(error))
        self.error = error


class _Disk:
    """Whether the disk is quick enough to wait for on the event loop: a thread costs more than a quick commit."""

    def __init__(self) -> None:
        self._slow: deque[bool] = deque(maxlen=_RECENT_COMMITS)
        self._away = 0

    def is_quick(self) -> bool:
        """Whether commits on the loop are quick; after some in the thread, the next ones show."""
        self._away = max(self._away - 1, 0)
        return not self._away

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Times a commit on the event loop.

        One that is slow alone says nothing: it moved the log into the database file, or another process had the
        processor. Most must be.
        """
        begin = time.perf_counter()
        yield
        self._slow.append(time.perf_counter() - begin > _QUICK_COMMIT)
        if sum(self._slow) > _RECENT_COMMITS // 2:
            self._slow.clear()
            self._away = _COMMITS_AWAY


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
        self.shared = None  # one process has the file
        self._audit = AuditStatements(self.dialect)
        self._reader = self._connect(busy_ms=_READ_BUSY_MS)
        self._writer: sqlite3.Connection | None = self._connect(busy_ms=0)
        self._disk = _Disk()
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
                f"wal_autocheckpoint={_LOG_PAGES}",
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

    async def scan(self, prepared: Prepared, arguments: tuple[Any, ...]) -> AsyncGenerator[Row, None]:
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
        """Writes the units in one transaction, each whole or not at all.

        Nearly always none is refused. So they first run without savepoints, for which SQLite would copy each page
        before it changes it; where one is refused, all is undone and run again with a savepoint for each.
        """
        try:
            return await self._attempt(units, isolate=False)
        except _RefusedError as refused:
            if len(units) == 1:
                return [refused.error]
        return await self._attempt(units, isolate=True)

    async def _attempt(self, units: Sequence[BoundUnit], *, isolate: bool) -> Sequence[Outcome]:
        connection = await self._begin()
        statements = sum(len(unit.writes) for unit in units)
        run = asyncio.get_running_loop().run_in_executor
        if statements > _INLINE_WRITES:
            outcomes, written = await run(self._write_thread, partial(self._write, connection, units, isolate=isolate))
        else:
            outcomes, written = self._write(connection, units, isolate=isolate)
        if statements <= _INLINE_WRITES and self._disk.is_quick():
            with self._disk.timed():
                self._commit(connection, written)
        else:
            await run(self._write_thread, self._commit, connection, written)
        return outcomes

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

    def _write(
        self, connection: sqlite3.Connection, units: Sequence[BoundUnit], *, isolate: bool
    ) -> tuple[Sequence[Outcome], Sequence[BoundUnit]]:
        """The outcome of each unit, and the units that wait for the commit.

        Raises:
            _RefusedError: a unit is refused that was not isolated; the transaction is undone.
        """
        transaction = _Transaction(connection, self._audit)
        apply: Callable[[BoundUnit], Outcome] = transaction.apply_alone if isolate else transaction.apply
        with self._undone_on_error():
            try:
                outcomes = [apply(unit) for unit in units]
            except DatabaseError as error:
                connection.execute("ROLLBACK")
                raise _RefusedError(error) from error
            written = [unit for unit, outcome in zip(units, outcomes, strict=True) if outcome is None]
            transaction.record(written, unix(self._clock.now()))
        return outcomes, written

    def _commit(self, connection: sqlite3.Connection, written: Sequence[BoundUnit]) -> None:
        with self._undone_on_error():
            self._observe("before", written)
            connection.execute("COMMIT")
        self._observe("after", written)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except _RefusedError:
            raise
        except BaseException as error:
            self._drop_writer()
            if isinstance(error, sqlite3.Error):
                raise UnavailableError(f"the database cannot write: {error}") from error
            raise

    def _observe(self, moment: Literal["before", "after"], units: Sequence[BoundUnit]) -> None:
        if self._observer is not None:
            for unit in units:
                self._observer(moment, unit.label)

    def _drop_writer(self) -> None:
        """Closes the connection, which undoes its transaction; the next commit opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def create_private(path: Path) -> None:
    """Makes the file if it does not exist, and its owner's alone; SQLite gives its side files the same mode.

    Raises:
        OSError: the directory is missing or cannot be written, or the file is another's.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another process was quicker, with the same mode
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return
    # A file that exists is never opened here: closing it would drop the locks that SQLite holds on it in this process
    # (POSIX.1 fcntl), and another process would then delete the write-ahead log under our connections.
    if mode & _OPEN_TO_OTHERS:
        path.chmod(0o600)


class _Transaction:
    """The inside of one transaction: units, then their audit events."""

    def __init__(self, connection: sqlite3.Connection, audit: AuditStatements) -> None:
        self._connection = connection
        self._audit = audit

    def apply(self, unit: BoundUnit) -> None:
        """Carries out a unit.

        Raises:
            DatabaseError: it is refused, and some of it may have been written.
        """
        for index, write in enumerate(unit.writes):
            self._write(unit.label, index, write)

    def apply_alone(self, unit: BoundUnit) -> Outcome:
        """Carries out a unit, whole or not at all."""
        self._connection.execute("SAVEPOINT unit")
        try:
            self.apply(unit)
        except DatabaseError as error:
            self._connection.execute("ROLLBACK TO unit")
            self._connection.execute("RELEASE unit")
            return error
        self._connection.execute("RELEASE unit")
        return None

    def record(self, units: Sequence[BoundUnit], at: int) -> None:
        events = [event for unit in units for event in unit.audit]
        if not events:
            return
        head, rows = journal.chain_events(self._chain_head(), events, at)
        record, update = self._audit.insert_record, self._audit.update_head
        try:
            self._connection.executemany(record.sql, [record.bind(row) for row in rows])
        except sqlite3.IntegrityError as error:
            raise UnavailableError(f"the audit log refuses its next record: {error}") from error
        self._connection.execute(update.sql, update.bind({"to_sequence": head.sequence, "to_hash": head.hash}))

    def _write(self, label: str, index: int, write: BoundWrite) -> None:
        try:
            rows = self._connection.execute(write.sql, write.arguments).rowcount
        except sqlite3.IntegrityError as error:
            raise _integrity_error(label, error) from error
        except _UNFIT as error:
            raise InvalidValueError(f"{label}: write {index}: {error}") from error
        if write.expect is not None and rows != write.expect:
            raise ConflictError(label, index, rows, write.expect)

    def _chain_head(self) -> ChainHead:
        select, insert = self._audit.select_head, self._audit.insert_head
        row = self._connection.execute(select.sql, select.bind({})).fetchone()
        if row:
            return ChainHead(*row)
        self._connection.execute(insert.sql, insert.bind({}))
        return GENESIS


def _named(cursor: sqlite3.Cursor, rows: Sequence[tuple[Any, ...]]) -> list[Row]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _read_error(error: Exception) -> DatabaseError:
    if isinstance(error, _UNFIT):
        return InvalidValueError(f"a value cannot be looked up: {error}")
    return UnavailableError(f"the database cannot be read: {error}")


def _integrity_error(label: str, error: sqlite3.IntegrityError) -> DatabaseError:
    if error.sqlite_errorcode in _UNIQUE:
        return DuplicateError(f"{label}: {error}")
    return ConstraintError(f"{label}: {error}")
