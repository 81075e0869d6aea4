"""Keys that fit the table and are weak all the same."""

from __future__ import annotations

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadKeyError
from pkicore.x509.key_rules import check_certificate_key, check_strength


def _key(modulus: int) -> rsa.RSAPublicKey:
    assert modulus.bit_length() == 2048
    return rsa.RSAPublicNumbers(65537, modulus).public_key()


@pytest.fixture(scope="module")
def modulus() -> int:
    """Of a good RSA-2048 key."""
    return rsa.generate_private_key(65537, 2048).public_key().public_numbers().n


def test_good_keys_pass(modulus: int) -> None:
    """Fresh keys have the row of their algorithm."""
    assert check_certificate_key(_key(modulus)).name == "rsa-2048"
    for name in ("ecdsa-p256", "ed25519", "ml-dsa-44"):
        assert check_certificate_key(generate_private_key(ALGORITHMS[name]).public_key()).name == name


def test_small_factors(modulus: int) -> None:
    """A modulus that a small prime divides is refused."""
    candidate = modulus - modulus % 751
    candidate += 0 if candidate % 2 else 751
    with pytest.raises(BadKeyError, match="small factor"):
        check_certificate_key(_key(candidate))


def test_close_factors() -> None:
    """Fermat's method finds factors that lie close together (CVE-2022-26320)."""
    p = (1 << 1023) + (1 << 1022) + 1155
    while math.gcd(p, math.factorial(760)) != 1:
        p += 2
    q = p + 2
    while math.gcd(q, math.factorial(760)) != 1:
        q += 2
    with pytest.raises(BadKeyError, match="close together"):
        check_certificate_key(_key(p * q))


def test_roca_fingerprint() -> None:
    """A modulus that is a power of 65537 modulo every small prime comes from the flawed generator (CVE-2017-15361)."""
    primes = [n for n in range(3, 168) if all(n % d for d in range(2, n))]
    product = math.prod(primes)
    base = pow(65537, 4242, product)
    modulus = next(
        found
        for k in range((1 << 2047) // product + 1, (1 << 2047) // product + 10_000)
        if (found := base + k * product) % 2 and math.gcd(found, math.factorial(760)) == 1
    )
    with pytest.raises(BadKeyError, match="ROCA"):
        check_certificate_key(_key(modulus))


def test_keys_that_are_not_for_certificates() -> None:
    """P-521 is for accounts only, and unknown curves are bad keys, not unsupported errors."""
    for curve in (ec.SECP521R1(), ec.SECP256K1()):
        with pytest.raises(BadKeyError, match="not offered"):
            check_certificate_key(ec.generate_private_key(curve).public_key())


@pytest.mark.parametrize(
    "point",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ],
)
def test_points_of_small_order(point: str) -> None:
    """The eight points of small order, also in their encodings that are not canonical, are no keys."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(point))
    for check in (check_strength, check_certificate_key):
        with pytest.raises(BadKeyError, match="small order"):
            check(key)


def test_why_small_order_matters() -> None:
    """For the neutral point one fixed signature verifies over everything: it proves the possession of nothing."""
    neutral = bytes([1]) + bytes(31)
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    for message in (b"one", b"another"):
        key.verify(neutral + bytes(32), message)
