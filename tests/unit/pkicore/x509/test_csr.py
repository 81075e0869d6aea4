"""Certificate requests, good and hostile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key, sign_with
from pkicore.encoding import (
    bit_string,
    explicit,
    extension,
    integer,
    object_identifier,
    octet_string,
    pem_join,
    sequence,
    tlv,
)
from pkicore.errors import BadCsrError, BadKeyError, BadSignatureError, MalformedError, PkiError
from pkicore.x509.csr import MAX_CSR_BYTES, UnverifiedCsr
from pkicore.x509.names import Names
from tests.support.pki import make_csr

P256 = ec.generate_private_key(ec.SECP256R1())
GOOD = make_csr(P256, common_name="a.example", names=Names.build(dns=["a.example", "b.example"]))
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
COMMON_NAME = "2.5.4.3"


def raw_csr(*attributes: bytes, subject: bytes = sequence(), key: PrivateKey = P256) -> bytes:
    """A correctly signed request with attributes that no builder would write."""
    from cryptography.hazmat.primitives.serialization import PublicFormat

    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info = sequence(integer(0), subject, spki, tlv(0xA0, b"".join(attributes)))
    return sequence(info, sequence(object_identifier("1.2.840.10045.4.3.2")), bit_string(sign_with(key, info)))


def attribute(oid: str, *values: bytes) -> bytes:
    """Attribute ::= SEQUENCE { type, values SET }."""
    return sequence(object_identifier(oid), tlv(0x31, b"".join(values)))


def request_of(*extensions: bytes) -> bytes:
    """The attribute that asks for extensions (RFC 2985 §5.4.2)."""
    return attribute(EXTENSION_REQUEST, sequence(*extensions))


def alternative_names(*names: bytes) -> bytes:
    """A subjectAltName extension of encoded general names."""
    return extension(SUBJECT_ALTERNATIVE_NAME, sequence(*names))


def verify(data: bytes) -> object:
    """Parse and verify."""
    return UnverifiedCsr.parse(data).verify()


@pytest.mark.parametrize(
    "name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
)
def test_good_requests_of_every_algorithm(name: str) -> None:
    """DER and PEM give the same key, names and common name."""
    key = generate_private_key(ALGORITHMS[name])
    der = make_csr(key, common_name="B.example", names=Names.build(dns=["a.example"], ip=["10.0.0.1"]))
    for data in (der, pem_join("CERTIFICATE REQUEST", der), pem_join("NEW CERTIFICATE REQUEST", der)):
        found = UnverifiedCsr.parse(data).verify()
        assert found.der == der
        assert found.public_key == key.public_key()
        assert found.algorithm is ALGORITHMS[name]
        assert found.common_name == "B.example"
        assert found.names == Names.build(dns=["a.example", "b.example"], ip=["10.0.0.1"])


def test_a_request_of_openssl(tmp_path: Path) -> None:
    """What `openssl req` makes, with a challenge password and usages, is understood."""
    config = tmp_path / "req.cnf"
    config.write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=at\nreq_extensions=ex\n[dn]\nCN=a.example\nO=Some Org\n"
        "[at]\nchallengePassword=secret\n[ex]\nsubjectAltName=DNS:a.example,IP:10.0.0.1\n"
        "keyUsage=critical,digitalSignature,keyEncipherment\nbasicConstraints=critical,CA:FALSE\n"
    )
    command = [
        "openssl",
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(tmp_path / "k"),
        "-config",
        str(config),
    ]
    csr = subprocess.run(command, check=True, capture_output=True).stdout
    found = UnverifiedCsr.parse(csr).verify()
    assert found.algorithm.name == "rsa-2048"
    assert found.names == Names.build(dns=["a.example"], ip=["10.0.0.1"])


def test_a_common_name_that_is_no_host_is_no_name() -> None:
    """`alice` or `Some Device` is kept as common name and asks for no DNS name."""
    for name in ("alice", "Some Device", "a..b"):
        found = UnverifiedCsr.parse(make_csr(P256, common_name=name)).verify()
        assert (found.common_name, found.names) == (name, Names())


def test_an_ip_common_name_needs_the_address_as_name() -> None:
    """RFC 8738: an address in the common name alone is refused, beside the address name it is harmless."""
    with pytest.raises(BadCsrError, match="IP address"):
        verify(make_csr(P256, common_name="10.0.0.1"))
    found = UnverifiedCsr.parse(make_csr(P256, common_name="10.0.0.1", names=Names.build(ip=["10.0.0.1"]))).verify()
    assert found.names == Names.build(ip=["10.0.0.1"])


def test_possession_must_be_proven() -> None:
    """A request whose signature or content was changed is refused as such."""
    flipped = bytearray(GOOD)
    flipped[GOOD.index(b"b.example")] ^= 2
    for data in (bytes(flipped), GOOD[:-1] + bytes((GOOD[-1] ^ 1,))):
        with pytest.raises(BadSignatureError):
            verify(data)


def test_a_request_of_a_curve_is_verified_as_cryptography_verifies_it() -> None:
    """Whichever octet is another: the key in hand says what the key says that is read anew.

    Only where a BIT STRING says how many bits of its last octet do not count, the signature may be none the worse.
    """
    passed = 0
    for index in range(len(GOOD)):
        bent = GOOD[:index] + bytes((GOOD[index] ^ 1,)) + GOOD[index + 1 :]
        try:
            verify(bent)
        except PkiError:
            continue
        assert UnverifiedCsr.parse(bent).request.is_signature_valid
        passed += 1
    assert passed <= 2
    assert UnverifiedCsr.parse(GOOD).verify().der == GOOD


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda digest: digest.name)
def test_any_good_digest_goes_with_a_curve(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
    """RFC 5758 §3.2 ties none to the other."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    made = builder.sign(ec.generate_private_key(curve), digest)  # type: ignore[arg-type] # each is one that it takes
    assert UnverifiedCsr.parse(made.public_bytes(Encoding.DER)).verify().names.is_empty


