"""RSA keys as broken generators have made them, with their private halves: what a client of such a generator sends."""

from __future__ import annotations

import math
from random import Random

import gmpy2
from cryptography.hazmat.primitives.asymmetric import rsa

from pkicore.algorithms import RSA_PUBLIC_EXPONENT

_HALF = 1024
_ROCA_PRIMES = 126  # of a 2048-bit key's primes: k M + (65537^a mod M), M the product of the first 126 primes


def close_primes_key(seed: int = 1) -> rsa.RSAPrivateKey:
    """Two neighbouring primes (CVE-2022-26320)."""
    p = _prime_from(_random(seed))
    return _key(p, _prime_from(p + 2))


def roca_key(seed: int = 1) -> rsa.RSAPrivateKey:
    """As the library of CVE-2017-15361 chose primes."""
    dice = Random(seed)  # noqa: S311 - the same key in each run
    product = math.prod(_first_primes(_ROCA_PRIMES))
    found: list[int] = []
    while len(found) < 2:
        bottom = pow(RSA_PUBLIC_EXPONENT, dice.getrandbits(200), product)
        candidate = (3 << (_HALF - 2)) // product * product + dice.getrandbits(30) * product + bottom
        if candidate.bit_length() == _HALF and gmpy2.is_prime(candidate):
            found.append(candidate)
    return _key(*found)


def small_factor_key(seed: int = 1) -> rsa.RSAPrivateKey:
    """A prime of ten bits beside a large one."""
    p, q = 751, _prime_from(_random(seed) << (_HALF - 10))
    return _key(q, p)


def _first_primes(count: int) -> list[int]:
    found = [2]
    while len(found) < count:
        found.append(int(gmpy2.next_prime(found[-1])))
    return found


def _random(seed: int) -> int:
    return Random(seed).getrandbits(_HALF) | 3 << (_HALF - 2)  # noqa: S311 - the same key in each run


def _prime_from(number: int) -> int:
    """The next prime with which the exponent works."""
    while True:
        number = int(gmpy2.next_prime(number))
        if math.gcd(number - 1, RSA_PUBLIC_EXPONENT) == 1:
            return number


def _key(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(RSA_PUBLIC_EXPONENT, -1, math.lcm(p - 1, q - 1))
    public = rsa.RSAPublicNumbers(RSA_PUBLIC_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)
