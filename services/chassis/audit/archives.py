"""Archive files of the audit log: gzip'd JSON lines, a signed head first; and the tombstones of those removed.

`zcat` shows an archive. A file gets its name once it is whole and on the disk; what a crash leaves behind has another
name and counts for nothing.
"""

from __future__ import annotations

import gzip
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from pkicore.audit import ChainVerifier, StoredRecord, TruncatedLine, export_line, parse_record
from pkicore.audit.segments import ARCHIVE, TOMBSTONE, LogLine, Segment, bounded_lines, parse_log, same_head
from pkicore.encoding import sync_directory, write_atomically
from pkicore.errors import AuditError

ARCHIVE_DIRECTORY: Final = "audit-archive"
"""In the service's state directory, unless its settings say otherwise."""
_NAME: Final = re.compile(r"audit-(\d{12,19})-(\d{12,19})\.(jsonl\.gz|removed\.json)")
_SUFFIX: Final = {ARCHIVE: "jsonl.gz", TOMBSTONE: "removed.json"}
_UNFINISHED: Final = ".unfinished-"
_UNFINISHED_SECONDS: Final = 3600
_LEVEL: Final = 6
GZIP_MAGIC: Final = b"\x1f\x8b"


class SegmentFile(NamedTuple):
    """A file by what its name says; `read_head` and `read_archive` say whether that is true."""

    first: int
    last: int
    is_tombstone: bool
    path: Path


def segment_path(directory: Path, segment: Segment) -> Path:
    """Where a segment's file stands."""
    return directory / f"audit-{segment.first:012}-{segment.last:012}.{_SUFFIX[segment.kind]}"


def segment_files(directory: Path) -> list[SegmentFile]:
    """The archives and tombstones of a directory in the order of their records; none where it does not exist.

    Raises:
        OSError: the directory cannot be read.
    """
    if not directory.is_dir():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in directory.iterdir())
    return sorted(
        SegmentFile(int(name[1]), int(name[2]), name[3] == _SUFFIX[TOMBSTONE], path) for path, name in named if name
    )


def read_head(file: SegmentFile) -> Segment:
    """The signed head of an archive, or a tombstone; its signature is the caller's to verify.

    Raises:
        AuditError: it is none, or one of other records than the name says.
        OSError: it cannot be read.
    """
    if file.path.exists() and not file.path.is_file():  # a pipe would be waited for
        raise AuditError(f"{file.path.name} is no plain file", file.first)
    if file.is_tombstone:
        with file.path.open("rb") as lines:
            return _named(file, next(bounded_lines(lines), b""))
    with gzip.open(file.path) as stream, _intact(file):
        return _named(file, next(bounded_lines(cast("BinaryIO", stream)), b""))


def read_archive(file: SegmentFile) -> Iterator[StoredRecord]:
    """The records of an archive, without its head; nothing is verified.

    Raises:
        AuditError: it is cut off, is not gzip'd, or a line is no record.
        OSError: it cannot be read.
    """
    with gzip.open(file.path) as stream, _intact(file):
        lines = bounded_lines(cast("BinaryIO", stream))
        next(lines, b"")
        for item in parse_log(lines):
            if isinstance(item, TruncatedLine):
                raise AuditError(f"{file.path.name} is cut off in line {item.number + 1}", None)
            if isinstance(item, Segment):
                raise AuditError(f"{file.path.name} holds the head of another archive", item.first)
            yield item


def archive_lines(path: Path) -> Iterator[LogLine]:
    """Every line of one archive, its head too, whatever the file's name; nothing is verified.

    Raises:
        AuditError: it is cut off, is not gzip'd, or a line is neither record nor head.
        OSError: it cannot be read.
    """
    with gzip.open(path) as stream, _intact(SegmentFile(0, 0, is_tombstone=False, path=path)):
        yield from parse_log(bounded_lines(cast("BinaryIO", stream)))


def check_archive(file: SegmentFile) -> Segment:
    """Reads an archive whole and follows its chain from its head's start to its head's end.

    Raises:
        AuditError: `.sequence` is the first record that is wrong.
        OSError: it cannot be read.
    """
    head = read_head(file)
    verifier = ChainVerifier(start=head.start)
    for stored in read_archive(file):
        verifier.take(stored)
    if not same_head(verifier.head, head.end):
        raise AuditError(f"{file.path.name} does not end with the record {head.last} of its head", head.last)
    return head


