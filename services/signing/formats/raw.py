"""A bare signature over an artefact that only its digest is known of: what `openssl dgst -verify` takes.

ECDSA as DER, RSA PKCS#1 v1.5; ML-DSA pure with an empty context, for which the caller brings mu, computed from the
artefact and the public key (FIPS 204 §6.2). Ed25519 wants the artefact itself, which never comes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.algorithms import Algorithm, PublicKey, algorithm_of
from pkicore.errors import BadSignatureError, UnsupportedError
from services.signing.formats import Output, SignedWith, ToSign, short_name

MEDIA_TYPE: Final = "application/octet-stream"
MU: Final = "mu"
_MU_BYTES: Final = 64


def needed_digest(algorithm: Algorithm) -> str:
    """Which digest of the artefact a raw signature of this algorithm is made over: "sha256", "sha384", or "mu".

    Raises:
        UnsupportedError: the algorithm takes whole messages only.
    """
    if algorithm.family == "mldsa":
        return MU
    if algorithm.signature_hash is None:
        raise UnsupportedError(f"{algorithm.name} signs whole messages; raw signatures are made from digests alone")
    return algorithm.signature_hash.name


def to_sign(key_id: str, algorithm: Algorithm, digests: Mapping[str, bytes]) -> ToSign:
    """What the key signs.

    Args:
        key_id: of the key, as the signer names it.
        algorithm: of the key.
        digests: of the artefact, by the name of the hash; "mu" for ML-DSA.

    Raises:
        UnsupportedError: the digest that this key needs is not among them, is of another length, or there is none.
    """
    name = needed_digest(algorithm)
    if name not in digests:
        raise UnsupportedError(f"a raw signature by {key_id} ({algorithm.name}) needs the artefact's {name}")
    length = _MU_BYTES if algorithm.signature_hash is None else algorithm.signature_hash.digest_size
    if len(digests[name]) != length:
        raise UnsupportedError(f"the artefact's {name} has {length} octets, not {len(digests[name])}")
    return ToSign(key_id, digest={name: digests[name]})


def output(signed: SignedWith, number: int = 1) -> Output:
    """The signature as a file; `number` is the subject's place among those of the request, from 1."""
    suffix = "" if number == 1 else f"-{number}"
    return Output(f"raw-{short_name(signed.algorithm)}{suffix}.sig", MEDIA_TYPE, signed.signature)


def verify(public_key: PublicKey, signature: bytes, digests: Mapping[str, bytes]) -> None:
    """Believe that the key signed the artefact of these digests.

    Raises:
        BadSignatureError: it did not.
        UnsupportedError: the digest that this key needs is not among them, is of another length, or there is none.
    """
    algorithm = algorithm_of(public_key)
    to_sign("this key", algorithm, digests)
    verify_reduced(public_key, algorithm, signature, digests[needed_digest(algorithm)])


def verify_reduced(public_key: PublicKey, algorithm: Algorithm, signature: bytes, payload: bytes) -> None:
    """Believe that the key, which is of this algorithm, signed what this digest or mu is of.

    Raises:
        BadSignatureError: it did not.
        UnsupportedError: the key signs whole messages only.
    """
    try:
        _verify(public_key, signature, payload, algorithm)
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError(f"the {algorithm.name} signature does not verify") from error


def _verify(public_key: PublicKey, signature: bytes, digest: bytes, algorithm: Algorithm) -> None:
    if isinstance(public_key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        public_key.verify_mu(signature, digest)
    elif isinstance(public_key, ec.EllipticCurvePublicKey) and algorithm.signature_hash is not None:
        public_key.verify(signature, digest, ec.ECDSA(Prehashed(algorithm.signature_hash)))
    elif isinstance(public_key, rsa.RSAPublicKey) and algorithm.signature_hash is not None:
        public_key.verify(signature, digest, padding.PKCS1v15(), Prehashed(algorithm.signature_hash))
    else:
        raise UnsupportedError(f"{algorithm.name} signs whole messages; raw signatures are made from digests alone")
