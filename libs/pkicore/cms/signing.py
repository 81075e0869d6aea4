"""SignedData in two steps around a signature that is made elsewhere (RFC 5652 §5, ML-DSA after RFC 9882).

1 the caller hashes the content, once per hash that its signers need · 2 `signed_attributes` says what each key signs ·
3 the keys sign, wherever they are · 4 `assemble` checks every signature and puts all together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import algorithm_of, known_public_key, signature_algorithm_der, verify_signature
from pkicore.cms.der import implicit, set_of
from pkicore.cms.digests import check_digest, digest_identifier, digest_name
from pkicore.encoding import (
    SEQUENCE,
    DerReader,
    explicit,
    integer,
    object_identifier,
    octet_string,
    sequence,
    x509_time,
)
from pkicore.errors import UnsupportedError

ID_DATA: Final = "1.2.840.113549.1.7.1"
SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
SIGNING_TIME: Final = "1.2.840.113549.1.9.5"
ALGORITHM_PROTECTION: Final = "1.2.840.113549.1.9.52"
SIGNING_CERTIFICATE_V2: Final = "1.2.840.113549.1.9.16.2.47"
TIMESTAMP: Final = "1.2.840.113549.1.9.16.2.14"  # id-aa-timeStampToken, RFC 3161 appendix A
_VERSION_TAG: Final = 0xA0


@dataclass(frozen=True, slots=True)
class SignedAttributes:
    """What the key of a certificate signs.

    Attributes:
        certificate: of the signer.
        digest_name: the hash of the content.
        content_type: dotted object identifier of what the content is.
        message: the SET OF Attribute in DER, the exact bytes to sign (RFC 5652 §5.4).
    """

    certificate: x509.Certificate
    digest_name: str
    content_type: str
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """A signature and what it was made over.

    Attributes:
        attributes: what was signed.
        signature: by the key of their certificate: ECDSA as DER, the rest raw.
        timestamp_token: of RFC 3161 over the signature, for the unsigned attributes.
    """

    attributes: SignedAttributes
    signature: bytes = field(repr=False)
    timestamp_token: bytes | None = field(default=None, repr=False)


def signed_attributes(
    certificate: x509.Certificate,
    digests: Mapping[str, bytes],
    *,
    signing_time: datetime,
    content_type: str = ID_DATA,
) -> SignedAttributes:
    """The attributes that bind content, time, algorithms and certificate together.

    contentType, messageDigest and signingTime (RFC 5652 §11), signingCertificateV2 with SHA-256 (RFC 5035 §3),
    CMSAlgorithmProtection (RFC 6211, as RFC 8933 §2 wants it).

    Args:
        certificate: of the signer.
        digests: of the content by the name of the hash; `digest_name` says which one a key needs.
        signing_time: whole seconds.
        content_type: dotted object identifier.

    Raises:
        UnsupportedError: the digest that this key needs is not among them, or the key is not in the table.
        MalformedError: a digest of the wrong length.
        BadKeyError: an RSA key that the rules refuse.
    """
    algorithm = algorithm_of(certificate.public_key())
    name = digest_name(algorithm)
    if name not in digests:
        raise UnsupportedError(f"a CMS signature by a key of {algorithm.name} needs the {name} digest of the content")
    check_digest(name, digests[name])
    certificate_hash = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    signature_algorithm = signature_algorithm_der(algorithm)
    message = set_of(
        _attribute(CONTENT_TYPE, object_identifier(content_type)),
        _attribute(MESSAGE_DIGEST, octet_string(digests[name])),
        _attribute(SIGNING_TIME, x509_time(signing_time)),
        _attribute(SIGNING_CERTIFICATE_V2, sequence(sequence(sequence(octet_string(certificate_hash))))),
        _attribute(ALGORITHM_PROTECTION, sequence(digest_identifier(name), implicit(1, signature_algorithm))),
    )
    return SignedAttributes(certificate, name, content_type, message)


def assemble(
    signers: Sequence[SignerInfo],
    *,
    certificates: Iterable[x509.Certificate] | None = None,
    content: bytes | None = None,
) -> bytes:
    """ContentInfo with SignedData in DER.

    Args:
        signers: one or more, about the same content; their order does not matter.
        certificates: what is sent along; the signers' own unless given, none where it is empty.
        content: what was signed, to be put inside; None for a detached signature.

    Raises:
        BadSignatureError: a signature that its certificate's key did not make over these attributes.
        UnsupportedError: no signer, or signers of different content types.
    """
    types = {signer.attributes.content_type for signer in signers}
    if len(types) != 1:
        raise UnsupportedError("SignedData needs signers, all of the same content type")
    for signer in signers:
        public_key = known_public_key(signer.attributes.certificate.public_key())
        verify_signature(public_key, signer.signature, signer.attributes.message)
    content_type = types.pop()
    encapsulated = b"" if content is None else explicit(0, octet_string(content))
    enclosed = [signer.attributes.certificate for signer in signers] if certificates is None else certificates
    certificate_set = set_of(*{certificate.public_bytes(Encoding.DER) for certificate in enclosed})
    signed_data = sequence(
        integer(1 if content_type == ID_DATA else 3),
        set_of(*{digest_identifier(signer.attributes.digest_name) for signer in signers}),
        sequence(object_identifier(content_type), encapsulated),
        implicit(0, certificate_set) if certificate_set != set_of() else b"",
        set_of(*(_signer_info(signer) for signer in signers)),
    )
    return sequence(object_identifier(SIGNED_DATA), explicit(0, signed_data))


def issuer_and_serial(certificate: x509.Certificate) -> bytes:
    """IssuerAndSerialNumber with the issuer's name to the octet as the certificate has it (RFC 5652 §10.2.4)."""
    tbs = DerReader(certificate.tbs_certificate_bytes).enter()
    if tbs.next_is(_VERSION_TAG):
        tbs.read(_VERSION_TAG)
    serial = tbs.read_element()
    tbs.read(SEQUENCE)
    return sequence(tbs.read_element(), serial)


def _signer_info(signer: SignerInfo) -> bytes:
    attributes = signer.attributes
    algorithm = algorithm_of(attributes.certificate.public_key())
    token = signer.timestamp_token
    return sequence(
        integer(1),
        issuer_and_serial(attributes.certificate),
        digest_identifier(attributes.digest_name),
        implicit(0, attributes.message),
        signature_algorithm_der(algorithm),
        octet_string(signer.signature),
        b"" if token is None else implicit(1, set_of(_attribute(TIMESTAMP, token))),
    )


def _attribute(kind: str, value: bytes) -> bytes:
    return sequence(object_identifier(kind), set_of(value))
