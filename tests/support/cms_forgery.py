"""SignedData put together by hand, with a sound signature over whatever is asked: what a dishonest signer can send."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import algorithm_of, sign_with, signature_algorithm_der
from pkicore.encoding import explicit, integer, object_identifier, octet_string, sequence, tlv
from tests.support.signing_pki import Holder

DATA = "1.2.840.113549.1.7.1"
SHA256, SHA512 = "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.3"
CONTENT_TYPE, MESSAGE_DIGEST, SIGNING_TIME = (f"1.2.840.113549.1.9.{arc}" for arc in (3, 4, 5))
ALGORITHM_PROTECTION = "1.2.840.113549.1.9.52"
SIGNING_CERTIFICATE, SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"


def attribute(kind: str, *values: bytes) -> bytes:
    """Attribute with encoded values."""
    return sequence(object_identifier(kind), tlv(0x31, b"".join(values)))


def algorithm(oid: str, *parameters: bytes) -> bytes:
    """AlgorithmIdentifier."""
    return sequence(object_identifier(oid), *parameters)


def implicit(number: int, element: bytes) -> bytes:
    """[number] IMPLICIT."""
    return bytes((0xA0 | number,)) + element[1:]


def attributes_of(content: bytes, content_type: str = DATA) -> list[bytes]:
    """The two that RFC 5652 demands, with SHA-256."""
    digest = hashlib.sha256(content).digest()
    return [
        attribute(CONTENT_TYPE, object_identifier(content_type)),
        attribute(MESSAGE_DIGEST, octet_string(digest)),
    ]


def certificate_binding(holder: Holder, *, digest: bytes | None = None, hash_oid: str | None = None) -> bytes:
    """SigningCertificateV2; of another certificate where a digest is given."""
    found = hashlib.sha256(holder.certificate.public_bytes(Encoding.DER)).digest() if digest is None else digest
    name = b"" if hash_oid is None else algorithm(hash_oid)
    return attribute(SIGNING_CERTIFICATE_V2, sequence(sequence(sequence(name, octet_string(found)))))


def signer_info(
    holder: Holder,
    attributes: Sequence[bytes] | None,
    *,
    content: bytes = b"",
    signer: bytes | None = None,
    digest_algorithm: bytes | None = None,
    signature_algorithm: bytes | None = None,
    unsigned: bytes = b"",
    in_order: bool = True,
) -> bytes:
    """SignerInfo; without attributes the signature is over the content itself.

    Out of order, the attributes are sent as they are given and signed in the order of DER.
    """
    wire = b"" if attributes is None else tlv(0x31, b"".join(sorted(attributes) if in_order else attributes))
    message = content if attributes is None else tlv(0x31, b"".join(sorted(attributes)))
    identifier = algorithm_of(holder.private_key.public_key())
    return sequence(
        integer(1),
        signer or issuer_and_serial(holder),
        digest_algorithm or algorithm(SHA256),
        implicit(0, wire) if wire else b"",
        signature_algorithm or signature_algorithm_der(identifier),
        octet_string(sign_with(holder.private_key, message)),
        unsigned,
    )


def issuer_and_serial(holder: Holder) -> bytes:
    """The name of a signer."""
    return sequence(holder.certificate.issuer.public_bytes(), integer(holder.certificate.serial_number))


def signed_data(
    infos: Sequence[bytes],
    certificates: Sequence[bytes],
    *,
    encapsulated: bytes | None = None,
    version: int = 1,
    outer: str = "1.2.840.113549.1.7.2",
) -> bytes:
    """ContentInfo around it all; `encapsulated` is the content of EncapsulatedContentInfo."""
    body = sequence(
        integer(version),
        tlv(0x31, algorithm(SHA256)),
        sequence(object_identifier(DATA) if encapsulated is None else encapsulated),
        implicit(0, tlv(0x31, b"".join(certificates))) if certificates else b"",
        tlv(0x31, b"".join(infos)),
    )
    return sequence(object_identifier(outer), explicit(0, body))


def der_of(*holders: Holder) -> list[bytes]:
    """Their certificates."""
    return [holder.certificate.public_bytes(Encoding.DER) for holder in holders]