def test_the_key_of_another_is_no_possession() -> None:
    """A request that carries somebody else's public key, signed with one's own."""
    from cryptography.hazmat.primitives.serialization import PublicFormat

    mine = ec.generate_private_key(ec.SECP256R1()).public_key()
    theirs = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    swapped = make_csr(P256).replace(theirs, mine.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadSignatureError):
        verify(swapped)


def test_sha_1_proves_nothing() -> None:
    """A request signed with SHA-1 is refused although its signature verifies."""
    key = rsa.generate_private_key(65537, 2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    info = csr.tbs_certrequest_bytes
    from cryptography.hazmat.primitives.asymmetric import padding

    sha1 = key.sign(info, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - this is what must be refused
    der = sequence(info, sequence(object_identifier("1.2.840.113549.1.1.5"), b"\x05\x00"), bit_string(sha1))
    with pytest.raises(BadSignatureError, match="sha1"):
        verify(der)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - this is what must be refused
        lambda: rsa.generate_private_key(65537, 2304),
        lambda: rsa.generate_private_key(3, 2048),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        ed448.Ed448PrivateKey.generate,
    ],
    ids=["rsa-1024", "rsa-2304", "rsa-e3", "secp256k1", "p521", "ed448"],
)
def test_keys_that_the_rules_refuse(make: Callable[[], rsa.RSAPrivateKey | ed448.Ed448PrivateKey]) -> None:
    """Small, odd-sized and exotic keys are bad keys whatever they sign."""
    key = make()
    digest = None if isinstance(key, ed448.Ed448PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, digest)
    with pytest.raises(BadKeyError):
        verify(csr.public_bytes(Encoding.DER))


KEY_USAGE = x509.KeyUsage(True, False, False, False, False, True, False, False, False)


@pytest.mark.parametrize(
    ("value", "critical", "match"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), True, "CA certificate"),
        (x509.BasicConstraints(ca=True, path_length=0), False, "CA certificate"),
        (KEY_USAGE, True, "sign certificates"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True, "not understood"),
        (x509.NameConstraints([x509.DNSName("x")], None), True, "not understood"),
    ],
)
def test_what_no_request_may_ask_for(value: x509.ExtensionType, critical: bool, match: str) -> None:  # noqa: FBT001
    """CA rights and critical extensions that nobody here understands."""
    with pytest.raises(BadCsrError, match=match):
        verify(make_csr(P256, extensions=[(value, critical)]))


