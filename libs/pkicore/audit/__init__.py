"""The hash-chained audit log: records, their chain, signed checkpoints and the JSONL export form.

Each record's hash covers the hash before it and its own canonical bytes, so an edit, a gap, a reordering or a repeated
sequence is found at the first bad record. A chain cannot notice that its own tail was cut; checkpoints kept
elsewhere can:

1. a `Checkpoint` names a sequence and the chain's hash there, signed by the service's audit key;
2. `verify_chain(records, checkpoints)` demands that every checkpoint is met by the chain.

`pkicore.audit.segments` has the signed heads of what has left the database for archives.

Pure: records in, values or `AuditError` out. Times are Unix seconds, hashes are 32 bytes (64 hex digits in JSON).
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from pkicore.algorithms import PublicKey, verify_signature
from pkicore.encoding import canonical_json
from pkicore.errors import AuditError, BadSignatureError
from pkicore.keys import SigningKey

_RECORD_CONTEXT = b"pqcpki audit record v1\0"
_CHECKPOINT_CONTEXT = b"pqcpki audit checkpoint v1\0"
_HASH_SIZE = 32
MAX_LINE = 1 << 21
"""Octets of the longest line that is read; `MAX_DETAIL` keeps every record below it."""
MAX_DETAIL = 1 << 20
"""Octets of what one event may say, in canonical JSON."""
_RECORD_FIELDS = frozenset({"sequence", "at", "event", "actor", "detail", "previous", "hash"})
_CHECKPOINT_FIELDS = frozenset({"sequence", "hash", "at", "signature"})


class ChainHead(NamedTuple):
    """The end of a chain: the last record's sequence (0 when empty) and hash."""

    sequence: int
    hash: bytes


GENESIS = ChainHead(0, hashlib.sha256(b"pqcpki audit genesis v1").digest())
"""What the first record, sequence 1, is chained to."""


class AuditRecord(NamedTuple):
    """What happened, when, and by whom.

    Attributes:
        sequence: From 1, without gaps.
        at: Unix seconds.
        event: What happened, as `area.verb`.
        actor: Who caused it: a SPIFFE ID, an account, or the service itself.
        detail: JSON values that say the rest; never a secret.
    """

    sequence: int
    at: int
    event: str
    actor: str
    detail: Mapping[str, Any]

    def canonical(self) -> bytes:
        """The bytes that are chained: canonical JSON of all five fields.

        Raises:
            TypeError: the detail holds something that JSON cannot say.
        """
        return canonical_json(self._asdict())


class StoredRecord(NamedTuple):
    """A record with the hash it is chained to and its own."""

    record: AuditRecord
    previous: bytes
    hash: bytes

    @property
    def head(self) -> ChainHead:
        """The chain's end after this record."""
        return ChainHead(self.record.sequence, self.hash)


def chain_hash(previous: bytes, canonical: bytes) -> bytes:
    """SHA-256 over a fixed context, the hash before and the record's canonical bytes."""
    return hashlib.sha256(_RECORD_CONTEXT + previous + canonical).digest()


def append(head: ChainHead, at: int, event: str, actor: str, detail: Mapping[str, Any]) -> StoredRecord:
    """Makes the record that follows `head`."""
    record = AuditRecord(head.sequence + 1, at, event, actor, detail)
    return StoredRecord(record, head.hash, chain_hash(head.hash, record.canonical()))


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement that the chain had this hash at this sequence.

    Only `verify_checkpoint` says that the signature is good.
    """

    sequence: int
    hash: bytes
    at: int
    signature: bytes

    def to_line(self) -> bytes:
        """One line of JSON, with its line end."""
        fields = {
            "sequence": self.sequence,
            "hash": self.hash.hex(),
            "at": self.at,
            "signature": self.signature.hex(),
        }
        return canonical_json(fields) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Checkpoint":
        """Reads one line.

        Raises:
            AuditError: not a checkpoint.
        """
        fields = json_fields(line, _CHECKPOINT_FIELDS, "checkpoint")
        sequence, at = whole_number(fields, "sequence"), whole_number(fields, "at")
        return cls(sequence, hex_hash(fields, "hash", sequence), at, hex_bytes(fields, "signature", sequence))


def _checkpoint_message(head: ChainHead, at: int) -> bytes:
    return _CHECKPOINT_CONTEXT + canonical_json({"sequence": head.sequence, "hash": head.hash.hex(), "at": at})


async def sign_checkpoint(head: ChainHead, key: SigningKey, at: int) -> Checkpoint:
    """Signs the chain's present end."""
    return Checkpoint(head.sequence, head.hash, at, await key.sign(_checkpoint_message(head, at)))


