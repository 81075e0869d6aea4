"""One element of revokedCertificates (RFC 5280 §5.1.2.6), and the reasons that it may give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from pkicore.encoding import enumerated, extension, integer, sequence, x509_time
from pkicore.errors import UnsupportedError

REASONS: Mapping[str, int] = MappingProxyType(
    {
        "unspecified": 0,
        "keyCompromise": 1,
        "cACompromise": 2,
        "affiliationChanged": 3,
        "superseded": 4,
        "cessationOfOperation": 5,
        "certificateHold": 6,
        "removeFromCRL": 8,
        "privilegeWithdrawn": 9,
        "aACompromise": 10,
    }
)
"""CRLReason by its name in RFC 5280 §5.3.1; 7 is not used."""

_REASON_CODE = "2.5.29.21"


@dataclass(frozen=True)
class Revocation:
    """One revoked certificate; `reason` is a name of `REASONS`."""

    serial: int
    at: datetime
    reason: str


def encode_entry(revocation: Revocation) -> bytes:
    """One element of revokedCertificates in DER; the reason `unspecified` is left out (RFC 5280 §5.3.1).

    Raises:
        UnsupportedError: a reason that is not in the table.
    """
    if revocation.reason not in REASONS:
        raise UnsupportedError(f"{revocation.reason[:40]!r} is no revocation reason")
    code = REASONS[revocation.reason]
    extensions = sequence(extension(_REASON_CODE, enumerated(code))) if code else b""
    return sequence(integer(revocation.serial), x509_time(revocation.at), extensions)
