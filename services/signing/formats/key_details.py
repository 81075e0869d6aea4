"""Sigstore's names for keys and hashes (protobuf-specs, sigstore_common.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkicore.algorithms import Algorithm
from pkicore.errors import UnsupportedError

_KEY_DETAILS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ecdsa-p256": "PKIX_ECDSA_P256_SHA_256",
        "ecdsa-p384": "PKIX_ECDSA_P384_SHA_384",
        "ecdsa-p521": "PKIX_ECDSA_P521_SHA_512",
        "rsa-2048": "PKIX_RSA_PKCS1V15_2048_SHA256",
        "rsa-3072": "PKIX_RSA_PKCS1V15_3072_SHA256",
        "rsa-4096": "PKIX_RSA_PKCS1V15_4096_SHA256",
        "ed25519": "PKIX_ED25519",
        "ml-dsa-44": "ML_DSA_44",
        "ml-dsa-65": "ML_DSA_65",
        "ml-dsa-87": "ML_DSA_87",
    }
)
HASH_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}
)
"""Name of a hash, as hashlib has it, to HashAlgorithm."""


def key_details(algorithm: Algorithm) -> str:
    """PublicKeyDetails of keys of this algorithm and the signatures that they make."""
    return _KEY_DETAILS[algorithm.name]


def hash_name(name: str) -> str:
    """HashAlgorithm of a hash.

    Raises:
        UnsupportedError: Sigstore has none of this name.
    """
    if name not in HASH_NAMES:
        raise UnsupportedError(f"bundles know no hash of the name {name[:32]!a}")
    return HASH_NAMES[name]
