"""The parser of requests against what a stranger may send: errors of our tree alone, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import sign_with
from pkicore.encoding import (
    bit_string,
    extension,
    integer,
    object_identifier,
    octet_string,
    pem_join,
    sequence,
    tlv,
)
from pkicore.errors import MalformedError, PkiError
from pkicore.x509.csr import MAX_CSR_BYTES, UnverifiedCsr, VerifiedCsr
from pkicore.x509.names import Names
from tests.support.key_pairs import KEYS
from tests.support.pki import make_csr

P256 = ec.generate_private_key(ec.SECP256R1())
SPKI = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
KINDS = ("ecdsa-p256", "rsa-2048", "ed25519", "ml-dsa-44")
GOOD = {name: make_csr(KEYS[name], names=Names.build(dns=["a.example"])) for name in KINDS}
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
OIDS = ["2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.30", "1.3.6.1.5.5.7.1.24", "1.2.3"]
CPU_SECONDS = 2.0  # for one request; some milliseconds are usual

tags = st.sampled_from(
    [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x17, 0x30, 0x31, 0x80, 0x82, 0x86, 0xA0, 0xA3]
)
der = st.recursive(
    st.builds(tlv, tags, st.binary(max_size=24)),
    lambda inner: st.builds(lambda tag, parts: tlv(tag, b"".join(parts)), tags, st.lists(inner, max_size=5)),
    max_leaves=24,
)
names = st.builds(
    tlv,
    st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA4]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"a.example", b"*.a.example", b"spiffe://td/a", b"\x7f\0\0\1"])),
)
values = st.one_of(der, st.lists(names, max_size=4).map(lambda found: sequence(*found)))
extensions = st.lists(st.builds(extension, st.sampled_from(OIDS), values, critical=st.booleans()), max_size=4)


def read(data: bytes) -> VerifiedCsr | None:
    """The request, or None where an error of our tree came out; any other error comes through."""
    before = time.process_time()
    try:
        return UnverifiedCsr.parse(data).verify()
    except PkiError:
        return None
    finally:
        assert time.process_time() - before < CPU_SECONDS


def signed(subject: bytes, *attributes: bytes) -> bytes:
    """A correctly signed request of such parts."""
    info = sequence(integer(0), subject, SPKI, tlv(0xA0, b"".join(attributes)))
    return sequence(info, sequence(object_identifier("1.2.840.10045.4.3.2")), bit_string(sign_with(P256, info)))


def asking(*wanted: bytes) -> bytes:
    """The attribute that asks for extensions (RFC 2985 §5.4.2)."""
    return sequence(object_identifier(EXTENSION_REQUEST), tlv(0x31, sequence(*wanted)))


@given(der)
def test_any_der(data: bytes) -> None:
    """Well-formed DER of any shape is no request."""
    assert read(data) is None


@given(st.lists(der, max_size=5), st.binary(max_size=80))
def test_the_outer_form_with_anything_in_it(parts: list[bytes], signature: bytes) -> None:
    """A request's own frame around parts of any shape is no request."""
    assert (
        read(sequence(sequence(*parts), sequence(object_identifier("1.2.840.10045.4.3.2")), bit_string(signature)))
        is None
    )


@given(der, st.lists(der, max_size=3))
def test_signed_parts_of_any_shape(subject: bytes, attributes: list[bytes]) -> None:
    """A stranger can sign whatever it likes with its own key."""
    read(signed(subject, *attributes))


@given(extensions)
def test_signed_extensions(wanted: list[bytes]) -> None:
    """What is verified has its names in the one canonical form, and asks for no role."""
    csr = read(signed(sequence(), asking(*wanted)))
    if csr is None:
        return
    again = Names.build(dns=csr.names.dns, ip=csr.names.ip, uri=csr.names.uri, email=csr.names.email)
    assert csr.names == again
    for found in x509.load_der_x509_csr(csr.der).extensions:
        assert not (isinstance(found.value, x509.BasicConstraints) and found.value.ca)


@given(st.sampled_from(sorted(GOOD)), st.integers(0), st.binary(min_size=1, max_size=8), st.integers(0, 8))
def test_bent_requests(name: str, at: int, piece: bytes, cut: int) -> None:
    """A good request of any family with a piece replaced verifies no more."""
    good = GOOD[name]
    start = at % len(good)
    bent = good[:start] + piece + good[start + cut :]
    assert bent == good or read(bent) is None


