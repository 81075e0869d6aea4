"""Public keys as JSON Web Keys (RFC 7517, 7518 §6, 8037, 9964), carried by josepy's types.

josepy knows EC and RSA; OKP (Ed25519) and AKP (ML-DSA) are registered here, together with their JWS algorithms.
What josepy lets pass is refused before it is asked: stray base64url characters, private members, a foreign `alg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from josepy.errors import DeserializationError
from josepy.jwa import JWASignature
from josepy.jwk import JWK

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key, verify_signature
from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.errors import BadKeyError, BadSignatureError, MalformedError, UnsupportedError
from pkicore.jose.strict import strict_base64url

# Members that hold the public key, by key type; each is base64url but for the names of curve and algorithm.
PUBLIC_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"EC": ("crv", "x", "y"), "RSA": ("n", "e"), "OKP": ("crv", "x"), "AKP": ("alg", "pub")}
)
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_NAMES: Final = frozenset({"crv", "alg"})
_CURVES: Final = MappingProxyType({"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"})
_MAX_MEMBER: Final = 4096  # characters; the longest is the key of ML-DSA-87 with 3456

_MLDSA_KEYS: Final[Mapping[str, type[mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey]]] = (
    MappingProxyType(
        {
            "ML-DSA-44": mldsa.MLDSA44PublicKey,
            "ML-DSA-65": mldsa.MLDSA65PublicKey,
            "ML-DSA-87": mldsa.MLDSA87PublicKey,
        }
    )
)


@JWK.register
class JwkAkp(JWK):
    """An "algorithm key pair" (RFC 9964 §3): here the public key of ML-DSA; its thumbprint includes `alg`."""

    typ = "AKP"
    cryptography_key_types = (
        mldsa.MLDSA44PublicKey,
        mldsa.MLDSA65PublicKey,
        mldsa.MLDSA87PublicKey,
        mldsa.MLDSA44PrivateKey,
        mldsa.MLDSA65PrivateKey,
        mldsa.MLDSA87PrivateKey,
    )
    required = ("alg", JWK.type_field_name, "pub")
    __slots__ = ("key",)

    def fields_to_partial_json(self) -> dict[str, str]:
        """The members beside `kty`, always of the public key."""
        public = self.public_key().key
        return {"alg": algorithm_of(public).jws, "pub": base64url_encode(public.public_bytes_raw())}

    @classmethod
    def fields_from_json(cls, jobj: Mapping[str, Any]) -> JwkAkp:
        """The key of an object whose members are present.

        Raises:
            UnsupportedError: `alg` is not a parameter set of ML-DSA.
            ValueError: `pub` has another length than `alg` demands.
        """
        public_key_type = _MLDSA_KEYS.get(jobj["alg"])
        if public_key_type is None:
            raise UnsupportedError("the alg of an AKP key must be ML-DSA-44, ML-DSA-65 or ML-DSA-87")
        return cls(key=public_key_type.from_public_bytes(base64url_decode(jobj["pub"])))

    def public_key(self) -> JwkAkp:
        """The same key without its private part."""
        return JwkAkp(key=self.key.public_key()) if hasattr(self.key, "public_key") else self


@JWK.register
class JwkOkp(JWK):
    """An octet key pair (RFC 8037 §2): here the public key of Ed25519."""

    typ = "OKP"
    cryptography_key_types = (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey)
    required = ("crv", JWK.type_field_name, "x")
    __slots__ = ("key",)

    def fields_to_partial_json(self) -> dict[str, str]:
        """The members beside `kty`, always of the public key."""
        return {"crv": "Ed25519", "x": base64url_encode(self.public_key().key.public_bytes_raw())}

    @classmethod
    def fields_from_json(cls, jobj: Mapping[str, Any]) -> JwkOkp:
        """The key of an object whose members are present.

        Raises:
            UnsupportedError: a curve other than Ed25519.
            ValueError: `x` is not 32 octets.
        """
        if jobj["crv"] != "Ed25519":
            raise UnsupportedError("the crv of an OKP key must be Ed25519")
        return cls(key=ed25519.Ed25519PublicKey.from_public_bytes(base64url_decode(jobj["x"])))

    def public_key(self) -> JwkOkp:
        """The same key without its private part."""
        return JwkOkp(key=self.key.public_key()) if hasattr(self.key, "public_key") else self


class JwaRaw(JWASignature):
    """A JWS algorithm whose signature is the key's own, without hash or encoding: EdDSA and ML-DSA."""

    def __init__(self, name: str, kty: type[JWK]) -> None:
        super().__init__(name)
        self.kty = kty

    def sign(self, key: Any, msg: bytes) -> bytes:  # noqa: ANN401 - josepy's signature
        """Sign `msg`."""
        signature: bytes = key.sign(msg)
        return signature

    def verify(self, key: Any, msg: bytes, sig: bytes) -> bool:  # noqa: ANN401 - josepy's signature
        """True for a good signature: josepy asks for a truth value where the rest of this package raises."""
        try:
            verify_signature(key, sig, msg)
        except BadSignatureError:
            return False
        return True


