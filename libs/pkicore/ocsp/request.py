"""OCSP requests (RFC 6960 §4.1), parsed by our own strict reader: cryptography's takes one CertID only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import known_public_key
from pkicore.encoding import (
    NULL,
    NULL_TAG,
    OCTET_STRING,
    OID,
    SEQUENCE,
    DerReader,
    explicit,
    extension,
    integer,
    object_identifier,
    octet_string,
    sequence,
    tlv,
)
from pkicore.errors import (
    MalformedError,
)

HashName: TypeAlias = Literal["sha1", "sha256"]

MAX_REQUEST_BYTES = 4096
MAX_CERT_IDS = 16
MAX_NONCE_BYTES = 128
NONCE_OID = "1.3.6.1.5.5.7.48.1.2"
_NONCE_OID_CONTENT = object_identifier(NONCE_OID)[2:]
_MAX_SERIAL_OCTETS = 20
_HASHES: Mapping[str, tuple[bytes, int]] = MappingProxyType(
    {
        "sha1": (object_identifier("1.3.14.3.2.26")[2:], 20),
        "sha256": (object_identifier("2.16.840.1.101.3.4.2.1")[2:], 32),
    }
)
_HASH_BY_OID: Mapping[bytes, HashName] = MappingProxyType({_HASHES["sha1"][0]: "sha1", _HASHES["sha256"][0]: "sha256"})


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
        nonce = _parse_extensions(tbs.read(0xA2)).get(_NONCE_OID_CONTENT) if tbs.next_is(0xA2) else None
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
        if oid in found or (critical and oid != _NONCE_OID_CONTENT):
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


def build_request(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    nonce: bytes | None = None,
    hash_name: HashName = "sha1",
) -> bytes:
    """An OCSPRequest in DER for one certificate; with SHA-1 and no nonce it can be cached (RFC 5019 §2.1)."""
    return request_for(CertId.of(issuer, certificate.serial_number, hash_name), nonce)


def request_for(cert_id: CertId, nonce: bytes | None = None) -> bytes:
    """As `build_request`, where there is a CertID already."""
    extensions = b"" if nonce is None else explicit(2, sequence(extension(NONCE_OID, octet_string(nonce))))
    return sequence(sequence(sequence(sequence(cert_id.der)), extensions))