def verify_checkpoint(checkpoint: Checkpoint, public_key: PublicKey) -> None:
    """Verifies a checkpoint's signature.

    Raises:
        AuditError: the signature is not by this key over this sequence, hash and time.
    """
    message = _checkpoint_message(ChainHead(checkpoint.sequence, checkpoint.hash), checkpoint.at)
    try:
        verify_signature(public_key, checkpoint.signature, message)
    except BadSignatureError as error:
        raise AuditError(
            f"the checkpoint at sequence {checkpoint.sequence} is not signed by the audit key",
            sequence=checkpoint.sequence,
        ) from error


class ChainVerifier:
    """Verifies a chain record by record, for logs that do not fit in memory.

    Args:
        checkpoints: What the chain must meet; their own signatures are the caller's to verify first
            (`verify_checkpoint`).
        start: What the first record is chained to, where it is not the log's first.

    Raises:
        AuditError: two checkpoints contradict each other.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint] = (), start: ChainHead = GENESIS) -> None:
        self.head = start
        self._expected: dict[int, bytes] = {}
        for checkpoint in checkpoints:
            self.expect(ChainHead(checkpoint.sequence, checkpoint.hash))

    def expect(self, head: ChainHead) -> None:
        """Demands that the chain meets what somebody has signed.

        Raises:
            AuditError: another signature says otherwise.
        """
        known = self._expected.setdefault(head.sequence, head.hash)
        if known != head.hash:
            raise AuditError(f"two checkpoints name different hashes for record {head.sequence}", head.sequence)
        if head.sequence == self.head.sequence and head.hash != self.head.hash:
            raise AuditError(f"record {head.sequence} is not the one that its checkpoint signed", head.sequence)

    def jump(self, head: ChainHead) -> None:
        """Passes over records that were removed, as a verified tombstone says.

        Raises:
            AuditError: the tombstone's end is not what a checkpoint signed.
        """
        self.head = head
        self.expect(head)

    def take(self, stored: StoredRecord) -> None:
        """Verifies the next record.

        Raises:
            AuditError: it is missing, changed, misplaced, or not the one a checkpoint signed.
        """
        sequence = self.head.sequence + 1
        if stored.record.sequence != sequence:
            raise AuditError(f"record {sequence} is missing: {stored.record.sequence} stands in its place", sequence)
        if not hmac.compare_digest(stored.previous, self.head.hash):
            raise AuditError(f"record {sequence} is not chained to the one before it", sequence)
        if not hmac.compare_digest(stored.hash, chain_hash(self.head.hash, stored.record.canonical())):
            raise AuditError(f"record {sequence} was changed: its hash does not match", sequence)
        expected = self._expected.get(sequence)
        if expected is not None and not hmac.compare_digest(expected, stored.hash):
            raise AuditError(f"record {sequence} is not the one that its checkpoint signed", sequence)
        self.head = stored.head

    def finish(self) -> ChainHead:
        """The chain's end.

        Raises:
            AuditError: a checkpoint says that the log went on.
        """
        last = max(self._expected, default=0)
        if last > self.head.sequence:
            missing = self.head.sequence + 1
            raise AuditError(f"record {missing} is missing: a checkpoint says the log went on to {last}", missing)
        return self.head


def verify_chain(records: Iterable[StoredRecord], checkpoints: Sequence[Checkpoint] = ()) -> ChainHead:
    """Verifies a whole chain from its first record on, as `ChainVerifier` does.

    Raises:
        AuditError: `.sequence` is the first record that is wrong, missing or contradicts a checkpoint.
    """
    verifier = ChainVerifier(checkpoints)
    for stored in records:
        verifier.take(stored)
    return verifier.finish()


def export_line(stored: StoredRecord) -> bytes:
    """One record as one line of canonical JSON, with its line end."""
    fields = stored.record._asdict() | {"previous": stored.previous.hex(), "hash": stored.hash.hex()}
    return canonical_json(fields) + b"\n"


class TruncatedLine(NamedTuple):
    """The unfinished last line of a file: what a crash leaves behind, no record."""

    number: int
    size: int


def parse_export(lines: Iterable[bytes]) -> Iterator[StoredRecord | TruncatedLine]:
    """Reads an export line by line.

    An unfinished last line (no line end) is reported apart, as a `TruncatedLine`, never as a record.

    Raises:
        AuditError: a line is not a record in its canonical form.
    """
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            yield parse_record(line, number)
        else:
            yield TruncatedLine(number, len(line))


def parse_record(line: bytes, number: int) -> StoredRecord:
    """Reads one finished line.

    Args:
        line: With its line end.
        number: Of the line, for errors.

    Raises:
        AuditError: it is not a record in its canonical form.
    """
    fields = json_fields(line, _RECORD_FIELDS, f"line {number}")
    sequence, event, actor, detail = (
        whole_number(fields, "sequence"),
        fields["event"],
        fields["actor"],
        fields["detail"],
    )
    if not (isinstance(event, str) and isinstance(actor, str) and isinstance(detail, dict)):
        raise AuditError(f"record {sequence} has a field of the wrong type", sequence=sequence)
    record = AuditRecord(sequence, whole_number(fields, "at"), event, actor, detail)
    stored = StoredRecord(record, hex_hash(fields, "previous", sequence), hex_hash(fields, "hash", sequence))
    try:
        canonical = export_line(stored)
    except TypeError as error:
        raise AuditError(f"record {sequence} cannot be said in canonical JSON", sequence=sequence) from error
    if canonical != line:
        raise AuditError(f"record {sequence} is not in canonical form", sequence=sequence)
    return stored


def json_fields(line: bytes, names: frozenset[str], what: str) -> dict[str, Any]:
    """Reads one line of JSON with exactly these members.

    Raises:
        AuditError: it is not.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise AuditError(f"{what} is not JSON", sequence=None) from error
    if not isinstance(fields, dict) or fields.keys() != names:
        raise AuditError(f"{what} does not have exactly the fields {', '.join(sorted(names))}", sequence=None)
    return fields


def whole_number(fields: Mapping[str, Any], name: str) -> int:
    """A member that is a whole number, not below zero.

    Raises:
        AuditError: it is not.
    """
    value = fields[name]
    if type(value) is not int or value < 0:
        raise AuditError(f"{name} is not a whole number", sequence=None)
    return value


def hex_bytes(fields: Mapping[str, Any], name: str, sequence: int) -> bytes:
    """A member that is hexadecimal.

    Raises:
        AuditError: it is not.
    """
    try:
        return bytes.fromhex(fields[name])
    except (TypeError, ValueError) as error:
        raise AuditError(f"{name} of sequence {sequence} is not hexadecimal", sequence=sequence) from error


def hex_hash(fields: Mapping[str, Any], name: str, sequence: int) -> bytes:
    """A member that is a hash.

    Raises:
        AuditError: it is not.
    """
    value = hex_bytes(fields, name, sequence)
    if len(value) != _HASH_SIZE:
        raise AuditError(f"{name} of sequence {sequence} is not {_HASH_SIZE} bytes", sequence=sequence)
    return value
