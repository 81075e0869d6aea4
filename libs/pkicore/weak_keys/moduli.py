"""RSA moduli that can be factored, or whose generator is known to be flawed (CA/Browser Forum BR §6.1.1.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from pkicore.errors import BadKeyError

FERMAT_ROUNDS: Final = 100
_MOST_ZEROS: Final = 0.6  # of the low half; by chance never, as that is 6 standard deviations off at 2048 bits


def _primes_below(limit: int) -> tuple[int, ...]:
    return tuple(n for n in range(2, limit) if all(n % d for d in range(2, math.isqrt(n) + 1)))


_SMALL_PRIMES: Final = math.prod(_primes_below(752))
# Keys of the flawed Infineon library lie, modulo each of these primes, in the subgroup that 65537 generates.
_ROCA_PRIMES: Final = _primes_below(168)[1:]
_ROCA_SUBGROUPS: Final[Mapping[int, frozenset[int]]] = MappingProxyType(
    {p: frozenset(pow(65537, k, p) for k in range(p)) for p in _ROCA_PRIMES}
)


def _squares_modulo(m: int) -> bytes:
    """A table: 1 at each residue that a square can have."""
    table = bytearray(m)
    for root in range(m):
        table[root * root % m] = 1
    return bytes(table)


# A number that is no square is none modulo one of these, but for one in about 500; the rest is looked at in full.
_M1, _M2, _M3, _M4 = 64, 63 * 65, 11 * 17 * 19, 23 * 31  # small, as every start of every command makes the tables
_M: Final = _M1 * _M2 * _M3 * _M4
_SQUARES_1, _SQUARES_2, _SQUARES_3, _SQUARES_4 = map(_squares_modulo, (_M1, _M2, _M3, _M4))


@lru_cache(maxsize=8)  # a key is looked at in its request, and again in its certificate
def check_modulus(modulus: int) -> None:
    """Refuse an RSA modulus whose factors can be found.

    Raises:
        BadKeyError: it is weak; the sentence says how.
    """
    if math.gcd(modulus, _SMALL_PRIMES) != 1:
        raise BadKeyError("the RSA modulus has a small factor")
    if all(modulus % p in subgroup for p, subgroup in _ROCA_SUBGROUPS.items()):
        raise BadKeyError("the RSA modulus has the fingerprint of the flawed generator of CVE-2017-15361 (ROCA)")
    if _fermat_splits(modulus):
        raise BadKeyError("the RSA modulus has two factors that lie close together")
    if _is_mostly_zeros(modulus):
        raise BadKeyError("the RSA modulus is mostly zeros: its factors are those of a polynomial")


def _fermat_splits(modulus: int) -> bool:
    """Whether one of the first hundred a from √n upwards makes a² - n a square: then n = (a - b)(a + b)."""
    a = math.isqrt(modulus - 1) + 1
    residue, step = (a * a - modulus) % _M, (2 * a + 1) % _M
    for candidate in range(a, a + FERMAT_ROUNDS):
        if (
            _SQUARES_1[residue % _M1]
            and _SQUARES_2[residue % _M2]
            and _SQUARES_3[residue % _M3]
            and _SQUARES_4[residue % _M4]
        ):
            square = candidate * candidate - modulus
            if math.isqrt(square) ** 2 == square:
                return True
        residue = (residue + step) % _M  # (a + 1)² = a² + (2a + 1)
        step += 2
    return False


def _is_mostly_zeros(modulus: int) -> bool:
    half = modulus.bit_length() // 2
    low = modulus & ((1 << half) - 1)
    return low.bit_count() < (1 - _MOST_ZEROS) * half
