"""Lines of the audit log that are about a release, so that each can be checked by itself and found in the whole log.

Each line carries the hash it is chained to, so its own hash can be computed: a changed line does not verify. That no
line is missing, and that the chain is the one that checkpoints were signed for, only the whole log shows: a full export
has the very same lines (`ztca audit verify`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from pkicore.audit import GENESIS, StoredRecord, TruncatedLine, chain_hash, export_line, parse_export
from pkicore.errors import AuditError


def extract(records: Iterable[StoredRecord]) -> bytes:
    """The lines of some records, by sequence, each once."""
    by_sequence = {stored.record.sequence: stored for stored in records}
    return b"".join(export_line(by_sequence[sequence]) for sequence in sorted(by_sequence))


def verify_extract(lines: Iterable[bytes]) -> list[StoredRecord]:
    """The records of an extract, each verified by itself, and neighbours against each other.

    Raises:
        AuditError: a line was changed, stands in the wrong place, or is unfinished.
    """
    found: list[StoredRecord] = []
    for stored in parse_export(lines):
        if isinstance(stored, TruncatedLine):
            raise AuditError(f"line {stored.number} is unfinished", None)
        _verify(stored, found[-1] if found else None)
        found.append(stored)
    return found


def _verify(stored: StoredRecord, before: StoredRecord | None) -> None:
    sequence = stored.record.sequence
    if not hmac.compare_digest(stored.hash, chain_hash(stored.previous, stored.record.canonical())):
        raise AuditError(f"record {sequence} was changed: its hash does not match", sequence)
    if before is not None and sequence <= before.record.sequence:
        raise AuditError(f"record {sequence} stands behind record {before.record.sequence}", sequence)
    head = GENESIS if before is None else before.head
    if sequence == head.sequence + 1 and not hmac.compare_digest(stored.previous, head.hash):
        raise AuditError(f"record {sequence} is not chained to the one before it", sequence)