class Archived(NamedTuple):
    """What archives hold of a time.

    Attributes:
        records: that were looked for.
        removed: tombstones of archives that may have held more.
    """

    records: list[StoredRecord]
    removed: list[Segment]


def find_archived(directory: Path, word: str, since: int, until: int) -> Archived:
    """Archived records between two moments whose line holds a word; nothing is verified.

    Raises:
        AuditError: a file is no archive, or a line of it no record.
        OSError: a file cannot be read.
    """
    sought, records, removed = word.encode(), dict[int, StoredRecord](), list[Segment]()
    for file in segment_files(directory):
        head = read_head(file)
        if head.until < since or head.since > until:
            continue
        if file.is_tombstone:
            removed.append(head)
            continue
        with gzip.open(file.path) as stream, _intact(file):
            for number, line in enumerate(bounded_lines(cast("BinaryIO", stream)), start=1):
                if number > 1 and sought in line:
                    stored = parse_record(line, number)
                    if since <= stored.record.at <= until:
                        records[stored.record.sequence] = stored
    return Archived(list(records.values()), removed)


class ArchiveWriter:
    """Writes one archive: `add` records in their order, then `finish`.

    Args:
        directory: Is made if it is not there.
        head: Signed.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, directory: Path, head: Segment) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = segment_path(directory, head)
        self._unfinished = directory / f"{_UNFINISHED}{secrets.token_hex(8)}"
        self._head = head
        self._chain = ChainVerifier(start=head.start)
        descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._zip = gzip.GzipFile("", "wb", _LEVEL, self._file, mtime=0)
        self._zip.write(head.to_line())

    def add(self, records: Iterable[StoredRecord]) -> None:
        """Verifies and writes the next records.

        Raises:
            AuditError: the chain is broken: it is not archived, so that nobody takes it for good.
            OSError: the disk is full.
        """
        for stored in records:
            self._chain.take(stored)
            self._zip.write(export_line(stored))

    def finish(self) -> Path:
        """Makes the file durable, gives it its name, and reads it back.

        Raises:
            AuditError: it does not hold what its head says.
            OSError: it cannot be written.
        """
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        check_archive(SegmentFile(self._head.first, self._head.last, is_tombstone=False, path=self._unfinished))
        self._unfinished.replace(self._path)
        sync_directory(self._path.parent)
        return self._path

    def abandon(self) -> None:
        """Takes away what was not finished; first of all its room, which may be what is missing."""
        self._unfinished.unlink(missing_ok=True)
        with suppress(OSError):  # what is still buffered is not to be kept
            self._file.close()


def bury(file: SegmentFile, tombstone: Segment) -> None:
    """Puts a tombstone, durably, and removes the archive.

    Raises:
        OSError: the directory cannot be written; the archive is still there.
    """
    write_atomically(segment_path(file.path.parent, tombstone), tombstone.to_line(), 0o600)
    remove(file)


def remove(file: SegmentFile) -> None:
    """Removes an archive durably.

    Raises:
        OSError: the directory cannot be written.
    """
    file.path.unlink(missing_ok=True)
    sync_directory(file.path.parent)


def sweep(directory: Path) -> list[Path]:
    """Removes what a crash left unfinished; what is younger than an hour may be another replica's.

    Raises:
        OSError: the directory cannot be written.
    """
    old = time.time() - _UNFINISHED_SECONDS
    left = [path for path in directory.glob(f"{_UNFINISHED}*") if path.stat().st_mtime < old]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _named(file: SegmentFile, line: bytes) -> Segment:
    name = file.path.name
    if not line.endswith(b"\n"):
        raise AuditError(f"{name} is no archive: it has no head", file.first)
    try:
        segment = Segment.from_line(line)
    except AuditError as error:
        raise AuditError(f"{name} is no archive: {error}", file.first) from error
    expected = TOMBSTONE if file.is_tombstone else ARCHIVE
    if (segment.kind, segment.first, segment.last) != (expected, file.first, file.last):
        what = f"the {segment.kind} of records {segment.first} to {segment.last}"
        raise AuditError(f"{name} is {what}, which its name does not say", file.first)
    return segment


@contextmanager
def _intact(file: SegmentFile) -> Iterator[None]:
    """Says in our own words what gzip says of a broken file."""
    try:
        yield
    except EOFError as error:
        raise AuditError(f"{file.path.name} is cut off", file.first or None) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise AuditError(f"{file.path.name} is damaged, or not gzip'd: {error}", file.first or None) from error
