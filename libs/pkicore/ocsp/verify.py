"""OCSP answers as a relying party meets them (RFC 6960 §3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.algorithms import algorithm_of, known_public_key, verify_signature
from pkicore.crl import CLOCK_SKEW
from pkicore.errors import (
    BadSignatureError,
    MalformedError,
    PkiError,
    RevokedError,
    StaleStatusError,
    StatusUnknownError,
)
from pkicore.ocsp.request import HashName, issuer_hashes
from pkicore.x509 import PARSE_ERRORS

MAX_RESPONSE_BYTES = 128 * 1024


@dataclass(frozen=True)
class VerifiedStatus:
    """A good status that the issuer or its delegate vouched for.

    Attributes:
        der: the answer as it came, fit for stapling.
        serial: of the certificate.
        produced_at: when it was signed.
        this_update: when it was known to be right.
        next_update: until when it holds.
    """

    der: bytes
    serial: int
    produced_at: datetime
    this_update: datetime
    next_update: datetime


def verify_response(
    der: bytes,
    certificate: x509.Certificate,
    issuer_certificate: x509.Certificate,
    at: datetime,
    *,
    nonce: bytes | None = None,
) -> VerifiedStatus:
    """Believe that a certificate is good, or raise (RFC 6960 §3.2).

    1 it parses and is successful · 2 the responder is the issuer or its delegate · 3 the signature is the responder's ·
    4 the nonce is ours, where one was sent · 5 a single response is about this certificate · 6 it is in force ·
    7 it says good.

    Raises:
        MalformedError: it does not parse.
        StatusUnknownError: an error answer, an answer about other certificates, or the status unknown.
        BadSignatureError: signed by somebody else, or not at all.
        StaleStatusError: not in force at this time, or another nonce.
        RevokedError: revoked.
    """
    if len(der) > MAX_RESPONSE_BYTES:
        raise MalformedError(f"an OCSP response has at most {MAX_RESPONSE_BYTES} bytes")
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise StatusUnknownError(f"the responder answered {response.response_status.name}")
        _verify_signer(response, issuer_certificate, at)
        _check_nonce(response, nonce)
        single = _single(response, certificate, issuer_certificate)
        return _believe(der, response, single, at)
    except PARSE_ERRORS as error:
        raise MalformedError("the OCSP response does not parse") from error


def _verify_signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime) -> None:
    signer = _signer(response, issuer)
    if signer != issuer:
        _check_delegate(signer, issuer, at)
    public_key = known_public_key(signer.public_key())
    if response.signature_algorithm_oid.dotted_string != algorithm_of(public_key).signature_oid:
        raise BadSignatureError("the OCSP response is signed with another algorithm than its responder's")
    verify_signature(public_key, response.signature, response.tbs_response_bytes)


def _signer(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> x509.Certificate:
    for candidate in (issuer, *response.certificates):
        if response.responder_name is not None and response.responder_name == candidate.subject:
            return candidate
        if response.responder_key_hash is not None and _key_hash(candidate) == response.responder_key_hash:
            return candidate
    raise BadSignatureError("the OCSP response is signed by a responder that is not attached")


def _key_hash(certificate: x509.Certificate) -> bytes | None:
    try:
        return issuer_hashes(certificate, "sha1")[1]
    except (PkiError, *PARSE_ERRORS):
        return None


def _check_delegate(delegate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> None:
    """RFC 6960 §4.2.2.2: issued by the issuer itself, for OCSPSigning, in force."""
    try:
        delegate.verify_directly_issued_by(issuer)
        usages = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadSignatureError("the OCSP responder is no delegate of the issuer") from error
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise BadSignatureError("the certificate of the OCSP responder is not for OCSPSigning")
    if not delegate.not_valid_before_utc <= at <= delegate.not_valid_after_utc:
        raise BadSignatureError("the certificate of the OCSP responder is not in force")


def _check_nonce(response: ocsp.OCSPResponse, nonce: bytes | None) -> None:
    if nonce is None:
        return
    try:
        echoed = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        raise StaleStatusError("the OCSP response does not echo the nonce") from None
    if echoed != nonce:
        raise StaleStatusError("the OCSP response echoes another nonce")


def _single(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    for single in response.responses:
        hash_name: HashName = "sha1" if isinstance(single.hash_algorithm, hashes.SHA1) else "sha256"
        expected = (*issuer_hashes(issuer, hash_name), certificate.serial_number)
        if (single.issuer_name_hash, single.issuer_key_hash, single.serial_number) == expected:
            return single
    raise StatusUnknownError("the OCSP response is about other certificates")


def _believe(der: bytes, response: ocsp.OCSPResponse, single: ocsp.OCSPSingleResponse, at: datetime) -> VerifiedStatus:
    if single.this_update_utc > at + CLOCK_SKEW:
        raise StaleStatusError("the OCSP response is from the future")
    if single.next_update_utc is None or single.next_update_utc <= at:
        raise StaleStatusError("the OCSP response is too old")
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        raise RevokedError(single.serial_number)
    if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise StatusUnknownError("the responder does not know the certificate")
    return VerifiedStatus(
        der, single.serial_number, response.produced_at_utc, single.this_update_utc, single.next_update_utc
    )
