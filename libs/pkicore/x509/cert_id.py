"""The name under which a certificate is asked about, and replaced, in ACME: its certID (RFC 9773 §4.1).

    base64url(keyIdentifier of the authority key) "." base64url(serial)

Both without padding. The serial is the content of its DER INTEGER, so that a set top bit has a zero octet before it.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.errors import BadCertificateError, MalformedError

MAX_CERT_ID: Final = 200  # characters; a key identifier of SHA-512 and a serial of 21 octets are 115
_MAX_SERIAL: Final = 21  # octets: the 20 of RFC 5280 §4.1.2.2, and one for the sign of those who count otherwise


def cert_id_of(certificate: x509.Certificate) -> str:
    """The certID of a certificate.

    Raises:
        BadCertificateError: it does not name the key of its issuer.
    """
    return make_cert_id(authority_key_identifier(certificate), certificate.serial_number)


def make_cert_id(key_identifier: bytes, serial: int) -> str:
    """The certID of the certificate with this serial by the issuer with this key."""
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{base64url_encode(key_identifier)}.{base64url_encode(octets)}"


def authority_key_identifier(certificate: x509.Certificate) -> bytes:
    """What a certificate calls the key of its issuer (RFC 5280 §4.2.1.1).

    Raises:
        BadCertificateError: it does not say.
    """
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        found = None
    if not found:
        raise BadCertificateError("the certificate does not name the key of its issuer")
    return found


def parse_cert_id(text: str) -> tuple[bytes, int]:
    """Key identifier and serial; each certificate has one certID, so that texts may be compared.

    Raises:
        MalformedError: anything that `make_cert_id` does not make.
    """
    issuer, dot, serial = text.partition(".")
    if len(text) > MAX_CERT_ID or not dot:
        raise MalformedError("a certID is two parts of base64url with a dot between them")
    try:
        key_identifier, octets = base64url_decode(issuer), base64url_decode(serial)
    except MalformedError as error:
        raise MalformedError(f"a part of the certID is {error}") from error
    if not key_identifier or not octets:
        raise MalformedError("a part of the certID is empty")
    number = int.from_bytes(octets, "big", signed=True)
    if len(octets) > _MAX_SERIAL or number < 1 or make_cert_id(key_identifier, number) != text:
        raise MalformedError(
            "the serial of the certID is not the content of a positive DER INTEGER: where its top bit is set, an octet "
            "of zeros is before it, and nowhere else"
        )
    return key_identifier, number
