"""What is decided about a peer once OpenSSL is done with it, the same on both ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from pkicore.errors import BadCertificateError, HandshakeError, PkiError
from pkicore.mtls.context import TlsRules
from pkicore.mtls.engine import TlsEngine, reason_of
from pkicore.mtls.peer import PeerIdentity, presented_name
from pkicore.mtls.revocation import CrlCache

# OpenSSL takes the NIST names and reports the SEC ones.
_NEGOTIATED_AS = {"P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}


def admit(engine: TlsEngine, rules: TlsRules, crls: CrlCache | None, now: datetime) -> PeerIdentity | None:
    """Decide on a connection whose handshake is done; None where the peer showed no certificate.

    1 key exchange group   2 identity   3 validity by our clock (OpenSSL used the machine's)   4 the newest CRLs

    Raises:
        HandshakeError: the connection must not be used.
    """
    check_group(engine.group, rules.groups)
    try:
        peer = engine.peer()
        if peer is not None:
            check_validity(peer.chain, now)
            if crls is not None and rules.check_crl:
                crls.check(peer.links)
    except PkiError as error:
        chain = engine.presented_chain()
        raise HandshakeError(reason_of(error), presented_name(chain[0]) if chain else None) from error
    return peer


def check_group(group: str | None, allowed: tuple[str, ...]) -> None:
    """Check the negotiated group against the rules' (configuring OpenSSL is one thing, seeing it obeyed another).

    Raises:
        HandshakeError: another group was negotiated, or none.
    """
    names = {_NEGOTIATED_AS.get(name, name).lower() for name in allowed}
    if names and (group or "").lower() not in names:
        raise HandshakeError("group not allowed")


def check_validity(chain: Iterable[x509.Certificate], now: datetime) -> None:
    """Check the validity of each certificate.

    Raises:
        BadCertificateError: one of them is not valid at `now`.
    """
    for certificate in chain:
        if now > certificate.not_valid_after_utc:
            raise BadCertificateError("certificate has expired")
        if now < certificate.not_valid_before_utc:
            raise BadCertificateError("certificate is not yet valid")
