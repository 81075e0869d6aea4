"""The table of algorithms."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from pkicore.algorithms import (
    ALGORITHMS,
    Algorithm,
    algorithm_of,
    generate_private_key,
    known_public_key,
    sign_digest_with,
    sign_with,
    signature_algorithm_der,
    verify_digest,
    verify_signature,
)
from pkicore.errors import BadKeyError, BadSignatureError, UnsupportedError

QUICK = [row for row in ALGORITHMS.values() if row.family != "rsa" or row.name == "rsa-2048"]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_sign_and_verify(row: Algorithm) -> None:
    """What a fresh key signs verifies, and a changed message, signature or key does not."""
    key, other = generate_private_key(row), generate_private_key(row)
    assert algorithm_of(key.public_key()) is row
    signature = sign_with(key, b"message")
    verify_signature(key.public_key(), signature, b"message")
    flipped = signature[:-1] + bytes((signature[-1] ^ 1,))
    for public_key, wrong, message in (
        (key.public_key(), signature, b"massage"),
        (key.public_key(), flipped, b"message"),
        (key.public_key(), b"", b"message"),
        (other.public_key(), signature, b"message"),
    ):
        with pytest.raises(BadSignatureError):
            verify_signature(public_key, wrong, message)
    if row.signature_hash is not None:
        digest = hashlib.new(row.signature_hash.name, b"message").digest()
        verify_signature(key.public_key(), sign_digest_with(key, digest), b"message")
        verify_digest(key.public_key(), signature, digest)
        for wrong, of in ((flipped, digest), (signature, digest[1:]), (signature, bytes(len(digest)))):
            with pytest.raises(BadSignatureError):
                verify_digest(key.public_key(), wrong, of)


@pytest.mark.parametrize("name", ["ed25519", "ml-dsa-44"])
def test_what_has_no_hash_of_its_own_signs_no_digest(name: str) -> None:
    """HashML-DSA and Ed25519ph are other algorithms."""
    key = generate_private_key(ALGORITHMS[name])
    with pytest.raises(UnsupportedError):
        sign_digest_with(key, bytes(32))
    with pytest.raises(UnsupportedError):
        verify_digest(key.public_key(), b"", bytes(32))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ml-dsa-44", "300b0609608648016503040311"),
        ("ml-dsa-65", "300b0609608648016503040312"),
        ("ml-dsa-87", "300b0609608648016503040313"),
        ("ed25519", "300506032b6570"),
        ("ecdsa-p256", "300a06082a8648ce3d040302"),
        ("ecdsa-p384", "300a06082a8648ce3d040303"),
        ("rsa-2048", "300d06092a864886f70d01010b0500"),
    ],
)
def test_algorithm_identifiers(name: str, expected: str) -> None:
    """The identifiers are those of RFC 9881 §2, RFC 8410 §3, RFC 5758 §3.2 and RFC 4055 §5."""
    assert signature_algorithm_der(ALGORITHMS[name]).hex() == expected


def test_object_identifiers_agree_with_cryptography() -> None:
    """Each signature OID is the one that cryptography names for the family."""
    names = {row.name: x509.ObjectIdentifier(row.signature_oid)._name for row in ALGORITHMS.values()}
    assert names["ecdsa-p521"] == "ecdsa-with-SHA512"
    assert names["rsa-4096"] == "sha256WithRSAEncryption"
    assert names["ed25519"] == "ed25519"


def test_rfc_8032_vector() -> None:
    """RFC 8032 §7.1, test 2: the Ed25519 signature of one byte."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    expected = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert sign_with(key, b"\x72") == expected


def test_keys_beyond_the_table_are_refused() -> None:
    """Other curves, other key types, other moduli and exponents have no row."""
    for unsupported in (
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
    ):
        with pytest.raises(UnsupportedError):
            algorithm_of(unsupported)
    with pytest.raises(UnsupportedError):
        known_public_key("a string")
    good = rsa.generate_private_key(65537, 2048).public_key()
    modulus = good.public_numbers().n
    with pytest.raises(BadKeyError, match="2056 bits"):
        algorithm_of(rsa.RSAPublicNumbers(65537, (modulus << 8) | 1).public_key())
    with pytest.raises(BadKeyError, match="exponent"):
        algorithm_of(rsa.RSAPublicNumbers(3, modulus).public_key())


def test_what_may_sign_on_the_loop() -> None:
    """Only the quick ones do: P-256, P-384 and Ed25519."""
    assert {row.name for row in ALGORITHMS.values() if row.signs_inline} == {"ecdsa-p256", "ecdsa-p384", "ed25519"}


def test_p521_is_for_accounts_only() -> None:
    """ES512 account keys verify, but no certificate carries such a key."""
    assert [row.name for row in ALGORITHMS.values() if not row.certificates] == ["ecdsa-p521"]
    assert {row.name for row in ALGORITHMS.values() if row.quantum_safe} == {"ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}