JWASignature.register(JwaRaw("EdDSA", JwkOkp))
for _name in _MLDSA_KEYS:
    JWASignature.register(JwaRaw(_name, JwkAkp))


def public_key_from_jwk(jwk: Mapping[str, object]) -> PublicKey:
    """The public key that a JWK holds, under the same rules as a certificate's key.

    Raises:
        MalformedError: a member is missing, not base64url or not minimal; or a private member is present.
        UnsupportedError: a key type, curve or algorithm that is not offered.
        BadKeyError: the key is refused (size, exponent, point not on the curve), or its `alg` or `use` forbid it.
    """
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in PUBLIC_MEMBERS:
        raise UnsupportedError(f"the kty of a JWK must be one of {', '.join(PUBLIC_MEMBERS)}")
    if PRIVATE_MEMBERS & jwk.keys():
        raise MalformedError("the JWK holds a private key: consider that key compromised")
    _check_members(kty, jwk)
    try:
        carried: Any = JWK.from_json(dict(jwk))
        # josepy wraps EC and RSA keys for comparison; their numbers give the plain key.
        plain = carried.key.public_numbers().public_key() if kty in {"EC", "RSA"} else carried.key
    except DeserializationError as error:
        raise MalformedError(f"the JWK is not an {kty} key that can be read") from error
    except ValueError as error:
        raise BadKeyError(f"the JWK does not hold a valid {kty} key") from error
    _check_use(jwk, algorithm_of(plain).jws)
    return known_public_key(plain)


def jwk_of(public_key: PublicKey) -> dict[str, str]:
    """The public JWK of a key: only the members of its thumbprint."""
    return dict(_josepy_jwk(public_key).to_json())


def thumbprint(public_key: PublicKey) -> str:
    """The SHA-256 thumbprint of RFC 7638, base64url."""
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in _CURVES:
        return base64url_encode(sha256(_ec_jwk(public_key)).digest())
    return base64url_encode(_josepy_jwk(public_key).thumbprint())


def _ec_jwk(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The JWK in the form that is hashed: the required members in the order of their names, no blanks (RFC 7638 §3).

    As josepy has it, in half the time: every order needs one.
    """
    octets = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    half = len(octets) // 2  # behind the octet that says so, both coordinates in full width (RFC 7518 §6.2.1.2)
    x, y = base64url_encode(octets[1 : half + 1]), base64url_encode(octets[half + 1 :])
    return f'{{"crv":"{_CURVES[public_key.curve.name]}","kty":"EC","x":"{x}","y":"{y}"}}'.encode()


def _josepy_jwk(public_key: PublicKey) -> JWK:
    for jwk_type in JWK.TYPES.values():
        if isinstance(public_key, jwk_type.cryptography_key_types):
            return jwk_type(key=public_key)
    raise UnsupportedError(f"no JWK for {type(public_key).__name__}")


def _check_members(kty: str, jwk: Mapping[str, object]) -> None:
    for name in PUBLIC_MEMBERS[kty]:
        value = jwk.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_MEMBER:
            raise MalformedError(f"the {kty} key lacks its member {name}")
        if name in _NAMES:
            continue
        octets = strict_base64url(value, f"the member {name} of the {kty} key")
        if kty == "RSA" and octets.startswith(b"\0"):  # RFC 7518 §2, Base64urlUInt: the minimum number of octets
            raise MalformedError(f"the member {name} of the RSA key has leading zeros")
    if kty == "EC" and jwk["crv"] not in {"P-256", "P-384", "P-521"}:
        raise UnsupportedError("the crv of an EC key must be P-256, P-384 or P-521")


def _check_use(jwk: Mapping[str, object], algorithm: str) -> None:
    if jwk.get("alg", algorithm) != algorithm:
        raise BadKeyError(f"the alg of this JWK must be {algorithm}")
    if jwk.get("use", "sig") != "sig":
        raise BadKeyError("the use of this JWK is not sig")
