"""Keys that fit the table and are weak all the same; badkeys (https://badkeys.info) has the second opinion."""

from __future__ import annotations

import hashlib
import math

import pytest
from badkeys.rsakeys import fermat, roca, rsapoly, smallfactors
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadKeyError
from pkicore.weak_keys import check_strength
from pkicore.weak_keys.moduli import FERMAT_ROUNDS, check_modulus
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
    assert smallfactors(candidate)
    with pytest.raises(BadKeyError, match="small factor"):
        check_certificate_key(_key(candidate))


def _without_small_factors(number: int) -> int:
    """The next odd number that no prime up to 65537 divides; all that a factor of these moduli needs to be."""
    number |= 1
    while smallfactors(number):
        number += 2
    return number


@pytest.mark.parametrize("apart", [0, 2, 1 << 256, 1 << 515])
def test_close_factors(apart: int) -> None:
    """Fermat's method finds factors that lie close together (CVE-2022-26320), and a square."""
    p = _without_small_factors((1 << 1023) + (1 << 1022) + 1155)
    q = _without_small_factors(p + apart) if apart else p
    assert fermat(p * q)
    with pytest.raises(BadKeyError, match="close together"):
        check_certificate_key(_key(p * q))


@pytest.mark.parametrize("rounds", [1, 2, 50, 99, 100, 101, 150])
def test_a_hundred_rounds(rounds: int) -> None:
    """Each of the first hundred candidates is looked at, and no other."""
    p = _without_small_factors(int.from_bytes(hashlib.shake_256(b"p").digest(128)) | 3 << 1022)
    half = math.isqrt(p * (2 * rounds - 1))  # a = p + half, and a - √n is about half² / 2p
    while math.gcd(q := p + 2 * half, math.factorial(760)) != 1:
        half += 1
    a, first = p + half, math.isqrt(p * q - 1) + 1
    assert a - first + 1 == rounds
    if rounds <= FERMAT_ROUNDS:
        with pytest.raises(BadKeyError, match="close together"):
            check_modulus(p * q)
    else:
        check_modulus(p * q)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_a_modulus_of_a_polynomial(bits: int) -> None:
    """Factors with a few random bits in each word give a modulus that is mostly zeros, and is factored as one."""
    half = bits // 2
    word = sum(0x9D37 << shift for shift in range(0, half - 128, 128))
    p = _without_small_factors((1 << (half - 1)) + (1 << (half - 2)) + word)
    q = _without_small_factors((1 << (half - 1)) + (1 << (half - 2)) + word * 3)
    assert rsapoly(p * q)
    with pytest.raises(BadKeyError, match="mostly zeros"):
        check_modulus(p * q)


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
    assert roca(modulus)
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
