"""Signature schemes by their JOSE names, and what a payload must look like for each.

A module signs a digest of any length with an ECDSA key, and Ed25519 in Vault signs a digest as if it were a message: so
kind and length are checked here, against the key's algorithm, before a back end sees them.
Sources: RFC 7518 §3.1, RFC 8037, RFC 9964; FIPS 204 §6.2 (mu).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pkicore.algorithms import Algorithm, Family, Payload
from services.signer_hsm.errors import BadPayloadError

MU_BYTES: Final = 64
MAX_MESSAGE: Final = 64 * 1024
HASH_BYTES: Final[Mapping[str, int]] = MappingProxyType({"sha256": 32, "sha384": 48, "sha512": 64})

HashName = Literal["sha256", "sha384", "sha512"]
Padding = Literal["pkcs1", "pss"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a key signs.

    Attributes:
        name: the JOSE `alg`.
        family: the family of keys that sign so.
        hash: of the digest; None where the algorithm has its own.
        padding: RSA only; PSS has MGF1 with the same hash and a salt of the digest's length.
    """

    name: str
    family: Family
    hash: HashName | None = None
    padding: Padding | None = None


SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("ES256", "ecdsa", "sha256"),
            Scheme("ES384", "ecdsa", "sha384"),
            Scheme("ES512", "ecdsa", "sha512"),
            Scheme("RS256", "rsa", "sha256", "pkcs1"),
            Scheme("RS384", "rsa", "sha384", "pkcs1"),
            Scheme("RS512", "rsa", "sha512", "pkcs1"),
            Scheme("PS256", "rsa", "sha256", "pss"),
            Scheme("PS384", "rsa", "sha384", "pss"),
            Scheme("PS512", "rsa", "sha512", "pss"),
            Scheme("EdDSA", "eddsa"),
            Scheme("ML-DSA-44", "mldsa"),
            Scheme("ML-DSA-65", "mldsa"),
            Scheme("ML-DSA-87", "mldsa"),
        )
    }
)


def schemes_of(algorithm: Algorithm) -> tuple[Scheme, ...]:
    """What a key of this algorithm signs with, the usual one first: an RSA key six, any other exactly one."""
    if algorithm.family == "rsa":
        return tuple(scheme for scheme in SCHEMES.values() if scheme.family == "rsa")
    return (SCHEMES[algorithm.jws],)


def scheme_of(algorithm: Algorithm, name: str | None) -> Scheme:
    """The named scheme, or the usual one of the algorithm.

    Raises:
        BadPayloadError: a key of this algorithm does not sign so.
    """
    offered = schemes_of(algorithm)
    if name is None:
        return offered[0]
    for scheme in offered:
        if scheme.name == name:
            return scheme
    names = ", ".join(scheme.name for scheme in offered)
    raise BadPayloadError(f"a key of algorithm {algorithm.name} signs with {names}")


def check_payload(scheme: Scheme, kind: Payload, payload: bytes, limit: int = MAX_MESSAGE) -> None:
    """Refuse a payload that cannot be what it is said to be.

    Args:
        scheme: how it is to be signed.
        kind: what it is said to be.
        payload: the octets.
        limit: octets of a message at most.

    Raises:
        BadPayloadError: the kind does not go with the scheme, or the length is wrong.
    """
    if kind == "message":
        if scheme.hash is not None:
            raise BadPayloadError(f"{scheme.name} signs a digest; a message is taken for EdDSA and ML-DSA only")
        if len(payload) > limit:
            raise BadPayloadError(f"a message of {len(payload)} octets is too long; {limit} are taken at most")
        return
    if kind == "mu":
        expected = MU_BYTES if scheme.family == "mldsa" else None
    else:
        expected = HASH_BYTES[scheme.hash] if scheme.hash is not None else None
    if expected is None:
        raise BadPayloadError(f"{scheme.name} does not sign the payload kind {kind!r}")
    if len(payload) != expected:
        raise BadPayloadError(f"the {kind} of {scheme.name} has {expected} octets, not {len(payload)}")
