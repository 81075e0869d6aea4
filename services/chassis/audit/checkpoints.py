"""Signed checkpoints of a service's chain, in a file outside the database."""

import asyncio
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import structlog

from pkicore.audit import ChainHead, Checkpoint, sign_checkpoint
from pkicore.audit.segments import bounded_lines
from pkicore.clock import Clock, unix
from pkicore.encoding import write_atomically
from pkicore.errors import AuditError
from pkicore.keys import SigningKey
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.database import Database, Row
from services.chassis.database.journal import SELECT_PRESENT_HEAD

CHECKPOINTS_FILE: Final = "audit-checkpoints.jsonl"
"""In the service's state directory."""
_INTERVAL = 1.0
"""Seconds between two checkpoints at least."""
_FULL = 32 << 20
"""Octets of a file that is thinned out: a day and more of one checkpoint a second, years of a quiet service."""
_NEWEST = 64
_DAY = 86400

_log = structlog.get_logger("audit")


class CheckpointFile(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        checkpoints: in the order of the file; their signatures are not looked at.
        unfinished: octets of a last line that a crash cut off; they count for nothing.
    """

    checkpoints: list[Checkpoint]
    unfinished: int


def checkpoint_file(path: Path) -> CheckpointFile:
    """Reads a checkpoint file.

    Raises:
        AuditError: a line is no checkpoint.
        OSError: the file cannot be read; one that does not exist holds none.
    """
    found, unfinished = list[Checkpoint](), 0
    if not path.exists():
        return CheckpointFile(found, unfinished)
    if not path.is_file():  # a pipe would be waited for
        raise AuditError(f"{path.name} is no plain file")
    with path.open("rb") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if line.endswith(b"\n"):
                found.append(_checkpoint(line, number))
            else:
                unfinished = len(line)
    return CheckpointFile(found, unfinished)


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """The checkpoints of `checkpoint_file` alone.

    Raises:
        AuditError, OSError: as `checkpoint_file`.
    """
    return checkpoint_file(path).checkpoints


def _checkpoint(line: bytes, number: int) -> Checkpoint:
    try:
        return Checkpoint.from_line(line)
    except AuditError as error:
        raise AuditError(f"line {number} of the checkpoints: {error}", error.sequence) from error


class Checkpointer:
    """Signs the chain's end into a file outside the database.

    Args:
        database: Holds the chain.
        key: The service's audit key.
        path: The file, appended to and synchronised for each checkpoint.
        clock: The checkpoints' time.
        full: Octets from which on the file is thinned out.
        metrics: Told of each success.
    """

    def __init__(
        self,
        database: Database,
        key: SigningKey,
        path: Path,
        clock: Clock,
        *,
        full: int = _FULL,
        metrics: AuditMetrics | None = None,
    ) -> None:
        self._metrics = metrics or AuditMetrics()
        self._database = database
        self._key = key
        self._path = path
        self._clock = clock
        self._full = full
        self._head_query = database.prepare(SELECT_PRESENT_HEAD)
        self._signed = 0

    async def run(self) -> None:
        """Writes a checkpoint at most once a second, where there is something new; call `write` once more at the end.

        Raises:
            OSError: the file cannot be written.
            KeyAccessError: the key cannot sign.
            UnavailableError: the database cannot be read.
        """
        while True:
            await self.write()
            await asyncio.sleep(_INTERVAL)

    async def write(self) -> None:
        """Writes one checkpoint, if the chain has grown since the last.

        Raises:
            OSError, KeyAccessError, UnavailableError: as `run`.
        """
        row = await self._database.fetch_one(self._head_query)
        if row is not None and row["sequence"] > self._signed:
            await self._sign(row)
        self._metrics.checkpointed.set(unix(self._clock.now()))

    async def _sign(self, row: Row) -> None:
        head = ChainHead(row["sequence"], row["hash"])
        checkpoint = await sign_checkpoint(head, self._key, unix(self._clock.now()))
        size = await asyncio.to_thread(_append_line, self._path, checkpoint.to_line())
        self._signed = head.sequence
        if size > self._full:
            await asyncio.to_thread(thin_out, self._path)


def thin_out(path: Path) -> None:
    """Keeps the last checkpoint of each day, and the newest ones: each vouches for all records before it.

    Raises:
        AuditError: a line is no checkpoint; nothing is thrown away then.
        OSError: the file cannot be written.
    """
    checkpoints = read_checkpoints(path)
    older, newest = checkpoints[:-_NEWEST], checkpoints[-_NEWEST:]
    kept = [list(day)[-1] for _, day in groupby(older, lambda checkpoint: checkpoint.at // _DAY)]
    write_atomically(path, b"".join(checkpoint.to_line() for checkpoint in (*kept, *newest)), 0o600)
    _log.info("audit checkpoints thinned out", kept=len(kept) + len(newest), of=len(checkpoints))


def _append_line(path: Path, line: bytes) -> int:
    """Appends durably; drops what a crash left unfinished at the end, and says so. The file's size."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        finished = _finished_size(file, size)
        if finished < size:
            _log.warning("an unfinished audit checkpoint was removed", file=str(path), octets=size - finished)
            file.truncate(finished)
        file.seek(finished)
        try:
            file.write(line)
            file.flush()
        except OSError:
            os.ftruncate(descriptor, finished)  # a disk that is full may have taken half of it
            raise
        os.fsync(descriptor)
        return finished + len(line)


def _finished_size(file: BinaryIO, size: int) -> int:
    """Where the last whole line ends; only the end of the file is read."""
    for start, end in _blocks_from_the_end(size):
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def _blocks_from_the_end(size: int, block: int = 1 << 16) -> Iterator[tuple[int, int]]:
    while size > 0:
        start = max(0, size - block)
        yield start, size
        size = start
