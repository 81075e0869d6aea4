"""The one table of signature algorithms, and what is done with them locally.

Whatever is not in the table is not offered: other curves, RSA of other sizes or exponents, Ed448, HashML-DSA.
Sources: RFC 5758 (ECDSA), RFC 4055 (RSA PKCS#1 v1.5), RFC 8410 (Ed25519), RFC 9881 (ML-DSA), RFC 7518, RFC 9964 (JOSE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.encoding import NULL, object_identifier, sequence
from pkicore.errors import BadKeyError, BadSignatureError, UnsupportedError

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | rsa.RSAPublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
Family: TypeAlias = Literal["ecdsa", "rsa", "eddsa", "mldsa"]
Payload: TypeAlias = Literal["digest", "mu", "message"]

RSA_PUBLIC_EXPONENT = 65537


@dataclass(frozen=True)
class Algorithm:
    """One row of the table.

    Attributes:
        name: our name, as in profiles and key URIs.
        family: the kind of key.
        jws: the `alg` of RFC 7518 or RFC 9964.
        quantum_safe: whether a quantum computer leaves it standing.
        signature_hash: the hash of the X.509 signature; None where the algorithm has its own.
        payload: what a remote signer needs: a digest, the 64-byte mu of FIPS 204, or the message.
        signs_inline: quick enough (tens of microseconds) to sign on the event loop.
        certificates: may be the key of a certificate.
        signature_oid: dotted object identifier of the X.509 signature algorithm.
    """

    name: str
    family: Family
    jws: str
    quantum_safe: bool
    signature_hash: hashes.HashAlgorithm | None
    payload: Payload
    signs_inline: bool
    certificates: bool
    signature_oid: str


def _ecdsa(
    name: str, jws: str, digest: hashes.HashAlgorithm, last_arc: int, *, account_only: bool = False
) -> Algorithm:
    inline = not account_only
    oid = f"1.2.840.10045.4.3.{last_arc}"
    return Algorithm(name, "ecdsa", jws, False, digest, "digest", inline, not account_only, oid)


def _rsa(bits: int) -> Algorithm:
    oid = "1.2.840.113549.1.1.11"
    return Algorithm(f"rsa-{bits}", "rsa", "RS256", False, hashes.SHA256(), "digest", False, True, oid)


def _mldsa(level: int, last_arc: int) -> Algorithm:
    oid = f"2.16.840.1.101.3.4.3.{last_arc}"
    return Algorithm(f"ml-dsa-{level}", "mldsa", f"ML-DSA-{level}", True, None, "mu", False, True, oid)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        row.name: row
        for row in (
            _ecdsa("ecdsa-p256", "ES256", hashes.SHA256(), 2),
            _ecdsa("ecdsa-p384", "ES384", hashes.SHA384(), 3),
            _ecdsa("ecdsa-p521", "ES512", hashes.SHA512(), 4, account_only=True),
            _rsa(2048),
            _rsa(3072),
            _rsa(4096),
            Algorithm("ed25519", "eddsa", "EdDSA", False, None, "message", True, True, "1.3.101.112"),
            _mldsa(44, 17),
            _mldsa(65, 18),
            _mldsa(87, 19),
        )
    }
)


def _hash_of(algorithm: Algorithm) -> hashes.HashAlgorithm:
    if algorithm.signature_hash is None:
        raise UnsupportedError(f"{algorithm.name} has no separate hash")
    return algorithm.signature_hash


_CURVES: Mapping[str, tuple[str, type[ec.EllipticCurve]]] = MappingProxyType(
    {
        "secp256r1": ("ecdsa-p256", ec.SECP256R1),
        "secp384r1": ("ecdsa-p384", ec.SECP384R1),
        "secp521r1": ("ecdsa-p521", ec.SECP521R1),
    }
)
_ECDSA_SCHEMES: Mapping[str, ec.ECDSA] = MappingProxyType(
    {curve: ec.ECDSA(_hash_of(ALGORITHMS[name])) for curve, (name, _) in _CURVES.items()}
)
_CURVE_OF: Mapping[str, type[ec.EllipticCurve]] = MappingProxyType(dict(_CURVES.values()))
_MLDSA_PRIVATE: Mapping[str, type[mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey]] = (
    MappingProxyType(
        {
            "ml-dsa-44": mldsa.MLDSA44PrivateKey,
            "ml-dsa-65": mldsa.MLDSA65PrivateKey,
            "ml-dsa-87": mldsa.MLDSA87PrivateKey,
        }
    )
)
_FIXED: tuple[tuple[type, str], ...] = (
    (ed25519.Ed25519PublicKey, "ed25519"),
    (mldsa.MLDSA44PublicKey, "ml-dsa-44"),
    (mldsa.MLDSA65PublicKey, "ml-dsa-65"),
    (mldsa.MLDSA87PublicKey, "ml-dsa-87"),
)


def known_public_key(key: object) -> PublicKey:
    """The same key, known to be of an offered type.

    Raises:
        UnsupportedError: its type is not in the table.
    """
    if not isinstance(key, PublicKey):
        raise UnsupportedError(f"keys of type {type(key).__name__} are not offered")
    return key


def algorithm_of(public_key: object) -> Algorithm:
    """The table row of a public key.

    Raises:
        UnsupportedError: its type or curve is not in the table.
        BadKeyError: an RSA modulus size or exponent that is not in the table.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if public_key.curve.name not in _CURVES:
            raise UnsupportedError(f"the curve {public_key.curve.name} is not offered")
        return ALGORITHMS[_CURVES[public_key.curve.name][0]]
    if isinstance(public_key, rsa.RSAPublicKey):
        return _rsa_algorithm(public_key)
    for key_type, name in _FIXED:
        if isinstance(public_key, key_type):
            return ALGORITHMS[name]
    raise UnsupportedError(f"keys of type {type(public_key).__name__} are not offered")