@given(st.sampled_from(sorted(GOOD)), st.integers(1))
def test_cut_requests(name: str, length: int) -> None:
    """A cut request is malformed at any length."""
    with pytest.raises(MalformedError):
        UnverifiedCsr.parse(GOOD[name][: length % len(GOOD[name])])


@given(
    st.text(max_size=60),
    st.sampled_from(["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "CERTIFICATE"]),
    st.binary(max_size=90),
)
def test_pem_of_anything(around: str, label: str, content: bytes) -> None:
    """PEM with any text around it, and any content."""
    pem = pem_join(label, content)
    for data in (
        pem,
        around.encode() + pem,
        pem + around.encode(),
        pem + pem,
        pem.replace(b"-----END", around.encode()),
    ):
        read(data)


def _subject_alternative(count: int) -> bytes:
    return extension("2.5.29.17", sequence(*(tlv(0x82, b"n%d.a.example" % n) for n in range(count))))


def _spki_of(modulus_bits: int, exponent_bits: int) -> bytes:
    numbers = sequence(integer((1 << modulus_bits) - 1), integer((1 << exponent_bits) - 1))
    algorithm = sequence(object_identifier("1.2.840.113549.1.1.1"), b"\x05\x00")
    return sequence(algorithm, bit_string(numbers))


def _by_rsa(modulus_bits: int, exponent_bits: int) -> bytes:
    info = sequence(integer(0), sequence(), _spki_of(modulus_bits, exponent_bits), tlv(0xA0, b""))
    algorithm = sequence(object_identifier("1.2.840.113549.1.1.11"), b"\x05\x00")
    return sequence(info, algorithm, bit_string(b"\1" * (modulus_bits // 8)))


def _nested(depth: int) -> bytes:
    data = b""
    while len(data) < depth:
        data = sequence(data)
    return data


HEAVY: dict[str, Callable[[], bytes]] = {
    "sequences in sequences": lambda: _nested(MAX_CSR_BYTES - 100),
    "a subject of sequences in sequences": lambda: signed(_nested(20_000)),
    "three thousand names": lambda: signed(sequence(), asking(_subject_alternative(3000))),
    "a thousand attributes": lambda: signed(
        sequence(), *(sequence(object_identifier(f"1.2.3.{n}"), tlv(0x31, octet_string(b"x"))) for n in range(1000))
    ),
    "a thousand extensions": lambda: signed(
        sequence(), asking(*(extension(f"1.2.3.{n}", b"\x05\x00") for n in range(1000)))
    ),
    "an RSA modulus of 16,384 bits": lambda: _by_rsa(16_384, 17),
    "an RSA modulus of 120,000 bits": lambda: _by_rsa(120_000, 17),
    "an RSA exponent of 2,000 bits": lambda: _by_rsa(2048, 2000),
    "an RSA exponent as long as a modulus of 16,384 bits": lambda: _by_rsa(16_384, 16_383),
    "a long name of short labels": lambda: signed(
        sequence(), asking(extension("2.5.29.17", sequence(tlv(0x82, b"a." * 15_000))))
    ),
    "a long URI": lambda: signed(
        sequence(), asking(extension("2.5.29.17", sequence(tlv(0x86, b"spiffe://" + b"a/" * 15_000))))
    ),
    "an object identifier without end": lambda: signed(
        sequence(), sequence(tlv(0x06, b"\xff" * 30_000 + b"\x01"), tlv(0x31, b""))
    ),
    "a length that lies": lambda: b"\x30\x84\xff\xff\xff\xff" + bytes(1000),
    "an indefinite length": lambda: b"\x30\x80" + bytes(1000),
    "64 KiB of PEM": lambda: b"-----BEGIN CERTIFICATE REQUEST-----\n" * 1800,
    "more than 64 KiB": lambda: bytes(MAX_CSR_BYTES + 1),
}


@pytest.mark.parametrize("case", list(HEAVY))
def test_heavy_requests(case: str) -> None:
    """What is made to be expensive costs less than the bound of every request, and is refused or verified."""
    read(HEAVY[case]())
