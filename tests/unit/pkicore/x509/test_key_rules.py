"""Keys that fit the table and are weak all the same."""

from __future__ import annotations

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadKeyError
from pkicore.x509.key_rules import check_certificate_key


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