def _rsa_algorithm(public_key: rsa.RSAPublicKey) -> Algorithm:
    row = ALGORITHMS.get(f"rsa-{public_key.key_size}")
    if row is None:
        raise BadKeyError(f"an RSA modulus of {public_key.key_size} bits is refused; 2048, 3072 and 4096 are offered")
    if public_key.public_numbers().e != RSA_PUBLIC_EXPONENT:
        raise BadKeyError(f"the RSA public exponent must be {RSA_PUBLIC_EXPONENT}")
    return row


def generate_private_key(algorithm: Algorithm) -> PrivateKey:
    """A fresh key; RSA takes up to seconds."""
    if algorithm.family == "ecdsa":
        return ec.generate_private_key(_CURVE_OF[algorithm.name]())
    if algorithm.family == "rsa":
        return rsa.generate_private_key(RSA_PUBLIC_EXPONENT, int(algorithm.name.removeprefix("rsa-")))
    if algorithm.family == "eddsa":
        return ed25519.Ed25519PrivateKey.generate()
    return _MLDSA_PRIVATE[algorithm.name].generate()


def sign_with(private_key: PrivateKey, message: bytes) -> bytes:
    """An X.509 signature over the message: ECDSA as DER, RSA as PKCS#1 v1.5, the rest raw; ML-DSA pure, empty context.

    Raises:
        UnsupportedError: the key is not in the table.
        BadKeyError: likewise, for RSA.
    """
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(message, _scheme_of(private_key.curve))
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return private_key.sign(message)


def verify_signature(public_key: PublicKey, signature: bytes, message: bytes) -> None:
    """Check what `sign_with` or its remote counterpart made.

    Raises:
        BadSignatureError: the signature does not verify.
        UnsupportedError: the key is not in the table.
        BadKeyError: likewise, for RSA.
    """
    algorithm = algorithm_of(public_key)
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, message, _scheme_of(public_key.curve))
        elif isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, message, padding.PKCS1v15(), _hash_of(algorithm))
        else:
            public_key.verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError(f"the {algorithm.name} signature does not verify") from error


def sign_digest_with(private_key: PrivateKey, digest: bytes) -> bytes:
    """As `sign_with`, for a message of which only the digest is at hand.

    Raises:
        UnsupportedError: keys of this algorithm sign no digests, or the key is not in the table.
        BadKeyError: likewise, for RSA.
    """
    hashed = Prehashed(_hash_of(algorithm_of(private_key.public_key())))
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(digest, ec.ECDSA(hashed))
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(digest, padding.PKCS1v15(), hashed)
    raise UnsupportedError("only ECDSA and RSA sign digests")


def verify_digest(public_key: PublicKey, signature: bytes, digest: bytes) -> None:
    """As `verify_signature`, for a message of which only the digest is at hand.

    Raises:
        BadSignatureError: the signature does not verify.
        UnsupportedError: keys of this algorithm sign no digests, or the key is not in the table.
        BadKeyError: likewise, for RSA.
    """
    algorithm = algorithm_of(public_key)
    hashed = Prehashed(_hash_of(algorithm))
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, digest, ec.ECDSA(hashed))
        elif isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, digest, padding.PKCS1v15(), hashed)
        else:
            raise UnsupportedError(f"{algorithm.name} signs no digests")
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError(f"the {algorithm.name} signature does not verify") from error


def _scheme_of(curve: ec.EllipticCurve) -> ec.ECDSA:
    try:
        return _ECDSA_SCHEMES[curve.name]
    except KeyError:
        raise UnsupportedError(f"the curve {curve.name} is not offered") from None


def signature_algorithm_der(algorithm: Algorithm) -> bytes:
    """The AlgorithmIdentifier of X.509 signatures: parameters NULL for RSA (RFC 4055 §5), absent for the rest."""
    return _IDENTIFIERS[algorithm.name]


def _identifier(algorithm: Algorithm) -> bytes:
    oid = object_identifier(algorithm.signature_oid)
    return sequence(oid, NULL) if algorithm.family == "rsa" else sequence(oid)


_IDENTIFIERS: Mapping[str, bytes] = MappingProxyType({row.name: _identifier(row) for row in ALGORITHMS.values()})
