"""Signed statements about a run of records that left the database: into an archive file, or, by retention, for good.

An `ArchiveHead` stands before the records in their file; a `Tombstone` stands for records that are no more. Both name
the hash before the first record and that of the last, so a chain can be followed through them, and both are signed by
the service's audit key, which no other service has. Only `verify_segment` says that the signature is good.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final, Literal, TypeAlias

import orjson

from pkicore.algorithms import PublicKey, verify_signature
from pkicore.audit import (
    MAX_LINE,
    ChainHead,
    StoredRecord,
    TruncatedLine,
    hex_bytes,
    hex_hash,
    json_fields,
    parse_record,
    whole_number,
)
from pkicore.encoding import canonical_json
from pkicore.errors import AuditError, BadSignatureError
from pkicore.keys import SigningKey

_CONTEXT: Final = b"pqcpki audit segment v1\0"
_FIELDS: Final = frozenset({"segment", "first", "last", "before", "after", "since", "until", "rule", "at", "signature"})
ARCHIVE: Final = "archive"
TOMBSTONE: Final = "tombstone"
LogLine: TypeAlias = "StoredRecord | Segment | TruncatedLine"


@dataclass(frozen=True)
class Segment:
    """Records `first` to `last`, which are archived or were removed.

    Attributes:
        kind: whether the records follow, or are no more.
        first: sequence of the first record.
        last: sequence of the last record.
        before: the hash that the first record is chained to.
        after: the hash of the last record.
        since: time of the first record, Unix seconds.
        until: time of the last record, Unix seconds.
        rule: the setting by which it was archived or removed.
        at: when, Unix seconds.
        signature: by the service's audit key.
    """

    kind: Literal["archive", "tombstone"]
    first: int
    last: int
    before: bytes
    after: bytes
    since: int
    until: int
    rule: str
    at: int
    signature: bytes = b""

    @property
    def start(self) -> ChainHead:
        """What its first record is chained to."""
        return ChainHead(self.first - 1, self.before)

    @property
    def end(self) -> ChainHead:
        """The chain after its last record."""
        return ChainHead(self.last, self.after)

    def to_line(self) -> bytes:
        """One line of canonical JSON, with its line end."""
        return canonical_json(self._signed() | {"signature": self.signature.hex()}) + b"\n"

    def message(self) -> bytes:
        """What is signed."""
        return _CONTEXT + canonical_json(self._signed())

    def _signed(self) -> dict[str, Any]:
        return {
            "segment": self.kind,
            "first": self.first,
            "last": self.last,
            "before": self.before.hex(),
            "after": self.after.hex(),
            "since": self.since,
            "until": self.until,
            "rule": self.rule,
            "at": self.at,
        }

    @classmethod
    def from_line(cls, line: bytes) -> Segment:
        """Reads one line.

        Raises:
            AuditError: not the head of an archive, and no tombstone.
        """
        fields = json_fields(line, _FIELDS, "the head of the archive")
        first, last = whole_number(fields, "first"), whole_number(fields, "last")
        if fields["segment"] not in (ARCHIVE, TOMBSTONE) or not isinstance(fields["rule"], str):
            raise AuditError("the head of the archive has a field of the wrong type", first)
        if not 1 <= first <= last:
            raise AuditError(f"the archive claims records {first} to {last}", first)
        return cls(
            fields["segment"],
            first,
            last,
            hex_hash(fields, "before", first),
            hex_hash(fields, "after", first),
            whole_number(fields, "since"),
            whole_number(fields, "until"),
            fields["rule"],
            whole_number(fields, "at"),
            hex_bytes(fields, "signature", first),
        )


async def sign_segment(segment: Segment, key: SigningKey) -> Segment:
    """The segment with its signature."""
    return replace(segment, signature=await key.sign(segment.message()))


def verify_segment(segment: Segment, public_key: PublicKey) -> None:
    """Verifies a segment's signature.

    Raises:
        AuditError: it is not by this key over these values.
    """
    try:
        verify_signature(public_key, segment.signature, segment.message())
    except BadSignatureError as error:
        what = f"the {segment.kind} of records {segment.first} to {segment.last}"
        raise AuditError(f"{what} is not signed by the audit key", segment.first) from error


def same_head(one: ChainHead, other: ChainHead) -> bool:
    """Whether two heads are one and the same place of one chain."""
    return one.sequence == other.sequence and hmac.compare_digest(one.hash, other.hash)


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none of them longer than `MAX_LINE`.

    Raises:
        AuditError: one is.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise AuditError(f"line {number} is longer than {MAX_LINE} bytes: no record is", None)
        yield line


def parse_log(lines: Iterable[bytes]) -> Iterator[LogLine]:
    """Reads an archive, or an export in which tombstones stand for what was removed.

    Raises:
        AuditError: a line is neither a record nor a segment, each in its canonical form.
    """
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            yield TruncatedLine(number, len(line))
        elif _is_segment(line):
            segment = Segment.from_line(line)
            if segment.to_line() != line:
                raise AuditError(f"line {number} is not in canonical form", segment.first)
            yield segment
        else:
            yield parse_record(line, number)


def _is_segment(line: bytes) -> bool:
    if b'"segment"' not in line:
        return False
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False  # `parse_record` says what is wrong with it
    return isinstance(fields, dict) and "segment" in fields
