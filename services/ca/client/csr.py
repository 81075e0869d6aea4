"""A certificate request for a key that is only reached through `SigningKey` (RFC 2986)."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pkicore.algorithms import signature_algorithm_der
from pkicore.encoding import bit_string, extension, integer, object_identifier, sequence, tlv
from pkicore.keys import SigningKey
from pkicore.x509.names import Names

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
_SET = 0x31
_ATTRIBUTES = 0xA0


async def make_csr(key: SigningKey, *, common_name: str | None = None, names: Names | None = None) -> bytes:
    """The DER of a request for these names, signed by the key.

    Raises:
        KeyUnavailableError: the key's back end does not answer.
    """
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    information = sequence(
        integer(0), x509.Name(attributes).public_bytes(), spki, tlv(_ATTRIBUTES, _requested(names or Names()))
    )
    return sequence(information, signature_algorithm_der(key.algorithm), bit_string(await key.sign(information)))


def _requested(names: Names) -> bytes:
    if names.is_empty:
        return b""
    alternatives = x509.SubjectAlternativeName(names.general_names()).public_bytes()
    extensions = sequence(extension(_SUBJECT_ALTERNATIVE_NAME, alternatives))
    return sequence(object_identifier(_EXTENSION_REQUEST), tlv(_SET, extensions))
