"""Which digest goes with which key: that of its signature; for ML-DSA those of RFC 9882 §3.3, for Ed25519 SHA-512."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkicore.algorithms import ALGORITHMS, Algorithm
from pkicore.cms.der import read_algorithm
from pkicore.encoding import DerReader, object_identifier, sequence
from pkicore.errors import MalformedError, UnsupportedError

HASHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sha256": "2.16.840.1.101.3.4.2.1",
        "sha384": "2.16.840.1.101.3.4.2.2",
        "sha512": "2.16.840.1.101.3.4.2.3",
    }
)
"""Name, as hashlib has it, to dotted object identifier."""

_NAME_OF: Final = MappingProxyType({oid: name for name, oid in HASHES.items()})
_MLDSA_DIGESTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ml-dsa-44": ("sha512", "sha384", "sha256"),
        "ml-dsa-65": ("sha512", "sha384"),
        "ml-dsa-87": ("sha512",),
    }
)


def _digests(algorithm: Algorithm) -> tuple[str, ...]:
    if algorithm.family == "mldsa":
        return _MLDSA_DIGESTS[algorithm.name]
    if algorithm.signature_hash is None:
        return ("sha512",)  # RFC 8419 §3.1
    return (algorithm.signature_hash.name,)


_ACCEPTED: Final = MappingProxyType({name: _digests(row) for name, row in ALGORITHMS.items()})


def digest_name(algorithm: Algorithm) -> str:
    """The digest of the content that a signature of this algorithm is made with."""
    return _ACCEPTED[algorithm.name][0]


def accepted_digests(algorithm: Algorithm) -> tuple[str, ...]:
    """The digests with which a signature of this algorithm is believed."""
    return _ACCEPTED[algorithm.name]


def all_digests(content: bytes) -> dict[str, bytes]:
    """The content under every hash."""
    return {name: hashlib.new(name, content).digest() for name in HASHES}


def check_digest(name: str, digest: bytes) -> None:
    """Raises UnsupportedError for another hash, MalformedError for a digest that is none of this hash."""
    if name not in HASHES:
        raise UnsupportedError(f"the hash {name[:32]!r} is not offered; there are {', '.join(HASHES)}")
    if len(digest) != hashlib.new(name).digest_size:
        raise MalformedError(f"{len(digest)} octets are no {name} digest")


def digest_identifier(name: str) -> bytes:
    """AlgorithmIdentifier without parameters (RFC 5754 §2)."""
    return sequence(object_identifier(HASHES[name]))


def read_digest_identifier(reader: DerReader) -> str:
    """The name of a hash, from within its AlgorithmIdentifier; parameters are absent or NULL (RFC 5754 §2).

    Raises:
        UnsupportedError: another hash, or other parameters.
        MalformedError: no AlgorithmIdentifier.
    """
    oid = read_algorithm(reader)
    if oid not in _NAME_OF:
        raise UnsupportedError(f"the digest algorithm {oid} is none of {', '.join(HASHES)}")
    return _NAME_OF[oid]
