"""Private keys that sign nothing: handed to cryptography's builders, they yield the to-be-signed bytes.

The signature itself is awaited afterwards, from a key that may be far away, and the outer shell is ours to write.
A builder accepts any subclass of the private-key classes and asks it for `sign` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from pkicore.algorithms import ALGORITHMS, Algorithm, PrivateKey
from pkicore.errors import UnsupportedError

_PLACEHOLDER = bytes(8)

_BASES: Mapping[str, type] = MappingProxyType(
    {
        "ecdsa": ec.EllipticCurvePrivateKey,
        "rsa": rsa.RSAPrivateKey,
        "ed25519": ed25519.Ed25519PrivateKey,
        "ml-dsa-44": mldsa.MLDSA44PrivateKey,
        "ml-dsa-65": mldsa.MLDSA65PrivateKey,
        "ml-dsa-87": mldsa.MLDSA87PrivateKey,
    }
)


def _placeholder(_self: object, *_arguments: object) -> bytes:
    return _PLACEHOLDER


def _refuse(_self: object, *_arguments: object) -> NoReturn:
    raise UnsupportedError("a capturing key has no private half")


def _capturing_key(algorithm: Algorithm) -> PrivateKey:
    base: Any = _BASES.get(algorithm.name) or _BASES[algorithm.family]
    # cryptography's abstract classes grow from release to release, so every abstract name is filled in, not a list.
    members: dict[str, object] = dict.fromkeys(base.__abstractmethods__, _refuse)
    capturing = type(f"Capturing{base.__name__}", (base,), {**members, "sign": _placeholder})
    return cast("PrivateKey", capturing())


CAPTURING_KEYS: Mapping[str, PrivateKey] = MappingProxyType(
    {name: _capturing_key(row) for name, row in ALGORITHMS.items()}
)
