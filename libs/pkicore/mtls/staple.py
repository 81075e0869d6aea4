"""What a client makes of the OCSP response that a server stapled."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from pkicore.errors import (
    BadSignatureError,
    HandshakeError,
    PkiError,
    RevokedError,
    StaleStatusError,
    StatusUnknownError,
)
from pkicore.ocsp import VerifiedStatus, verify_response

_REASONS: dict[type[PkiError], str] = {
    RevokedError: "staple says revoked",
    StatusUnknownError: "staple says unknown, or is about another certificate",
    StaleStatusError: "staple is stale",
    BadSignatureError: "staple is not signed by the issuer",
}


def check_staple(der: bytes, chain: tuple[x509.Certificate, ...], now: datetime) -> VerifiedStatus:
    """Check what a server stapled about itself, `chain` being its certificate and its issuer (and what follows).

    Raises:
        HandshakeError: there is no staple, or it does not say that this certificate is good now.
    """
    if not der:
        raise HandshakeError("no staple")
    try:
        return verify_response(der, chain[0], chain[1], now)
    except PkiError as error:
        raise HandshakeError(_REASONS.get(type(error), "staple does not parse")) from error
