"""OCSP answers (RFC 6960 §4.2), assembled by hand.

cryptography's builder gives one single response only, and takes producedAt from the machine's clock while it signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import PublicKey, known_public_key, signature_algorithm_der, verify_signature
from pkicore.clock import unix
from pkicore.crl import REASONS
from pkicore.encoding import (
    bit_string,
    enumerated,
    explicit,
    extension,
    generalized_time,
    object_identifier,
    octet_string,
    sequence,
    tlv,
)
from pkicore.errors import (
    UnsupportedError,
)
from pkicore.keys import OwnKey, SigningKey
from pkicore.ocsp.request import NONCE_OID, CertId, issuer_hashes

BASIC_RESPONSE = "1.3.6.1.5.5.7.48.1.1"
_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
_ERRORS: Mapping[str, int] = MappingProxyType(
    {
        "malformedRequest": 1,
        "internalError": 2,
        "tryLater": 3,
        "sigRequired": 5,
        "unauthorized": 6,
    }
)


@dataclass(frozen=True)
class CertStatus:
    """What the CA knows of a certificate; make one with `good`, `revoked` or `unknown`."""

    state: Literal["good", "revoked", "unknown"]
    at: datetime | None = None
    reason: str = "unspecified"

    @classmethod
    def good(cls) -> CertStatus:
        """Issued and not revoked."""
        return cls("good")

    @classmethod
    def revoked(cls, at: datetime, reason: str) -> CertStatus:
        """Revoked at this time for a reason of `pkicore.crl.REASONS`."""
        return cls("revoked", at, reason)

    @classmethod
    def unknown(cls) -> CertStatus:
        """Never issued here."""
        return cls("unknown")

    def encode(self) -> bytes:
        """CertStatus in DER (RFC 6960 §4.2.1); the reason `unspecified` is left out.

        Raises:
            UnsupportedError: a reason that is not in the table.
        """
        if self.state == "good":
            return tlv(0x80, b"")
        if self.state == "unknown" or self.at is None:
            return tlv(0x82, b"")
        if self.reason not in REASONS:
            raise UnsupportedError(f"{self.reason[:40]!r} is no revocation reason")
        code = REASONS[self.reason]
        return tlv(0xA1, generalized_time(self.at) + (explicit(0, enumerated(code)) if code else b""))


@dataclass(frozen=True)
class Responder:
    """Who answers: the issuer itself or, better, a delegate with a certificate for OCSPSigning (RFC 6960 §4.2.2.2).

    `is_proven`: its signatures are believed without a look at each.
    """

    certificate: x509.Certificate
    key: SigningKey
    issuer_certificate: x509.Certificate
    is_proven: bool = False

    @classmethod
    def of_own_key(cls, certificate: x509.Certificate, key: OwnKey, issuer_certificate: x509.Certificate) -> Responder:
        """One whose key is in the memory of this process: it is checked now, its signatures need not be.

        Raises:
            BadSignatureError: it is not the certificate's key.
        """
        proof = b"OCSP responder of this process"
        verify_signature(known_public_key(certificate.public_key()), key.sign_here(proof), proof)
        return cls(certificate, key, issuer_certificate, is_proven=True)

    @cached_property
    def end(self) -> int:
        """When its certificate ends, in Unix seconds."""
        return unix(self.certificate.not_valid_after_utc)

    @cached_property
    def public_key(self) -> PublicKey:
        """The key that its signatures must verify with."""
        return known_public_key(self.certificate.public_key())

    @cached_property
    def id_der(self) -> bytes:
        """ResponderID byKey: the SHA-1 of the responder's public key."""
        return explicit(2, octet_string(issuer_hashes(self.certificate, "sha1")[1]))

    @cached_property
    def certificates_der(self) -> bytes:
        """The delegate's certificate as it rides along; nothing where the issuer answers itself."""
        if self.certificate == self.issuer_certificate:
            return b""
        return explicit(0, sequence(self.certificate.public_bytes(Encoding.DER)))


async def build_response(
    responder: Responder,
    statuses: Sequence[tuple[CertId, CertStatus]],
    *,
    this_update: datetime,
    next_update: datetime,
    nonce: bytes | None,
    produced_at: datetime | None = None,
    archive_cutoff: datetime | None = None,
) -> bytes:
    """A successful OCSPResponse in DER with one single response for each CertID, its signature checked.

    That of a proven responder is not: `pkicore.ocsp.template` makes the same octets quicker, for one CertID.

    Args:
        responder: signs and names itself by key.
        statuses: in the order of the request.
        this_update: when the statuses were known to be right.
        next_update: when newer ones will be there (RFC 5019 §2.2.4 demands it).
        nonce: echoed where the request had one.
        produced_at: when the answer is signed; `this_update` if not given.
        archive_cutoff: until when a certificate may have expired and still be answered for (RFC 6960 §4.4.4).

    Raises:
        BadSignatureError: what came back is no signature by the responder's key.
        KeyUnavailableError: the key's back end does not answer.
        UnsupportedError: a revocation reason that is not in the table.
    """
    times = encode_times(this_update, next_update, archive_cutoff)
    singles = (sequence(cert_id.der, status.encode(), times) for cert_id, status in statuses)
    tbs = sequence(
        responder.id_der,
        generalized_time(produced_at or this_update),
        sequence(*singles),
        b"" if nonce is None else explicit(1, sequence(extension(NONCE_OID, octet_string(nonce)))),
    )
    signature = await responder.key.sign(tbs)
    if not responder.is_proven:
        verify_signature(responder.public_key, signature, tbs)
    algorithm = signature_algorithm_der(responder.key.algorithm)
    basic = sequence(tbs, algorithm, bit_string(signature), responder.certificates_der)
    body = sequence(object_identifier(BASIC_RESPONSE), octet_string(basic))
    return sequence(enumerated(0), explicit(0, body))


def encode_times(this_update: datetime, next_update: datetime, archive_cutoff: datetime | None) -> bytes:
    """What follows the status in a single response (RFC 6960 §4.2.1)."""
    times = generalized_time(this_update) + explicit(0, generalized_time(next_update))
    if archive_cutoff is None:
        return times
    return times + explicit(1, sequence(extension(_ARCHIVE_CUTOFF, generalized_time(archive_cutoff))))


def error_response(name: str) -> bytes:
    """An unsigned OCSPResponse that says what went wrong (RFC 6960 §4.2.1).

    Raises:
        UnsupportedError: no OCSPResponseStatus of this name.
    """
    if name not in _ERRORS:
        raise UnsupportedError(f"{name!r} is no OCSP error; there are {', '.join(_ERRORS)}")
    return sequence(enumerated(_ERRORS[name]))
