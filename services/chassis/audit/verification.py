"""Whether a log is whole: archives, then the database, met by every checkpoint; or a file of lines by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pkicore.algorithms import PublicKey
from pkicore.audit import (
    GENESIS,
    ChainHead,
    ChainVerifier,
    Checkpoint,
    StoredRecord,
    TruncatedLine,
    verify_checkpoint,
)
from pkicore.audit.segments import ARCHIVE, LogLine, Segment, same_head, verify_segment
from pkicore.errors import AuditError
from services.chassis.audit.archives import SegmentFile, read_archive, read_head, segment_files
from services.chassis.audit.records import audit_base, audit_head, audit_records
from services.chassis.audit.rotation import ARCHIVED, REMOVED, says
from services.chassis.database import Database

_NO_KEY: Final = "no public key was given"


@dataclass
class Evidence:
    """What a log is held against, and what is to be said of it beside its being whole.

    Attributes:
        checkpoints: From `read_checkpoints`.
        public_key: The service's audit key; None where it is not at hand.
        notices: Sentences on what could not be, or need not have been, verified.
    """

    checkpoints: Sequence[Checkpoint] = ()
    public_key: PublicKey | None = None
    notices: list[str] = field(default_factory=list)

    def verify_checkpoints(self) -> None:
        """Verifies the signature of each.

        Raises:
            AuditError: one is not by the key, or there is no key.
        """
        for checkpoint in self.checkpoints:
            if self.public_key is None:
                raise AuditError("there are checkpoints, but no public key to verify them", checkpoint.sequence)
            verify_checkpoint(checkpoint, self.public_key)

    def verify_segment(self, segment: Segment) -> None:
        """Verifies a segment's signature, or says that it could not.

        Raises:
            AuditError: it is not by the key.
        """
        if self.public_key is not None:
            verify_segment(segment, self.public_key)
            return
        what = f"the {segment.kind} of records {segment.first} to {segment.last}"
        self.notices.append(f"the signature of {what} was not verified: {_NO_KEY}")

    def removed(self, tombstone: Segment) -> None:
        """Says what is no more."""
        when = datetime.fromtimestamp(tombstone.at, UTC).date().isoformat()
        records = f"records {tombstone.first} to {tombstone.last}"
        self.notices.append(f"{records} were removed on {when} by the rule {tombstone.rule!r}")


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
    return await verify_database(database, Evidence(checkpoints, public_key))


async def verify_database(database: Database, evidence: Evidence) -> ChainHead:
    """As `verify_audit`; what was archived is said, and not looked for.

    Raises:
        AuditError, UnavailableError: as `verify_audit`.
    """
    evidence.verify_checkpoints()
    base = await audit_base(database)
    if base.sequence:
        evidence.notices.append(f"records 1 to {base.sequence} are in archives, which were not looked at")
    return await _verify_rows(database, base, evidence, None)


async def verify_log(database: Database, archives: Path, evidence: Evidence) -> ChainHead:
    """Verifies a whole log: archives and tombstones from the first record on, then the database.

    Args:
        database: Holds the rest of the log.
        archives: The directory; there need be none where nothing was archived.
        evidence: What it is held against.

    Raises:
        AuditError: `.sequence` is the first record that is wrong, missing or contradicts a checkpoint.
        UnavailableError: the database cannot be read.
        OSError: an archive cannot be read.
    """
    evidence.verify_checkpoints()
    walk = ArchiveWalk(evidence)
    walk.follow(archives)
    base = await audit_base(database)
    if base.sequence not in walk.ends:  # archived while the walk went on
        walk.follow(archives)
    if base.sequence not in walk.ends:
        missing = walk.head.sequence + 1
        raise AuditError(f"record {missing} is missing: records up to {base.sequence} were archived", missing)
    if not same_head(ChainHead(base.sequence, walk.ends[base.sequence]), base):
        raise AuditError(f"record {base.sequence + 1} is not chained to the archives", base.sequence + 1)
    return await _verify_rows(database, base, evidence, walk)


async def _verify_rows(database: Database, base: ChainHead, evidence: Evidence, walk: ArchiveWalk | None) -> ChainHead:
    claimed = await audit_head(database)
    chain = ChainVerifier([item for item in evidence.checkpoints if item.sequence >= base.sequence], base)
    for sequence, after in walk.ends.items() if walk else ():
        if sequence > base.sequence:
            chain.expect(ChainHead(sequence, after))
    told, tombstone = base == GENESIS, walk.tombstone if walk else None
    at_claimed = base
    async with aclosing(audit_records(database, base)) as records:
        async for stored in records:
            chain.take(stored)
            told = told or says(stored, ARCHIVED, base)
            if tombstone is not None and says(stored, REMOVED, tombstone.end):
                tombstone = None
            if stored.record.sequence == claimed.sequence:
                at_claimed = stored.head
    head = chain.finish()
    if head.sequence < claimed.sequence:
        raise AuditError(
            f"record {head.sequence + 1} is missing: the log went on to {claimed.sequence}", head.sequence + 1
        )
    if not same_head(at_claimed, claimed):
        is_gone = claimed == GENESIS
        what = f"record {claimed.sequence} is not the one that the head of the log names"
        raise AuditError("the head of the log is gone" if is_gone else what, claimed.sequence or head.sequence)
    if not told:
        raise AuditError(f"record {base.sequence} is missing: no record says that it was archived", base.sequence)
    if tombstone is not None:
        raise AuditError(f"record {tombstone.last} is missing: no record says that it was removed", tombstone.last)
    return head


class ArchiveWalk:
    """Follows the chain through a directory of archives and tombstones.

    Attributes:
        head: How far it went.
        ends: The hash at the end of each segment, by sequence.
        tombstone: The last one, as long as no record was met that speaks of it.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._chain = ChainVerifier(evidence.checkpoints)
        self.ends: dict[int, bytes] = {GENESIS.sequence: GENESIS.hash}
        self.tombstone: Segment | None = None

    @property
    def head(self) -> ChainHead:
        """The chain's end so far."""
        return self._chain.head

    def follow(self, directory: Path) -> None:
        """Verifies every file of the directory.

        Raises:
            AuditError: `.sequence` is the first record that is wrong or missing.
            OSError: a file cannot be read.
        """
        for _ in self.records(directory):
            pass

    def records(self, directory: Path) -> Iterator[StoredRecord | Segment]:
        """As `follow`, handing out each verified record, and the tombstones of those that are no more.

        Raises:
            AuditError, OSError: as `follow`.
        """
        files = segment_files(directory)
        present = {(file.first, file.last) for file in files if not file.is_tombstone}
        for file in files:
            with _located(lambda: self.head):
                yield from self._file(file, present)

    def _file(self, file: SegmentFile, present: Collection[tuple[int, int]]) -> Iterator[StoredRecord | Segment]:
        segment = read_head(file)
        self._evidence.verify_segment(segment)
        if segment.first > self.head.sequence + 1:
            missing = self.head.sequence + 1
            raise AuditError(f"record {missing} is missing: {file.path.name} begins with {segment.first}", missing)
        if segment.first == self.head.sequence + 1 and not same_head(segment.start, self.head):
            raise AuditError(f"{file.path.name} is not chained to what is before it", segment.first)
        if not file.is_tombstone:
            yield from self._archived(file, segment)
        elif (file.first, file.last) in present:
            self._evidence.notices.append(f"{file.path.name}: the removal was cut short, the archive is there")
        elif segment.last > self.head.sequence:
            self._evidence.removed(segment)
            self._chain.jump(segment.end)
            self.tombstone = segment
            yield segment
        self.ends[segment.last] = segment.after

    def _archived(self, file: SegmentFile, segment: Segment) -> Iterator[StoredRecord]:
        """Records of an archive; those that another archive has too are verified, and handed out once."""
        part = ChainVerifier(start=segment.start)
        for stored in read_archive(file):
            part.take(stored)
            if stored.record.sequence == self.head.sequence:
                part.expect(self.head)
            elif stored.record.sequence > self.head.sequence:
                self._chain.take(stored)
                if self.tombstone is not None and says(stored, REMOVED, self.tombstone.end):
                    self.tombstone = None
                yield stored
        if not same_head(part.head, segment.end):
            raise AuditError(
                f"record {part.head.sequence + 1} is missing: {file.path.name} holds records up to {segment.last}",
                part.head.sequence + 1,
            )


