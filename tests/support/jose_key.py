"""Account keys of test clients: JWK, thumbprint and JWS on `cryptography` alone, independent of our own code."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

MlDsaKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | MlDsaKey

_CURVES: Mapping[str, tuple[str, str, hashes.HashAlgorithm, int]] = {
    "secp256r1": ("ES256", "P-256", hashes.SHA256(), 32),
    "secp384r1": ("ES384", "P-384", hashes.SHA384(), 48),
    "secp521r1": ("ES512", "P-521", hashes.SHA512(), 66),
}
_MLDSA_ALGORITHMS: Mapping[type, str] = {
    mldsa.MLDSA44PrivateKey: "ML-DSA-44",
    mldsa.MLDSA65PrivateKey: "ML-DSA-65",
    mldsa.MLDSA87PrivateKey: "ML-DSA-87",
}


def b64u(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _integer(number: int, width: int | None = None) -> str:
    return b64u(number.to_bytes(width or (number.bit_length() + 7) // 8, "big"))


class JoseKey:
    """A private key with its JOSE names.

    Attributes:
        alg: the JWS algorithm of the key.
        jwk: its public JWK, members as in the thumbprint.
    """

    def __init__(self, private_key: SigningKey) -> None:
        self.private_key = private_key
        self.alg, self.jwk = self._describe()

    @classmethod
    def generate(cls, alg: str = "ES256") -> Self:
        """Make a key for a JWS algorithm."""
        makers: Mapping[str, Callable[[], SigningKey]] = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
            "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
            "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
        }
        return cls(makers[alg]())

    def _describe(self) -> tuple[str, dict[str, str]]:
        key = self.private_key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            alg, crv, _, width = _CURVES[key.curve.name]
            point = key.public_key().public_numbers()
            return alg, {"crv": crv, "kty": "EC", "x": _integer(point.x, width), "y": _integer(point.y, width)}
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = key.public_key().public_numbers()
            return "RS256", {"e": _integer(numbers.e), "kty": "RSA", "n": _integer(numbers.n)}
        public = b64u(key.public_key().public_bytes_raw())
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return "EdDSA", {"crv": "Ed25519", "kty": "OKP", "x": public}
        alg = next(name for kind, name in _MLDSA_ALGORITHMS.items() if isinstance(key, kind))
        return alg, {"alg": alg, "kty": "AKP", "pub": public}

    def sign(self, message: bytes) -> bytes:
        """The JWS signature over `message`."""
        key = self.private_key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            _, _, digest, width = _CURVES[key.curve.name]
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
            return r.to_bytes(width, "big") + s.to_bytes(width, "big")
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return key.sign(message)

    def thumbprint(self) -> str:
        """The key's thumbprint (RFC 7638)."""
        return b64u(hashlib.sha256(json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()).digest())

    def jws(self, payload: bytes, protected: Mapping[str, Any]) -> dict[str, str]:
        """A flattened JWS of `payload` under `protected`."""
        head, body = b64u(json.dumps(protected).encode()), b64u(payload)
        return {"protected": head, "payload": body, "signature": b64u(self.sign(f"{head}.{body}".encode()))}
