"""What is sent to a back end for a message, and the check of what comes back: by hashlib and `cryptography` alone.

Nothing of ours takes part, so that no mistake of ours is made twice.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import Algorithm, Payload, PublicKey
from services.signer_hsm.schemes import SCHEMES, Scheme

_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def payload_of(public_key: PublicKey, scheme: Scheme, kind: Payload, message: bytes) -> bytes:
    """The digest, the mu (FIPS 204 §6.2, empty context) or the message."""
    if kind == "message":
        return message
    if kind == "mu":
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return hashlib.shake_256(hashlib.shake_256(raw).digest(64) + bytes(2) + message).digest(64)
    assert scheme.hash is not None
    return hashlib.new(scheme.hash, message).digest()


def check_signature(public_key: PublicKey, scheme: Scheme, signature: bytes | Exception, message: bytes) -> None:
    """The signature is one over the message; raises InvalidSignature where it is not."""
    assert isinstance(signature, bytes), signature
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        assert scheme.hash is not None
        public_key.verify(signature, message, ec.ECDSA(_HASHES[scheme.hash]))
    elif isinstance(public_key, rsa.RSAPublicKey):
        assert scheme.hash is not None
        digest = _HASHES[scheme.hash]
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        public_key.verify(signature, message, pss if scheme.padding == "pss" else padding.PKCS1v15(), digest)
    else:
        public_key.verify(signature, message)


def usual_scheme(algorithm: Algorithm) -> Scheme:
    """What a key of the algorithm signs certificates with."""
    return SCHEMES[algorithm.jws]
