"""The SQL of evidence: which archives there are, and the lines of the audit log that are about a signature."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa

from pkicore.audit import AuditRecord, ChainHead, StoredRecord
from services.chassis.audit import audit_base
from services.chassis.audit.archives import Archived, find_archived
from services.chassis.database import AuditEvent, Database, Row, Unit, Write
from services.signing.schema import audit_head, audit_log, evidence

_MAX_LINES: Final = 1000  # of the audit log about one signature


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """An archive of evidence.

    Attributes:
        id: `ev_…`.
        tenant: whose signatures.
        name: of the release.
        size: octets.
        sha256: of the archive, lower-case hexadecimal.
        manifest_signature: id of the signature over its manifest.
        retained_until: the earliest date of its signatures; None where one has none.
        created_at: Unix seconds.
        created_by: the caller.
    """

    id: str
    tenant: str
    name: str
    size: int
    sha256: str
    manifest_signature: str
    retained_until: int | None
    created_at: int
    created_by: str


class EvidenceStore:
    """Archives, and extracts of the audit log.

    Args:
        database: of the service.
        audit_archives: where records are that have left the database; None where none do.
    """

    def __init__(self, database: Database, audit_archives: Path | None = None) -> None:
        self._database = database
        self._audit_archives = audit_archives
        prepare = database.prepare
        of, of_tenant = sa.bindparam("of", type_=sa.Text), sa.bindparam("of_tenant", type_=sa.Text)
        first, last = sa.bindparam("first", type_=sa.BigInteger), sa.bindparam("last", type_=sa.BigInteger)
        self._insert = prepare(
            sa.insert(evidence).values({column.name: sa.bindparam(column.name) for column in evidence.c})
        )
        self._find = prepare(sa.select(evidence).where(evidence.c.id == of, evidence.c.tenant == of_tenant))
        self._page = prepare(
            sa.select(evidence)
            .where(evidence.c.tenant == of_tenant, evidence.c.id < sa.bindparam("before"))
            .order_by(evidence.c.id.desc())
            .limit(sa.bindparam("most"))
        )
        self._old = prepare(sa.select(evidence.c.id).where(evidence.c.created_at < sa.bindparam("before")))
        self._there = prepare(sa.select(evidence.c.id).where(evidence.c.id == of))
        self._delete = prepare(sa.delete(evidence).where(evidence.c.id == of))
        self._head = prepare(sa.select(audit_head.c.sequence).where(audit_head.c.id == 1))
        self._record = prepare(sa.select(audit_log).where(audit_log.c.sequence == sa.bindparam("sequence")))
        self._about = prepare(
            sa.select(audit_log)
            .where(audit_log.c.sequence >= first, audit_log.c.sequence <= last, audit_log.c.detail.like(of))
            .order_by(audit_log.c.sequence)
            .limit(_MAX_LINES)
        )

    async def keep(self, archive: StoredEvidence, promises: Sequence[Write], event: AuditEvent) -> None:
        """Commit that an archive is there, and what it promises.

        Raises:
            ConflictError: one of its signatures is gone.
        """
        row = {name: getattr(archive, name) for name in StoredEvidence.__slots__}
        await self._database.commit(Unit("evidence", [Write(self._insert, row, 1), *promises], [event]))

    async def find(self, tenant: str, evidence_id: str) -> StoredEvidence | None:
        """An archive of the tenant."""
        row = await self._database.fetch_one(self._find, of=evidence_id, of_tenant=tenant)
        return None if row is None else _archive(row)

    async def page(self, tenant: str, before: str, most: int) -> list[StoredEvidence]:
        """Archives of a tenant with ids below `before`, the newest first."""
        rows = await self._database.fetch_all(self._page, of_tenant=tenant, before=before, most=most)
        return [_archive(row) for row in rows]

    async def is_kept(self, evidence_id: str) -> bool:
        """Whether an archive has its row."""
        return await self._database.fetch_one(self._there, of=evidence_id) is not None

    async def made_before(self, at: int) -> list[str]:
        """The ids of archives that were made before that moment."""
        return [row["id"] for row in await self._database.fetch_all(self._old, before=at)]

    async def forget(self, evidence_id: str, event: AuditEvent) -> None:
        """Delete an archive's row.

        Raises:
            ConflictError: it is gone already.
        """
        await self._database.commit(Unit("evidence-removed", [Write(self._delete, {"of": evidence_id}, 1)], [event]))

    # the audit log

    async def audit_records(self, word: str, since: int, until: int) -> Archived:
        """Records between two moments whose detail holds a word, from the database and from the archives.

        Args:
            word: without characters that LIKE gives a meaning.
            since: Unix seconds.
            until: Unix seconds.

        Raises:
            AuditError: an archive of that time cannot be read as one.
            OSError: it cannot be read.
            DatabaseError: the database cannot be read.
        """
        base = await audit_base(self._database)
        archived = Archived([], [])
        if base.sequence and self._audit_archives is not None:
            archived = await asyncio.to_thread(find_archived, self._audit_archives, word, since, until)
        records = [each for each in archived.records if each.record.sequence <= base.sequence]
        return Archived(records + await self._in_database(base, word, since, until), archived.removed)

    async def _in_database(self, base: ChainHead, word: str, since: int, until: int) -> list[StoredRecord]:
        head = await self._database.fetch_one(self._head)
        newest = 0 if head is None else int(head["sequence"])
        first = await self._first_since(since, base.sequence + 1, newest)
        last = await self._first_since(until + 1, base.sequence + 1, newest) - 1
        rows = await self._database.fetch_all(self._about, first=first, last=last, of=f"%{word}%")
        return [await self._stored(row, base) for row in rows]

    async def _first_since(self, at: int, low: int, newest: int) -> int:
        """The first sequence that was recorded at or after a moment; one beyond the newest where none was."""
        high = newest + 1
        while low < high:
            middle = (low + high) // 2
            row = await self._database.fetch_one(self._record, sequence=middle)
            if row is None or row["at"] >= at:
                high = middle
            else:
                low = middle + 1
        return low

    async def _stored(self, row: Row, base: ChainHead) -> StoredRecord:
        before = await self._database.fetch_one(self._record, sequence=row["sequence"] - 1)
        detail: dict[str, Any] = orjson.loads(row["detail"])
        record = AuditRecord(row["sequence"], row["at"], row["event"], row["actor"], detail)
        return StoredRecord(record, base.hash if before is None else before["hash"], row["hash"])


def _archive(row: Row) -> StoredEvidence:
    return StoredEvidence(**{name: row[name] for name in StoredEvidence.__slots__})
