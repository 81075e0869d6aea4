"""The records that are in the database, and their export as lines."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import orjson

from pkicore.audit import GENESIS, AuditRecord, ChainHead, StoredRecord, export_line
from pkicore.encoding import canonical_json
from pkicore.errors import AuditError
from services.chassis.database import Database, Row
from services.chassis.database.journal import SELECT_BASE, SELECT_PRESENT_HEAD, SELECT_RECORDS

_END: Final = 2**63 - 1
_TYPES: Final = {"sequence": int, "at": int, "event": str, "actor": str, "detail": str, "hash": bytes}


async def audit_head(database: Database) -> ChainHead:
    """The chain's present end, as the database claims it.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: it is no end that a service writes.
    """
    return _head(await database.fetch_one(database.prepare(SELECT_PRESENT_HEAD)))


async def audit_base(database: Database) -> ChainHead:
    """The last record that left the database for an archive; GENESIS where none did.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: it is no end that a service writes.
    """
    return _head(await database.fetch_one(database.prepare(SELECT_BASE)))


async def audit_records(
    database: Database, base: ChainHead | None = None, last: int = _END
) -> AsyncGenerator[StoredRecord, None]:
    """Every record in the database, first to last, one snapshot; nothing is verified. Who stops early closes it.

    Args:
        database: Holds the log.
        base: From `audit_base`, where the caller has it already.
        last: Where to end.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: a record is not as records are written.
    """
    base = await audit_base(database) if base is None else base
    previous = base.hash
    async with aclosing(database.scan(database.prepare(SELECT_RECORDS), after=base.sequence, to=last)) as rows:
        async for row in rows:
            stored = stored_record(row, previous)
            yield stored
            previous = stored.hash


async def export_audit(database: Database, base: ChainHead | None = None) -> AsyncGenerator[bytes, None]:
    """The log in the database as JSONL, one line per record; `pkicore.audit.parse_export` reads it back.

    Raises:
        UnavailableError: the database cannot be read.
        AuditError: a record is not as records are written.
    """
    async with aclosing(audit_records(database, base)) as records:
        async for stored in records:
            yield export_line(stored)


def stored_record(row: Row, previous: bytes) -> StoredRecord:
    """A row as a record.

    Raises:
        AuditError: a column holds what no service writes into it.
    """
    sequence = row["sequence"]
    for column, kind in _TYPES.items():
        if type(row[column]) is not kind:
            raise AuditError(f"record {sequence} was changed: its {column} is no {kind.__name__}", _whole(sequence))
    try:
        detail = orjson.loads(row["detail"])
    except orjson.JSONDecodeError as error:
        raise AuditError(f"record {sequence} was changed: its detail is not JSON", sequence) from error
    if not isinstance(detail, dict) or canonical_json(detail).decode() != row["detail"]:
        raise AuditError(f"record {sequence} was changed: its detail is not in canonical form", sequence)
    return StoredRecord(AuditRecord(sequence, row["at"], row["event"], row["actor"], detail), previous, row["hash"])


def _head(row: Row | None) -> ChainHead:
    if row is None:
        return GENESIS
    if type(row["sequence"]) is not int or type(row["hash"]) is not bytes:
        raise AuditError("the head of the log was changed: it is no number and hash")
    return ChainHead(row["sequence"], row["hash"])


def _whole(value: object) -> int | None:
    return value if type(value) is int else None
