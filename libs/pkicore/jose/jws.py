"""JSON Web Signatures in the one form ACME allows (RFC 8555 §6.2): flattened, one signature, all headers protected.

1 bound the size · 2 parse strictly · 3 exactly one of `jwk` and `kid` · 4 the algorithm is the key's own · 5 verify.
Whose key it is, whether the nonce is fresh and whether the URL is right are the caller's questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from pkicore.algorithms import PrivateKey, PublicKey, algorithm_of, sign_with, verify_signature
from pkicore.encoding import base64url_encode
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.jose.strict import strict_base64url, strict_object

MAX_JWS: Final = 64 * 1024  # octets; a keyChange with two ML-DSA-65 keys takes about 20 kB
JWS_ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "EdDSA", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87")

_MEMBERS: Final = {"protected", "payload", "signature"}
_REFUSED_HEADERS: Final = ("crit", "b64", "zip", "enc")
_MAX_TEXT: Final = 2048  # characters of kid and url
# Octets of r and of s (RFC 7518 §3.4).
_ECDSA_WIDTH: Final[Mapping[str, int]] = MappingProxyType({"ES256": 32, "ES384": 48, "ES512": 66})


@dataclass(frozen=True, slots=True)
class VerifiedJws:
    """What the holder of the key has signed."""

    alg: str
    kid: str | None
    nonce: str | None
    url: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """A well-formed JWS; nothing in it may be believed before `verify`."""

    alg: str
    kid: str | None
    jwk: Mapping[str, Any] | None
    nonce: str | None
    url: str | None
    payload: bytes
    signature: bytes
    signing_input: bytes

    @classmethod
    def parse(cls, body: bytes) -> UnverifiedJws:
        """Read a flattened JWS.

        Raises:
            MalformedError: too large, not that form, or with headers that are refused.
            UnsupportedError: `alg` is not in `JWS_ALGORITHMS`; `none` and HMAC never are.
        """
        if len(body) > MAX_JWS:
            raise MalformedError(f"the JWS is larger than {MAX_JWS} octets")
        jws = strict_object(body, "the JWS")
        if jws.keys() != _MEMBERS or not all(isinstance(value, str) for value in jws.values()):
            raise MalformedError("the JWS must have exactly the strings protected, payload and signature")
        header = strict_object(strict_base64url(jws["protected"], "protected"), "the protected header")
        for name in _REFUSED_HEADERS:
            if name in header:
                raise MalformedError(f"the protected header must not have {name}")
        return cls(
            alg=_algorithm(header),
            kid=_text(header, "kid"),
            jwk=_key(header),
            nonce=_nonce(header),
            url=_text(header, "url"),
            payload=strict_base64url(jws["payload"], "payload"),
            signature=strict_base64url(jws["signature"], "signature"),
            signing_input=f"{jws['protected']}.{jws['payload']}".encode(),
        )

    def verify(self, public_key: PublicKey) -> VerifiedJws:
        """Check the signature with a key that the caller trusts for this purpose.

        Raises:
            UnsupportedError: `alg` is not the one algorithm of this key.
            BadSignatureError: the signature is not by this key over this content.
        """
        expected = algorithm_of(public_key).jws
        if self.alg != expected:
            raise UnsupportedError(f"the alg of this key is {expected}, not {self.alg}")
        verify_signature(public_key, native_signature(self.alg, self.signature), self.signing_input)
        return VerifiedJws(self.alg, self.kid, self.nonce, self.url, self.payload)


def sign_jws(private_key: PrivateKey, payload: bytes, protected: Mapping[str, object]) -> bytes:
    """Make a flattened JWS; `alg` follows from the key, the other protected headers are the caller's."""
    algorithm = algorithm_of(private_key.public_key()).jws
    header = base64url_encode(orjson.dumps({"alg": algorithm, **protected}))
    body = base64url_encode(payload)
    signature = jws_signature(algorithm, sign_with(private_key, f"{header}.{body}".encode()))
    return orjson.dumps({"protected": header, "payload": body, "signature": base64url_encode(signature)})


def jws_signature(alg: str, signature: bytes) -> bytes:
    """A signature of `sign_with` as JOSE has it: r and s for ECDSA (RFC 7518 §3.4), unchanged otherwise."""
    width = _ECDSA_WIDTH.get(alg)
    if width is None:
        return signature
    r, s = decode_dss_signature(signature)
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")


def native_signature(alg: str, signature: bytes) -> bytes:
    """The signature as `verify_signature` takes it: DER for ECDSA, unchanged otherwise.

    Raises:
        BadSignatureError: no pair of numbers that an ECDSA signature can be.
    """
    width = _ECDSA_WIDTH.get(alg)
    if width is None:
        return signature
    if len(signature) != 2 * width:
        raise BadSignatureError(f"an {alg} signature has {2 * width} octets")
    r, s = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
    if r == 0 or s == 0:  # CVE-2022-21449: such a pair must never reach a verifier
        raise BadSignatureError("the numbers of an ECDSA signature are never zero")
    return encode_dss_signature(r, s)


def _algorithm(header: Mapping[str, Any]) -> str:
    alg = header.get("alg")
    if not isinstance(alg, str):
        raise MalformedError("the protected header lacks alg")
    if alg not in JWS_ALGORITHMS:
        raise UnsupportedError(f"alg must be one of {', '.join(JWS_ALGORITHMS)}")
    return alg


def _key(header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if ("jwk" in header) == ("kid" in header):
        raise MalformedError("the protected header must have exactly one of jwk and kid")
    jwk = header.get("jwk")
    if "jwk" in header and not isinstance(jwk, dict):
        raise MalformedError("jwk must be an object")
    return jwk


def _text(header: Mapping[str, Any], name: str) -> str | None:
    value = header.get(name)
    if name in header and (not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT):
        raise MalformedError(f"{name} must be a string of 1 to {_MAX_TEXT} characters")
    return value


def _nonce(header: Mapping[str, Any]) -> str | None:
    nonce = _text(header, "nonce")
    if nonce is not None:
        strict_base64url(nonce, "nonce")  # RFC 8555 §6.5.2: anything else is malformed
    return nonce
