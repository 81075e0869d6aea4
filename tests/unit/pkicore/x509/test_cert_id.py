"""certID: RFC 9773's own example, the sign octet, and what is none."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.errors import BadCertificateError, MalformedError
from pkicore.x509.cert_id import MAX_CERT_ID, cert_id_of, make_cert_id, parse_cert_id
from tests.support.pki import Hierarchy

EXAMPLE = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"  # RFC 9773 §4.1
EXAMPLE_KEY = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")


def test_the_example_of_the_rfc() -> None:
    """Key identifier and serial of RFC 9773 §4.1 make its certID, whose serial begins with the sign octet."""
    assert make_cert_id(EXAMPLE_KEY, 0x8765_4321) == EXAMPLE
    assert parse_cert_id(EXAMPLE) == (EXAMPLE_KEY, 0x8765_4321)


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, (1 << 159) - 1, (1 << 160) - 1])
def test_a_serial_keeps_its_sign_octet(serial: int) -> None:
    """What is made is read again, and is the content of the DER INTEGER, octet for octet."""
    text = make_cert_id(EXAMPLE_KEY, serial)
    assert parse_cert_id(text) == (EXAMPLE_KEY, serial)
    octets = serial.to_bytes((serial.bit_length() + 8) // 8, "big")
    assert text.endswith(f".{make_cert_id(octets, 1).partition('.')[0]}")


async def test_of_a_certificate(ecdsa: Hierarchy) -> None:
    """The key identifier is the issuer's, the serial that of the certificate's DER."""
    certificate = (await ecdsa.server("a.example")).certificate
    key_identifier, serial = parse_cert_id(cert_id_of(certificate))
    assert key_identifier == ecdsa.issuing.subject_key_identifier.digest
    assert serial == certificate.serial_number
    assert serial.to_bytes((serial.bit_length() + 8) // 8, "big") in certificate.public_bytes(Encoding.DER)


async def test_a_certificate_that_names_no_issuer_key_has_none(ecdsa: Hierarchy) -> None:
    """A root does not say by which key it is certified."""
    with pytest.raises(BadCertificateError, match="key of its issuer"):
        cert_id_of(ecdsa.root.certificate)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "aYhb",
        "aYhb.",
        ".AIdl",
        "aYhb.AIdlQyE.",
        "aYhb.AI.dl",
        "aYhb.AIdlQyE=",
        "aYhb=.AIdlQyE",
        "aY hb.AIdlQyE",
        "aYhb.AIdl/yE",
        "aYhb.AIdlQyF",  # loose bits
        "aYhb.h2VDIQ",  # the sign octet is missing
        "aYhb.AAEC",  # an octet too many
        "aYhb.AA",  # zero
        "aYhb.AAA",
        f"{'A' * MAX_CERT_ID}.AQ",
        f"aYhb.{'AQ' * 15}",
        "aYhb.AIdlQyE\n",
        "aYhb.AIdl\u00e9",
    ],
)
def test_what_is_no_cert_id(text: str) -> None:
    """Anything but the one text of a certificate is refused."""
    with pytest.raises(MalformedError):
        parse_cert_id(text)
