"""Public keys that fit the table and are weak all the same (CA/Browser Forum BR §6.1.1.3, CVE-2017-15361)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from pkicore.algorithms import Algorithm, algorithm_of
from pkicore.errors import BadKeyError, UnsupportedError

_FERMAT_ROUNDS = 100


def _primes_below(limit: int) -> tuple[int, ...]:
    return tuple(n for n in range(2, limit) if all(n % d for d in range(2, math.isqrt(n) + 1)))


_SMALL_PRIMES = _primes_below(752)
_SMALL_PRIMES_PRODUCT = math.prod(_SMALL_PRIMES)
# Keys of the flawed Infineon library lie, modulo each of these primes, in the subgroup that 65537 generates.
_ROCA_PRIMES = tuple(p for p in _primes_below(168) if p > 2)  # noqa: PLR2004 - every odd prime up to 167
_ROCA_SUBGROUPS: Mapping[int, frozenset[int]] = MappingProxyType(
    {p: frozenset(pow(65537, k, p) for k in range(p)) for p in _ROCA_PRIMES}
)
# The field of Ed25519, and the y of its points of order 1, 2, 4 and 8 (RFC 8032 §5.1, RFC 7748 §6.1).
_FIELD = 2**255 - 19
_SIGN_OF_X = 1 << 255
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = frozenset({0, 1, _FIELD - 1, _ORDER_8_Y, _FIELD - _ORDER_8_Y})


def check_certificate_key(public_key: object) -> Algorithm:
    """The table row of a key that may go into a certificate.

    Raises:
        BadKeyError: not offered for certificates, or a weak RSA modulus.
    """
    try:
        algorithm = algorithm_of(public_key)
    except UnsupportedError as error:
        raise BadKeyError(str(error)) from error
    if not algorithm.certificates:
        raise BadKeyError(f"keys of type {algorithm.name} are not offered for certificates")
    check_strength(public_key)
    return algorithm


def check_strength(public_key: object) -> None:
    """Refuse keys that prove nothing, since others know the private key or need none.

    Raises:
        BadKeyError: a weak RSA modulus, or an Ed25519 point of small order.
    """
    if isinstance(public_key, rsa.RSAPublicKey):
        _check_modulus(public_key.public_numbers().n)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        _check_order(public_key.public_bytes_raw())


def _check_order(point: bytes) -> None:
    y = int.from_bytes(point, "little") & ~_SIGN_OF_X
    if y % _FIELD in _SMALL_ORDER_Y:
        raise BadKeyError("the Ed25519 key is a point of small order: signatures for it need no private key")


def _check_modulus(modulus: int) -> None:
    if math.gcd(modulus, _SMALL_PRIMES_PRODUCT) != 1:
        raise BadKeyError("the RSA modulus has a small factor")
    if all(modulus % p in subgroup for p, subgroup in _ROCA_SUBGROUPS.items()):
        raise BadKeyError("the RSA modulus has the fingerprint of the flawed generator of CVE-2017-15361 (ROCA)")
    if _fermat_splits(modulus):
        raise BadKeyError("the RSA modulus has two factors that lie close together")


def _fermat_splits(modulus: int) -> bool:
    """Whether Fermat's method finds the factors within a hundred rounds."""
    a = math.isqrt(modulus - 1) + 1
    for candidate in range(a, a + _FERMAT_ROUNDS):
        square = candidate * candidate - modulus
        if math.isqrt(square) ** 2 == square:
            return True
    return False