@contextmanager
def _located(head: Callable[[], ChainHead]) -> Iterator[None]:
    """What cannot be read at all is named by the record that should be there."""
    try:
        yield
    except AuditError as error:
        if error.sequence is not None:
            raise
        unread = head().sequence + 1
        raise AuditError(f"record {unread} cannot be read: {error}", unread) from error


def verify_lines(lines: Iterable[LogLine], evidence: Evidence) -> tuple[int, ChainHead]:
    """Verifies an export, or one archive by itself.

    Returns:
        The sequence of the first record, and the chain's end.

    Raises:
        AuditError: `.sequence` is the first record that is wrong or missing.
    """
    evidence.verify_checkpoints()
    chain = ChainVerifier(evidence.checkpoints)
    with _located(lambda: chain.head):
        first, archive = 0, None
        for number, item in enumerate(lines):
            if isinstance(item, TruncatedLine):
                raise AuditError(f"line {item.number} is cut off after {item.size} bytes", chain.head.sequence + 1)
            if isinstance(item, StoredRecord):
                chain.take(item)
                first = first or item.record.sequence
                continue
            if item.kind == ARCHIVE and number:
                raise AuditError(f"line {number + 1} is the head of another archive", item.first)
            evidence.verify_segment(item)
            if item.kind == ARCHIVE:
                archive = item
                checkpoints = [each for each in evidence.checkpoints if item.first <= each.sequence <= item.last]
                chain = ChainVerifier(checkpoints, item.start)
            elif not same_head(item.start, chain.head):
                raise AuditError(f"record {item.first} is not chained to the one before it", item.first)
            else:
                evidence.removed(item)
                chain.jump(item.end)
        head = chain.finish()
    if archive is not None and not same_head(head, archive.end):
        missing = head.sequence + 1
        raise AuditError(f"record {missing} is missing: the archive's head says it goes to {archive.last}", missing)
    return first, head
