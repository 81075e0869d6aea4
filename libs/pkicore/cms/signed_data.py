"""SignedData as it comes (RFC 5652 §5), with nothing in it believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from pkicore.cms.der import SET, only, read_algorithm, read_elements, read_oid, read_time, set_of
from pkicore.cms.digests import read_digest_identifier
from pkicore.cms.signing import (
    ALGORITHM_PROTECTION,
    CONTENT_TYPE,
    MESSAGE_DIGEST,
    SIGNED_DATA,
    SIGNING_CERTIFICATE_V2,
    SIGNING_TIME,
    TIMESTAMP,
)
from pkicore.encoding import OCTET_STRING, SEQUENCE, DerReader
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.x509.certificate import load_der

MAX_CMS_BYTES: Final = 256 * 1024
MAX_SIGNERS: Final = 8
MAX_CERTIFICATES: Final = 32
_MAX_ATTRIBUTES: Final = 32
_MAX_VALUES: Final = 8
_VERSIONS: Final = (1, 3)
_CONTEXT_0: Final = 0xA0
_CONTEXT_1: Final = 0xA1
_KEY_IDENTIFIER: Final = 0x80


@dataclass(frozen=True, slots=True)
class UnverifiedSignerInfo:
    """What a signer is said to have signed; the attributes are those of RFC 5652 §11, RFC 5035 and RFC 6211.

    Attributes:
        signer: IssuerAndSerialNumber in DER, or the octets of a subject key identifier.
        digest_name: of the hash of the content.
        signature_oid: dotted object identifier of the signature algorithm.
        signature: its octets.
        message: the signed attributes as they were signed.
        content_type: dotted object identifier that was signed.
        message_digest: the digest that was signed.
        signing_time: None where it was not signed.
        certificate_hash: name of the hash and digest of the signer's certificate; None where it was not signed.
        timestamp_tokens: unsigned, over the signature.
    """

    signer: bytes
    digest_name: str
    signature_oid: str
    signature: bytes = field(repr=False)
    message: bytes = field(repr=False)
    content_type: str
    message_digest: bytes
    signing_time: datetime | None
    certificate_hash: tuple[str, bytes] | None
    timestamp_tokens: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnverifiedSignedData:
    """SignedData in DER.

    Attributes:
        content_type: dotted object identifier of the content.
        content: what is inside; None where the signature is detached.
        certificates: that were sent along; nobody vouches for them yet.
        signers: at least one.
    """

    content_type: str
    content: bytes | None = field(repr=False)
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[UnverifiedSignerInfo, ...]

    @classmethod
    def parse(cls, der: bytes, *, max_bytes: int = MAX_CMS_BYTES) -> UnverifiedSignedData:
        """Read ContentInfo with SignedData.

        RFC 5652 allows BER around the signed attributes. This reader wants DER all over, which every signer in use
        writes, so that there is one way to read what was signed.

        Raises:
            MalformedError: not that, larger than `max_bytes`, no signer or more than 8, more than 32 certificates; a
                signer without the attributes contentType and messageDigest, or with an attribute given twice.
            UnsupportedError: another content, version or hash, or certificates of other kinds than X.509.
        """
        if len(der) > max_bytes:
            raise MalformedError(f"the CMS is larger than {max_bytes} octets")
        content_info = only(der)
        if read_oid(content_info) != SIGNED_DATA:
            raise UnsupportedError("the CMS is no SignedData")
        data = only(content_info.read(_CONTEXT_0))
        content_info.finish()
        return cls._read(data)

    @classmethod
    def _read(cls, data: DerReader) -> UnverifiedSignedData:
        if data.read_integer() not in _VERSIONS:
            raise UnsupportedError("SignedData has version 1 or 3 here")
        data.read(SET)  # digest algorithms; each signer names its own
        encapsulated = data.enter()
        content_type = read_oid(encapsulated)
        content = _content(encapsulated.read(_CONTEXT_0)) if not encapsulated.at_end else None
        encapsulated.finish()
        enclosed = data.read(_CONTEXT_0) if data.next_is(_CONTEXT_0) else b""
        if data.next_is(_CONTEXT_1):
            data.read(_CONTEXT_1)  # CRLs: revocation is the caller's question
        signers = read_elements(data.enter(SET), MAX_SIGNERS, "signers")
        data.finish()
        if not signers:
            raise MalformedError("SignedData has at least one signer")
        certificates = read_elements(DerReader(enclosed), MAX_CERTIFICATES, "certificates")
        return cls(content_type, content, tuple(map(_certificate, certificates)), tuple(map(_signer, signers)))


def _content(explicit: bytes) -> bytes:
    reader = DerReader(explicit)
    content = reader.read(OCTET_STRING)
    reader.finish()
    return content


def _certificate(element: bytes) -> x509.Certificate:
    if element[0] != SEQUENCE:
        raise UnsupportedError("only X.509 certificates may come with SignedData")
    return load_der(element)


def _signer(element: bytes) -> UnverifiedSignerInfo:
    info = only(element)
    if info.read_integer() not in _VERSIONS:
        raise UnsupportedError("a signer has version 1 or 3")
    signer = info.read(_KEY_IDENTIFIER) if info.next_is(_KEY_IDENTIFIER) else info.read_element()
    digest_name = read_digest_identifier(info.enter())
    if not info.next_is(_CONTEXT_0):
        raise MalformedError("a signer without signed attributes")
    wire = info.read(_CONTEXT_0)
    signature_oid, signature = read_algorithm(info.enter()), info.read(OCTET_STRING)
    unsigned = _attributes(info.read(_CONTEXT_1)) if info.next_is(_CONTEXT_1) else {}
    info.finish()
    signed = _attributes(wire)
    _check_protection(signed, digest_name, signature_oid)
    return UnverifiedSignerInfo(
        signer=signer,
        digest_name=digest_name,
        signature_oid=signature_oid,
        signature=signature,
        message=_message(wire),
        content_type=_content_type(signed),
        message_digest=_message_digest(signed),
        signing_time=_signing_time(signed),
        certificate_hash=_certificate_hash(signed),
        timestamp_tokens=unsigned.get(TIMESTAMP, ()),
    )


def _attributes(members: bytes) -> dict[str, tuple[bytes, ...]]:
    """Dotted object identifier to values."""
    elements = read_elements(DerReader(members), _MAX_ATTRIBUTES, "attributes of a signer")
    found = {}
    for element in elements:
        attribute = only(element)
        kind = read_oid(attribute)
        found[kind] = read_elements(attribute.enter(SET), _MAX_VALUES, "values of an attribute")
        attribute.finish()
    if len(found) != len(elements):
        raise MalformedError("a signer has an attribute twice")
    return found


def _message(wire: bytes) -> bytes:
    """What was signed is the SET OF in DER, and not the [0] that stands in its place (RFC 5652 §5.4)."""
    elements = read_elements(DerReader(wire), _MAX_ATTRIBUTES, "attributes of a signer")
    if list(elements) != sorted(elements):
        raise MalformedError("the signed attributes are not in the order of DER")
    return set_of(*elements)


def _single(attributes: dict[str, tuple[bytes, ...]], kind: str) -> DerReader:
    values = attributes.get(kind, ())
    if len(values) != 1:
        raise MalformedError(f"a signer must have exactly one value of the attribute {kind}")
    return DerReader(values[0])


def _content_type(attributes: dict[str, tuple[bytes, ...]]) -> str:
    return read_oid(_single(attributes, CONTENT_TYPE))


def _message_digest(attributes: dict[str, tuple[bytes, ...]]) -> bytes:
    return _single(attributes, MESSAGE_DIGEST).read(OCTET_STRING)


def _signing_time(attributes: dict[str, tuple[bytes, ...]]) -> datetime | None:
    return read_time(_single(attributes, SIGNING_TIME)) if SIGNING_TIME in attributes else None


def _check_protection(attributes: dict[str, tuple[bytes, ...]], digest_name: str, signature_oid: str) -> None:
    """RFC 6211 §2: both algorithms are the ones that are used."""
    if ALGORITHM_PROTECTION not in attributes:
        return
    protected = _single(attributes, ALGORITHM_PROTECTION).enter()
    found = read_digest_identifier(protected.enter()), read_algorithm(protected.enter(_CONTEXT_1))
    protected.finish()
    if found != (digest_name, signature_oid):
        raise MalformedError("CMSAlgorithmProtection names other algorithms than are used")


def _certificate_hash(attributes: dict[str, tuple[bytes, ...]]) -> tuple[str, bytes] | None:
    """The first ESSCertIDv2 is the signer's (RFC 5035 §4); its issuer and serial add nothing to the hash."""
    if SIGNING_CERTIFICATE_V2 not in attributes:
        return None
    binding = _single(attributes, SIGNING_CERTIFICATE_V2).enter().enter().enter()
    name = read_digest_identifier(binding.enter()) if binding.next_is(SEQUENCE) else "sha256"
    return name, binding.read(OCTET_STRING)
