"""Signing and verifying what stands for a message: a digest, the 64-byte mu of ML-DSA, or the message itself.

For keys that are in this process, and for checking what a far back end answered. Sources: RFC 8017 §8 (PSS with a salt
of the digest's length), FIPS 186-5 (ECDSA), RFC 8032 (Ed25519), FIPS 204 §6.2 (mu).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.algorithms import Algorithm, Payload, PrivateKey, PublicKey
from services.signer_hsm.errors import BadAnswerError, NotOfferedError
from services.signer_hsm.schemes import Scheme, schemes_of

__all__ = ["check_offered", "kinds_of", "sign_payload", "verify_payload"]

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
)


def kinds_of(algorithm: Algorithm) -> frozenset[Payload]:
    """The payload kinds that a key in this process takes; ML-DSA two, the others one."""
    return frozenset({algorithm.payload, "message"}) if algorithm.family == "mldsa" else frozenset({algorithm.payload})


def check_offered(algorithm: Algorithm, kinds: frozenset[Payload], scheme: Scheme, kind: Payload) -> None:
    """Refuse what no key of the algorithm signs, or what this one does not take.

    Raises:
        NotOfferedError: another algorithm's scheme, or a payload kind that is not in `kinds`.
    """
    if scheme.name != algorithm.jws and scheme not in schemes_of(algorithm):
        raise NotOfferedError(f"a key of algorithm {algorithm.name} does not sign as {scheme.name}")
    if kind not in kinds:
        raise NotOfferedError(f"this key of algorithm {algorithm.name} takes {', '.join(sorted(kinds))}, not {kind}")


def sign_payload(private_key: PrivateKey, scheme: Scheme, kind: Payload, payload: bytes) -> bytes:
    """One signature: ECDSA as DER, the others raw. Scheme, kind and length have been checked against the key."""
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(payload, _ecdsa(scheme))
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(payload, _padding(scheme), _prehashed(scheme))
    if isinstance(private_key, ed25519.Ed25519PrivateKey) or kind == "message":
        return private_key.sign(payload)
    return private_key.sign_mu(payload)


def verify_payload(public_key: PublicKey, scheme: Scheme, kind: Payload, payload: bytes, signature: bytes) -> None:
    """Check a back end's signature over what it was asked to sign.

    Raises:
        BadAnswerError: it does not verify.
    """
    try:
        _verify(public_key, scheme, kind, payload, signature)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise BadAnswerError(f"the back end's {scheme.name} signature does not verify") from error


def _verify(public_key: PublicKey, scheme: Scheme, kind: Payload, payload: bytes, signature: bytes) -> None:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        public_key.verify(signature, payload, _ecdsa(scheme))
    elif isinstance(public_key, rsa.RSAPublicKey):
        public_key.verify(signature, payload, _padding(scheme), _prehashed(scheme))
    elif isinstance(public_key, ed25519.Ed25519PublicKey) or kind == "message":
        public_key.verify(signature, payload)
    else:
        public_key.verify_mu(signature, payload)


def _prehashed(scheme: Scheme) -> Prehashed:
    if scheme.hash is None:
        raise NotOfferedError(f"{scheme.name} takes no digest")
    return _PREHASHED[scheme.hash]


def _ecdsa(scheme: Scheme) -> ec.ECDSA:
    if scheme.hash is None:
        raise NotOfferedError(f"{scheme.name} takes no digest")
    return _ECDSA[scheme.hash]


def _padding(scheme: Scheme) -> padding.PKCS1v15 | padding.PSS:
    if scheme.padding == "pkcs1" or scheme.hash is None:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_HASHES[scheme.hash]), padding.PSS.DIGEST_LENGTH)


_PREHASHED: Final[Mapping[str, Prehashed]] = MappingProxyType({name: Prehashed(row) for name, row in _HASHES.items()})
_ECDSA: Final[Mapping[str, ec.ECDSA]] = MappingProxyType({name: ec.ECDSA(row) for name, row in _PREHASHED.items()})
