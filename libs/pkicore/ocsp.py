"""OCSP (RFC 6960, in the lightweight profile of RFC 5019, nonces after RFC 9654): ask, answer, believe.

Requests are parsed by our own strict reader, because cryptography's takes one CertID only; answers are assembled here,
because its builder gives one single response only, and takes producedAt from the machine's clock while it signs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key, signature_algorithm_der, verify_signature
from pkicore.crl import CLOCK_SKEW, REASONS
from pkicore.encoding import (
    NULL,
    NULL_TAG,
    OCTET_STRING,
    OID,
    SEQUENCE,
    DerReader,
    bit_string,
    enumerated,
    explicit,
    extension,
    generalized_time,
    integer,
    object_identifier,
    octet_string,
    sequence,
    tlv,
)
from pkicore.errors import (
    BadSignatureError,
    MalformedError,
    PkiError,
    RevokedError,
    StaleStatusError,
    StatusUnknownError,
    UnsupportedError,
)
from pkicore.keys import SigningKey
from pkicore.x509 import PARSE_ERRORS

HashName: TypeAlias = Literal["sha1", "sha256"]

MAX_REQUEST_BYTES = 4096
MAX_CERT_IDS = 16
MAX_RESPONSE_BYTES = 128 * 1024
MAX_NONCE_BYTES = 128
_BASIC_RESPONSE = "1.3.6.1.5.5.7.48.1.1"
_NONCE = "1.3.6.1.5.5.7.48.1.2"
_NONCE_OID = object_identifier(_NONCE)[2:]
_MAX_SERIAL_OCTETS = 20
_HASHES: Mapping[str, tuple[bytes, int]] = MappingProxyType(
    {
        "sha1": (object_identifier("1.3.14.3.2.26")[2:], 20),
        "sha256": (object_identifier("2.16.840.1.101.3.4.2.1")[2:], 32),
    }
)
_HASH_BY_OID: Mapping[bytes, HashName] = MappingProxyType({_HASHES["sha1"][0]: "sha1", _HASHES["sha256"][0]: "sha256"})
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
class CertId:
    """Which certificate is meant (RFC 6960 §4.1.1): the hashes of the issuer's name and key, and the serial.

    Attributes:
        hash_name: of both hashes.
        name_hash: of the issuer's subject in DER.
        key_hash: of the issuer's public key, the content of its BIT STRING.
        serial: of the certificate.
        der: as it was asked, so that the answer echoes it to the bit (parameters may be NULL or absent).
    """

    hash_name: HashName
    name_hash: bytes
    key_hash: bytes
    serial: int
    der: bytes = field(compare=False, repr=False)

    @classmethod
    def of(cls, issuer: x509.Certificate, serial: int, hash_name: HashName = "sha1") -> CertId:
        """The CertID of a serial number below an issuer; SHA-1 is what RFC 5019 §2.1.1 asks of clients."""
        name_hash, key_hash = issuer_hashes(issuer, hash_name)
        algorithm = sequence(tlv(OID, _HASHES[hash_name][0]), NULL)
        der = sequence(algorithm, octet_string(name_hash), octet_string(key_hash), integer(serial))
        return cls(hash_name, name_hash, key_hash, serial, der)


def issuer_hashes(issuer: x509.Certificate, hash_name: HashName) -> tuple[bytes, bytes]:
    """The hashes of name and key by which CertIDs name this issuer; compare both."""
    spki = DerReader(_public_key_der(issuer)).enter()
    spki.read(SEQUENCE)
    key = spki.read(0x03)[1:]
    return _digest(hash_name, issuer.subject.public_bytes()), _digest(hash_name, key)


def _public_key_der(certificate: x509.Certificate) -> bytes:
    return known_public_key(certificate.public_key()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _digest(hash_name: str, data: bytes) -> bytes:
    # CertIDs name things by SHA-1 (RFC 5019); nothing rests on its collision resistance.
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()


@dataclass(frozen=True)
class OcspRequest:
    """What a client asks; nothing in it is authenticated, and its optional signature is not looked at."""

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None

    @classmethod
    def parse(cls, der: bytes) -> OcspRequest:
        """From DER of at most 4 KiB with 1 to 16 CertIDs (RFC 6960 §4.1.1).

        Raises:
            MalformedError: anything else: bad DER, other hashes, a nonce of no octets or over 128 (RFC 9654 §2.1), a
                critical extension that is not understood.
        """
        if len(der) > MAX_REQUEST_BYTES:
            raise MalformedError(f"an OCSP request has at most {MAX_REQUEST_BYTES} bytes")
        outer = DerReader(der)
        request = outer.enter()
        outer.finish()
        tbs = request.enter()
        if request.next_is(0xA0):
            request.read(0xA0)
        request.finish()
        return cls._parse_tbs(tbs)

    @classmethod
    def _parse_tbs(cls, tbs: DerReader) -> OcspRequest:
        if tbs.next_is(0xA0) and tbs.read(0xA0) != integer(0):
            raise MalformedError("OCSP requests have version 1")
        if tbs.next_is(0xA1):
            tbs.read(0xA1)
        requests, cert_ids = tbs.enter(), []
        while not requests.at_end:
            cert_ids.append(_parse_request(requests.enter()))
        if not 1 <= len(cert_ids) <= MAX_CERT_IDS:
            raise MalformedError(f"an OCSP request asks for 1 to {MAX_CERT_IDS} certificates")
        nonce = _parse_extensions(tbs.read(0xA2)).get(_NONCE_OID) if tbs.next_is(0xA2) else None
        tbs.finish()
        return cls(tuple(cert_ids), None if nonce is None else _parse_nonce(nonce))


def _parse_request(request: DerReader) -> CertId:
    der = request.read_element()
    if request.next_is(0xA0):
        _parse_extensions(request.read(0xA0))
    request.finish()
    fields = DerReader(der).enter()
    hash_name = _parse_hash(fields.enter())
    name_hash, key_hash, serial = fields.read(OCTET_STRING), fields.read(OCTET_STRING), fields.read_integer()
    fields.finish()
    size = _HASHES[hash_name][1]
    if (len(name_hash), len(key_hash)) != (size, size):
        raise MalformedError("a CertID with hashes of the wrong size")
    if serial.bit_length() >= 8 * _MAX_SERIAL_OCTETS:
        raise MalformedError("a serial number has at most 20 octets")
    return CertId(hash_name, name_hash, key_hash, serial, der)


def _parse_hash(algorithm: DerReader) -> HashName:
    hash_name = _HASH_BY_OID.get(algorithm.read(OID))
    if hash_name is None:
        raise MalformedError("CertIDs are made with SHA-1 or SHA-256")
    if not algorithm.at_end and algorithm.read(NULL_TAG):
        raise MalformedError("a NULL with content")
    algorithm.finish()
    return hash_name


def _parse_extensions(content: bytes) -> dict[bytes, bytes]:
    """The extensions by the content of their OID; critical ones other than the nonce are refused."""
    wrapper, found = DerReader(content), dict[bytes, bytes]()
    extensions = wrapper.enter()
    wrapper.finish()
    while not extensions.at_end:
        fields = extensions.enter()
        oid = fields.read(OID)
        critical = fields.next_is(0x01) and fields.read(0x01) != b"\x00"
        if oid in found or (critical and oid != _NONCE_OID):
            raise MalformedError("an extension that is doubled, or critical and not understood")
        found[oid] = fields.read(OCTET_STRING)
        fields.finish()
    return found


def _parse_nonce(value: bytes) -> bytes:
    reader = DerReader(value)
    nonce = reader.read(OCTET_STRING)
    reader.finish()
    if not 1 <= len(nonce) <= MAX_NONCE_BYTES:
        raise MalformedError(f"a nonce has 1 to {MAX_NONCE_BYTES} octets (RFC 9654 §2.1)")
    return nonce


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
    """Who answers: the issuer itself or, better, a delegate with a certificate for OCSPSigning (RFC 6960 §4.2.2.2)."""

    certificate: x509.Certificate
    key: SigningKey
    issuer_certificate: x509.Certificate

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
) -> bytes:
    """A successful OCSPResponse in DER with one single response for each CertID, its signature checked.

    Args:
        responder: signs and names itself by key.
        statuses: in the order of the request.
        this_update: when the statuses were known to be right.
        next_update: when newer ones will be there (RFC 5019 §2.2.4 demands it).
        nonce: echoed where the request had one.
        produced_at: when the answer is signed; `this_update` if not given.

    Raises:
        BadSignatureError: what came back is no signature by the responder's key.
        KeyUnavailableError: the key's back end does not answer.
        UnsupportedError: a revocation reason that is not in the table.
    """
    times = generalized_time(this_update) + explicit(0, generalized_time(next_update))
    singles = (sequence(cert_id.der, status.encode(), times) for cert_id, status in statuses)
    tbs = sequence(
        responder.id_der,
        generalized_time(produced_at or this_update),
        sequence(*singles),
        b"" if nonce is None else explicit(1, sequence(extension(_NONCE, octet_string(nonce)))),
    )
    signature = await responder.key.sign(tbs)
    verify_signature(responder.public_key, signature, tbs)
    algorithm = signature_algorithm_der(responder.key.algorithm)
    basic = sequence(tbs, algorithm, bit_string(signature), responder.certificates_der)
    body = sequence(object_identifier(_BASIC_RESPONSE), octet_string(basic))
    return sequence(enumerated(0), explicit(0, body))


def error_response(name: str) -> bytes:
    """An unsigned OCSPResponse that says what went wrong (RFC 6960 §4.2.1).

    Raises:
        UnsupportedError: no OCSPResponseStatus of this name.
    """
    if name not in _ERRORS:
        raise UnsupportedError(f"{name!r} is no OCSP error; there are {', '.join(_ERRORS)}")
    return sequence(enumerated(_ERRORS[name]))


def build_request(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    nonce: bytes | None = None,
    hash_name: HashName = "sha1",
) -> bytes:
    """An OCSPRequest in DER for one certificate; with SHA-1 and no nonce it can be cached (RFC 5019 §2.1)."""
    request = sequence(CertId.of(issuer, certificate.serial_number, hash_name).der)
    extensions = b"" if nonce is None else explicit(2, sequence(extension(_NONCE, octet_string(nonce))))
    return sequence(sequence(sequence(request), extensions))


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
