"""A log from its first record to its last, wherever the records are: archives first, then the database."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from pkicore.audit import StoredRecord, export_line
from pkicore.audit.segments import Segment
from pkicore.errors import AuditError
from services.chassis.audit.records import audit_base, export_audit
from services.chassis.audit.verification import ArchiveWalk, Evidence
from services.chassis.database import Database


async def export_log(database: Database, archives: Path, evidence: Evidence) -> AsyncGenerator[bytes, None]:
    """The whole log as JSONL; the tombstone of records that were removed stands in their place.

    Who stops early closes it.

    Args:
        database: Holds the newest part.
        archives: The directory of the rest.
        evidence: Its key verifies archives; what is to be said of them is left there.

    Raises:
        AuditError: an archive is broken or missing.
        UnavailableError: the database cannot be read.
        OSError: an archive cannot be read.
    """
    walk = ArchiveWalk(Evidence((), evidence.public_key, evidence.notices))
    for item in walk.records(archives):
        yield _line(item)
    base = await audit_base(database)
    if base.sequence > walk.head.sequence:
        for item in walk.records(archives):  # archived while the walk went on
            yield _line(item)
    if base.sequence > walk.head.sequence:
        missing = walk.head.sequence + 1
        raise AuditError(f"record {missing} is missing: records up to {base.sequence} were archived", missing)
    async with aclosing(export_audit(database, walk.head)) as lines:
        async for line in lines:
            yield line


def _line(item: StoredRecord | Segment) -> bytes:
    return export_line(item) if isinstance(item, StoredRecord) else item.to_line()