def test_what_a_request_may_ask_for_in_vain() -> None:
    """Usages and unknown extensions that are not critical are the profile's business; they pass and mean nothing."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    found = UnverifiedCsr.parse(make_csr(P256, extensions=[(unknown, False), (usages, True)])).verify()
    assert found.names.is_empty


def dns(raw: bytes) -> bytes:
    """A dNSName of these bytes."""
    return tlv(0x82, raw)


@pytest.mark.parametrize(
    ("csr", "error"),
    [
        (raw_csr(request_of(alternative_names(dns(b"a.example\x00.evil.example")))), BadCsrError),
        (raw_csr(request_of(alternative_names(dns("bücher.example".encode())))), PkiError),
        (raw_csr(request_of(alternative_names(dns(b"\xff\xfe")))), PkiError),
        (raw_csr(request_of(alternative_names(dns(b"")))), BadCsrError),
        (raw_csr(request_of(alternative_names(dns(b"a" * 300)))), BadCsrError),
        (raw_csr(request_of(alternative_names(dns(b"*.*.example")))), BadCsrError),
        (raw_csr(request_of(alternative_names(dns(b"10.0.0.1")))), BadCsrError),
        (raw_csr(request_of(alternative_names(tlv(0x87, b"\x0a\x00\x00")))), PkiError),
        (raw_csr(request_of(alternative_names(tlv(0x87, b"\x0a\x00\x00\x00" * 2)))), PkiError),
        (raw_csr(request_of(alternative_names(tlv(0x86, b"spiffe://td/a\x00b")))), BadCsrError),
        (raw_csr(request_of(alternative_names(tlv(0x88, b"\x2a\x03")))), BadCsrError),
        (raw_csr(request_of(alternative_names(explicit(4, sequence())))), BadCsrError),
        (raw_csr(request_of(alternative_names(explicit(3, sequence())))), PkiError),
        (raw_csr(request_of(alternative_names(dns(b"a")), alternative_names(dns(b"b")))), BadCsrError),
        (raw_csr(request_of(alternative_names(dns(b"a"))), request_of(alternative_names(dns(b"b")))), BadCsrError),
        (raw_csr(attribute(EXTENSION_REQUEST, sequence(), sequence())), PkiError),
        (raw_csr(attribute(EXTENSION_REQUEST)), PkiError),
        (raw_csr(request_of(extension(SUBJECT_ALTERNATIVE_NAME, b"\x30\x82"))), MalformedError),
        (raw_csr(attribute("1.2.3", integer(1)), attribute("1.2.3", integer(2))), BadCsrError),
        (raw_csr(request_of(extension("2.5.29.19", octet_string(b"x")))), MalformedError),
    ],
)  # fmt: skip
def test_hostile_extensions(csr: bytes, error: type[PkiError]) -> None:
    """NULs, foreign characters, broken addresses, doubled extensions and attributes: each a typed refusal."""
    with pytest.raises(error):
        verify(csr)


@pytest.mark.parametrize(
    "names",
    [["a.example", "b.example"], ["a\x00.example"], ["x" * 65], ["a\u202eb"], ["a\nb"]],
)
def test_hostile_subjects(names: list[str]) -> None:
    """Two common names, characters that cannot be printed, and names over 64 characters."""
    parts = (sequence(object_identifier(COMMON_NAME), tlv(0x0C, name.encode())) for name in names)
    with pytest.raises(PkiError):
        verify(raw_csr(subject=sequence(*(tlv(0x31, part) for part in parts))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0",
        b"rubbish",
        GOOD[:-1],
        GOOD + b"\x00",
        GOOD + GOOD,
        b"\x30" * 1000,
        b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n",
        pem_join("CERTIFICATE REQUEST", GOOD, GOOD),
        b"-----BEGIN CERTIFICATE REQUEST-----\nQUJD",
        b"\x00" * (MAX_CSR_BYTES + 1),
        pem_join("CERTIFICATE REQUEST", bytes(MAX_CSR_BYTES)),
        b"\x30\x84\x7f\xff\xff\xff",
    ],
)
def test_what_is_no_request(data: bytes) -> None:
    """Rubbish, truncation, trailing bytes, several requests and a megabyte are malformed."""
    with pytest.raises(MalformedError):
        UnverifiedCsr.parse(data)


def test_rubbish_is_named_as_no_request() -> None:
    """Whoever gives another file is told what it should have been."""
    with pytest.raises(MalformedError, match="not a certificate request"):
        UnverifiedCsr.parse(b"hello")


@given(st.binary(max_size=400))
def test_parsing_rubbish_is_total(data: bytes) -> None:
    """Any bytes are a request or malformed."""
    with pytest.raises(MalformedError):
        UnverifiedCsr.parse(data)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=6), st.booleans())
def test_verifying_bent_requests_is_total(at: int, piece: bytes, insert: bool) -> None:  # noqa: FBT001 - hypothesis
    """A request with some bytes changed never verifies, and only errors of our tree come out."""
    bent = GOOD[:at] + piece + GOOD[at if insert else at + len(piece) :]
    if bent == GOOD:
        return
    with pytest.raises(PkiError):
        verify(bent)


@given(
    st.binary(max_size=80), st.sampled_from(["2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.37", "1.3.6.1.5.5.7.1.24"])
)
def test_verifying_signed_rubbish_is_total(value: bytes, oid: str) -> None:
    """Extensions of any bytes, properly signed, are verified or refused within our tree."""
    try:
        verify(raw_csr(request_of(extension(oid, value))))
    except PkiError:
        return
