"""The audit log as a service lives with it: export, verification, and checkpoints outside the database.

Records are written by `Database.commit`, in the transaction of the act they record.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import orjson

from pkicore.algorithms import PublicKey
from pkicore.audit import (
    GENESIS,
    AuditRecord,
    ChainHead,
    ChainVerifier,
    Checkpoint,
    StoredRecord,
    export_line,
    sign_checkpoint,
    verify_checkpoint,
)
from pkicore.clock import Clock, unix
from pkicore.errors import AuditError
from pkicore.keys import SigningKey, open_key
from pkicore.keys.passphrase import read_passphrase
from services.chassis.database import AuditEvent, AuditTables, Database, audit_tables
from services.chassis.database.journal import SELECT_PRESENT_HEAD, SELECT_RECORDS

__all__ = [
    "CHECKPOINTS_FILE",
    "AuditEvent",
    "AuditTables",
    "Checkpointer",
    "audit_checkpoints",
    "audit_head",
    "audit_records",
    "audit_tables",
    "export_audit",
    "read_checkpoints",
    "verify_audit",
]

CHECKPOINTS_FILE: Final = "audit-checkpoints.jsonl"
"""In the service's state directory."""
_INTERVAL = 1.0
"""Seconds between two checkpoints at least."""


async def audit_head(database: Database) -> ChainHead:
    """The chain's present end, as the database claims it.

    Raises:
        UnavailableError: the database cannot be read.
    """
    row = await database.fetch_one(database.prepare(SELECT_PRESENT_HEAD))
    return ChainHead(row["sequence"], row["hash"]) if row else GENESIS


async def audit_records(database: Database) -> AsyncIterator[StoredRecord]:
    """Every record, first to last, one snapshot; nothing is verified.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: a record's detail is not JSON.
    """
    previous = GENESIS.hash
    async for row in database.scan(database.prepare(SELECT_RECORDS)):
        try:
            detail = orjson.loads(row["detail"])
        except orjson.JSONDecodeError as error:
            raise AuditError(
                f"record {row['sequence']} was changed: its detail is not JSON", row["sequence"]
            ) from error
        record = AuditRecord(row["sequence"], row["at"], row["event"], row["actor"], detail)
        yield StoredRecord(record, previous, row["hash"])
        previous = row["hash"]


async def export_audit(database: Database) -> AsyncIterator[bytes]:
    """The log as JSONL, one line per record; `pkicore.audit.parse_export` reads it back.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: a record's detail is not JSON.
    """
    async for stored in audit_records(database):
        yield export_line(stored)


async def verify_audit(
    database: Database, checkpoints: Sequence[Checkpoint], public_key: PublicKey | None
) -> ChainHead:
    """Verifies the log in the database from its first record to its head.

    Args:
        database: Holds the log.
        checkpoints: From `read_checkpoints`.
        public_key: The audit key that signed them; None where there are none.

    Raises:
        AuditError: `.sequence` is the first record that is wrong, missing or contradicts a checkpoint.
        UnavailableError: the database cannot be read.
    """
    for checkpoint in checkpoints:
        if public_key is None:
            raise AuditError("there are checkpoints, but no public key to verify them", checkpoint.sequence)
        verify_checkpoint(checkpoint, public_key)
    claimed = await audit_head(database)
    verifier = ChainVerifier(checkpoints)
    async for stored in audit_records(database):
        verifier.take(stored)
    head = verifier.finish()
    if head.sequence < claimed.sequence:
        raise AuditError(
            f"record {head.sequence + 1} is missing: the log went on to {claimed.sequence}", head.sequence + 1
        )
    return head


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """Reads a checkpoint file; an unfinished last line, which a crash leaves behind, counts for nothing.

    Raises:
        AuditError: a line is no checkpoint.
        OSError: the file cannot be read; one that does not exist holds none.
    """
    if not path.exists():
        return []
    with path.open("rb") as lines:
        return [Checkpoint.from_line(line) for line in lines if line.endswith(b"\n")]


class Checkpointer:
    """Signs the chain's end into a file outside the database.

    Args:
        database: Holds the chain.
        key: The service's audit key.
        path: The file, appended to and synchronised for each checkpoint.
        clock: The checkpoints' time.
    """

    def __init__(self, database: Database, key: SigningKey, path: Path, clock: Clock) -> None:
        self._database = database
        self._key = key
        self._path = path
        self._clock = clock
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
        if row is None or row["sequence"] <= self._signed:
            return
        head = ChainHead(row["sequence"], row["hash"])
        checkpoint = await sign_checkpoint(head, self._key, unix(self._clock.now()))
        await asyncio.to_thread(_append_line, self._path, checkpoint.to_line())
        self._signed = head.sequence


class AuditSettings(Protocol):
    """The settings of a service that keeps an audit log."""

    @property
    def audit_key(self) -> str:
        """The key of the checkpoints, as `open_key` takes it."""

    @property
    def passphrase_file(self) -> Path:
        """What opens it."""

    @property
    def state_dir(self) -> Path:
        """Where CHECKPOINTS_FILE goes."""


@asynccontextmanager
async def audit_checkpoints(settings: AuditSettings, database: Database, clock: Clock) -> AsyncIterator[Checkpointer]:
    """A service's checkpointer, to be run in the background; the last checkpoint is written at the end.

    Raises:
        KeyAccessError: the audit key cannot be opened.
        OSError, KeyAccessError, UnavailableError: at the end, as `Checkpointer.write`.
    """
    with ThreadPoolExecutor(1, "audit") as pool:
        path = settings.passphrase_file
        key = await open_key(settings.audit_key, secrets=lambda _uri: read_passphrase(path), pool=pool)
        checkpointer = Checkpointer(database, key, settings.state_dir / CHECKPOINTS_FILE, clock)
        try:
            yield checkpointer
        finally:
            await checkpointer.write()


def _append_line(path: Path, line: bytes) -> None:
    """Appends durably; drops what a crash left unfinished at the end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(_finished_size(path.read_bytes()))
        file.truncate()
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _finished_size(content: bytes) -> int:
    return content.rfind(b"\n") + 1
