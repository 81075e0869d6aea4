"""Records leave the database for archive files, and old archives are removed, by the service's settings alone.

A step is made durable before the next begins, so that SIGKILL anywhere loses nothing:

1. the records are written to a file, which gets its name once it is whole, on the disk and read back;
2. one commit: the database's part of the chain begins behind them, and the event `audit.archived` says so;
3. their rows are deleted, a pass later: whoever was reading meanwhile has found them.

An archive that is removed is first recorded (`audit.removed`), then a signed tombstone takes its place: the chain can
still be followed through it. Several replicas on one database take turns by a conditional update at step 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from pkicore.audit import ChainHead, StoredRecord
from pkicore.audit.segments import ARCHIVE, TOMBSTONE, Segment, sign_segment, verify_segment
from pkicore.clock import Clock, unix
from pkicore.errors import AuditError, PkiError
from pkicore.keys import SigningKey
from services.chassis.audit.archives import (
    ArchiveWriter,
    SegmentFile,
    bury,
    check_archive,
    read_head,
    remove,
    segment_files,
    sweep,
)
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.audit.records import audit_base, audit_head, audit_records
from services.chassis.database import AuditEvent, Database, Row, Unit, Write
from services.chassis.database.journal import (
    DELETE_RECORDS,
    INSERT_BASE,
    SELECT_FIRST,
    SELECT_RECORD,
    UPDATE_BASE,
)
from services.chassis.errors import ConflictError, DatabaseError, DuplicateError

ARCHIVED: Final = "audit.archived"
REMOVED: Final = "audit.removed"
_ACTOR: Final = "audit"
_INTERVAL: Final = 60.0
_DAY: Final = 86400
_MOST: Final = 100_000
"""Records of one archive."""
_AT_ONCE: Final = 1000
"""Rows deleted in one commit, records handed to the writing thread."""
_FAULTS: Final = (OSError, DatabaseError, PkiError)

_log = structlog.get_logger("audit")


@dataclass(frozen=True)
class ArchiveRules:
    """What is archived, and what of it removed; 0 means never.

    Attributes:
        directory: of the archives.
        after_days: records older than this leave the database, a day's together.
        above_records: with more than this in the database, the older half leaves.
        retain_days: archives whose newest record is older are removed.
    """

    directory: Path
    after_days: int = 0
    above_records: int = 0
    retain_days: int = 0


def _unobserved(_step: str) -> None:
    """Nobody is told."""


class Archiver:
    """Archives and removes, pass by pass.

    Args:
        database: Holds the log.
        key: The service's audit key.
        rules: What to do.
        clock: The time.
        observer: Called with each step's name once it is done; crash tests end the process there.
        most: Records of one archive.
        metrics: Told how each pass ended.
    """

    def __init__(
        self,
        database: Database,
        key: SigningKey,
        rules: ArchiveRules,
        clock: Clock,
        *,
        observer: Callable[[str], None] = _unobserved,
        most: int = _MOST,
        metrics: AuditMetrics | None = None,
    ) -> None:
        self._metrics = metrics or AuditMetrics()
        self._database = database
        self._key = key
        self._rules = rules
        self._clock = clock
        self._observer = observer
        self._most = most
        self._record = database.prepare(SELECT_RECORD)
        self._first = database.prepare(SELECT_FIRST)
        self._insert_base, self._update_base = database.prepare(INSERT_BASE), database.prepare(UPDATE_BASE)
        self._delete = database.prepare(DELETE_RECORDS)

    async def run(self) -> None:
        """A pass a minute, for ever; what goes wrong is logged and tried again."""
        while True:
            try:
                await self.once()
                await self._count()
            except _FAULTS as error:
                _log.error("the audit log is not archived", error=str(error))
                self._metrics.failing.set(1)
            else:
                self._metrics.failing.set(0)
            await asyncio.sleep(_INTERVAL)

    async def once(self) -> None:
        """One pass.

        Raises:
            AuditError: the log or an archive is broken; it is left as it is.
            OSError: the directory cannot be written.
            DatabaseError, KeyAccessError: the database or the key cannot be used.
        """
        await self._purge()
        if self._rules.after_days or self._rules.above_records:
            for path in await asyncio.to_thread(sweep, self._rules.directory):
                _log.warning("an unfinished audit archive was removed", file=str(path))
            await self._archive_due()
        if self._rules.retain_days:
            await self._remove_old()

    async def _count(self) -> None:
        head, base = await audit_head(self._database), await audit_base(self._database)
        self._metrics.records.set(head.sequence - base.sequence)

    # archiving

    async def _archive_due(self) -> None:
        """One archive after the other up to where the rules say, or until another replica is at it."""
        last, rule = await self._due()
        while (base := await audit_base(self._database)).sequence < last:
            if not await self._archive(base, min(last, base.sequence + self._most), rule):
                return

    async def _due(self) -> tuple[int, str]:
        """The last record that is to go, and the rule; 0 where nothing is due."""
        base, head = (await audit_base(self._database)).sequence, (await audit_head(self._database)).sequence
        last, rule = 0, ""
        most = self._rules.above_records
        if most and head - base > most:
            last, rule = head - most // 2, f"above {most} records"
        first = await self._row(base + 1)
        if self._rules.after_days and first is not None:
            until = unix(self._clock.now()) - self._rules.after_days * _DAY
            if first["at"] < until - _DAY:
                old = await self._last_before(until, base, head)
                last, rule = (old, f"after {self._rules.after_days} days") if old > last else (last, rule)
        return last, rule

    async def _last_before(self, at: int, base: int, head: int) -> int:
        """The last record older than a moment; sequence and time rise together."""
        low, high = base, head
        while low < high:
            middle = (low + high + 1) // 2
            row = await self._row(middle)
            if row is None or row["at"] >= at:
                high = middle - 1
            else:
                low = middle
        return low

    async def _archive(self, base: ChainHead, last: int, rule: str) -> bool:
        """One archive; False where another replica was quicker.

        Its file stays then: in a shared directory it may be the other's, of the same name.
        """
        try:
            head = await self._left_behind(base) or await self._write(await self._planned(base, last, rule))
        except AuditError:
            if await audit_base(self._database) == base:
                raise
            return False  # the other has deleted the rows already
        moved = await self._move_base(base, head)
        self._observer("recorded")
        return moved

    async def _left_behind(self, base: ChainHead) -> Segment | None:
        """The head of an archive that was finished and not recorded: a crash came between."""
        for file in await asyncio.to_thread(segment_files, self._rules.directory):
            if file.first != base.sequence + 1 or file.is_tombstone:
                continue
            head = await asyncio.to_thread(check_archive, file)
            verify_segment(head, self._key.public_key)
            row = await self._row(head.last)
            if head.before != base.hash or row is None or row["hash"] != head.after:
                raise AuditError(f"{file.path.name} is an archive of another log: it is in the way", head.first)
            return head
        return None

    async def _planned(self, base: ChainHead, last: int, rule: str) -> Segment:
        first, final = await self._row(base.sequence + 1), await self._row(last)
        if first is None or final is None:
            missing = base.sequence + 1 if first is None else last
            raise AuditError(f"record {missing} is missing", missing)
        now = unix(self._clock.now())
        segment = Segment(
            ARCHIVE, base.sequence + 1, last, base.hash, final["hash"], first["at"], final["at"], rule, now
        )
        return await sign_segment(segment, self._key)

    async def _write(self, head: Segment) -> Segment:
        writer = await asyncio.to_thread(ArchiveWriter, self._rules.directory, head)
        try:
            batch: list[StoredRecord] = []
            async with aclosing(audit_records(self._database, head.start, head.last)) as records:
                async for stored in records:
                    batch.append(stored)
                    if len(batch) == _AT_ONCE:
                        await asyncio.to_thread(writer.add, batch)
                        batch = []
            await asyncio.to_thread(writer.add, batch)
            self._observer("written")
            await asyncio.to_thread(writer.finish)
        except BaseException:
            writer.abandon()
            raise
        self._observer("named")
        return head

    async def _move_base(self, base: ChainHead, head: Segment) -> bool:
        to = {"to_sequence": head.last, "to_hash": head.after}
        if base.sequence:
            write = Write(self._update_base, to | {"from_sequence": base.sequence}, 1)
        else:
            write = Write(self._insert_base, to, 1)
        try:
            await self._database.commit(Unit("audit-archived", [write], [_event(ARCHIVED, head)]))
        except (ConflictError, DuplicateError):
            return False
        return True

    async def _purge(self) -> None:
        """Deletes rows that an earlier pass has archived."""
        base = (await audit_base(self._database)).sequence
        while base:
            row = await self._database.fetch_one(self._first)
            first = None if row is None else row["sequence"]
            if first is None or first > base:
                return
            to = min(base, first + _AT_ONCE - 1)
            await self._database.commit(Unit("audit-purged", [Write(self._delete, {"to": to})]))
            self._observer("purged")

    # retention

    async def _remove_old(self) -> None:
        """Removes archives from the oldest on, up to the first that is to be kept."""
        now = unix(self._clock.now())
        base = (await audit_base(self._database)).sequence
        files = await asyncio.to_thread(segment_files, self._rules.directory)
        buried = {(file.first, file.last) for file in files if file.is_tombstone}
        for file in files:
            if file.is_tombstone:
                continue
            if (file.first, file.last) in buried:
                await asyncio.to_thread(remove, file)  # its removal was cut short
                continue
            head = await asyncio.to_thread(read_head, file)
            if head.last > base or head.until >= now - self._rules.retain_days * _DAY:
                return
            await self._remove(file, head, now)

    async def _remove(self, file: SegmentFile, head: Segment, now: int) -> None:
        verify_segment(head, self._key.public_key)
        rule = f"keep {self._rules.retain_days} days"
        tombstone = await sign_segment(replace(head, kind=TOMBSTONE, rule=rule, at=now, signature=b""), self._key)
        await self._database.commit(Unit("audit-removed", (), [_event(REMOVED, tombstone)]))
        self._observer("removal-recorded")
        await asyncio.to_thread(bury, file, tombstone)
        self._observer("buried")

    async def _row(self, sequence: int) -> Row | None:
        return await self._database.fetch_one(self._record, of=sequence)


def _event(name: str, segment: Segment) -> AuditEvent:
    detail = {
        "first": segment.first,
        "last": segment.last,
        "before": segment.before.hex(),
        "after": segment.after.hex(),
        "until": segment.until,
        "rule": segment.rule,
    }
    return AuditEvent(name, _ACTOR, detail)


def says(stored: StoredRecord, event: str, end: ChainHead) -> bool:
    """Whether a record is this event about records that end there."""
    detail = stored.record.detail
    if stored.record.event != event or not isinstance(detail.get("after"), str):
        return False
    return detail.get("last") == end.sequence and detail["after"] == end.hash.hex()
