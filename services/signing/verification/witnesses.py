"""Whether trusted authorities and logs vouch for a signature: when it existed, and where it is written down."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime

from pkicore.errors import PkiError
from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_inclusion
from pkicore.tsp import MessageImprint, verify_token
from pkicore.x509.chain import verify_chain
from services.signing.formats.unverified_bundle import UnverifiedLogEntry
from services.signing.trusted_root import TrustedAuthority, TrustedLog
from services.signing.verification.errors import NoLogEntryError, NoTimestampError


def verified_time(tokens: Iterable[bytes], signature: bytes, authorities: Sequence[TrustedAuthority]) -> datetime:
    """Rule 1: the earliest time of those that are vouched for.

    Args:
        tokens: of RFC 3161, in DER.
        signature: whose octets they are about.
        authorities: that are trusted.

    Raises:
        NoTimestampError: no trusted authority vouches for a time.
    """
    times = []
    reason: Exception = NoTimestampError("there is none, or no authority is trusted")
    for token in tokens:
        for authority in authorities:
            try:
                times.append(_time(token, signature, authority))
            except (PkiError, NoTimestampError) as error:
                reason = error
    if not times:
        raise NoTimestampError(f"no time-stamp by a trusted authority: {reason}") from reason
    return min(times)


def _time(token: bytes, signature: bytes, authority: TrustedAuthority) -> datetime:
    imprint = MessageImprint.of("sha256", hashlib.sha256(signature).digest())
    verified = verify_token(token, imprint, authority=authority.chain[0])
    if verified.certificate != authority.chain[0] or not authority.period.covers(verified.gen_time):
        raise NoTimestampError("the time-stamping authority is not trusted, or was not at its time")
    verify_chain(verified.certificate, authority.chain[1:-1], authority.chain[-1:], verified.gen_time, "time-stamping")
    return verified.gen_time


def verified_index(
    entries: Sequence[UnverifiedLogEntry], leaf: bytes, logs: Sequence[TrustedLog], at: datetime | None
) -> int:
    """Rule 4: where in a trusted log the entry is.

    Args:
        entries: what is said to be it; one.
        leaf: made anew of what was signed, so that the log holds this and nothing else.
        logs: that are trusted.
        at: when; None: no time is known.

    Raises:
        NoLogEntryError: there is none, it is about another signature, or of another log.
        PkiError: it is not in the tree of a checkpoint that the log signed.
    """
    if not entries:
        raise NoLogEntryError("the bundle has no log entry")
    (entry,) = entries
    log = _log_of(entry, logs, at)
    if not hmac.compare_digest(leaf, entry.body):
        raise NoLogEntryError("the log entry is about another signature")
    checkpoint = verify_checkpoint(entry.checkpoint, log.origin, [log.note_key])
    verify_inclusion(leaf_hash(leaf), entry.index, checkpoint.size, entry.hashes, checkpoint.root)
    return entry.index


def _log_of(entry: UnverifiedLogEntry, logs: Sequence[TrustedLog], at: datetime | None) -> TrustedLog:
    for log in logs:
        if hmac.compare_digest(log.log_id, entry.log_id) and (at is None or log.period.covers(at)):
            return log
    raise NoLogEntryError("the log entry is of a log that is not trusted")
