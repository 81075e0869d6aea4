"""Detached JWS in the compact form: `protected..signature` (RFC 7515 appendix F); ML-DSA after RFC 9964.

The payload is a Statement, which the verifier puts back between the two dots in base64url; `b64` stays true. The header
has `alg`, `kid` (the hexadecimal SHA-256 of the key's SubjectPublicKeyInfo) and `cty`. A hybrid is two such files, one
for each key, because readers that do not know ML-DSA refuse a JWS that has any signature of it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from pkicore.algorithms import PublicKey, algorithm_of, verify_signature
from pkicore.dsse import IN_TOTO_PAYLOAD, key_id
from pkicore.encoding import base64url_encode
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.jose.jws import jws_signature, native_signature
from pkicore.jose.strict import strict_base64url, strict_object
from services.signing.formats import Output, SignedWith, ToSign, short_name

MEDIA_TYPE: Final = "application/jose"
MAX_JWS: Final = 16 * 1024  # octets of a detached one; ML-DSA-87 takes about 6500
_CONTENT_TYPE: Final = IN_TOTO_PAYLOAD.removeprefix("application/")  # RFC 7515 §4.1.10
_PARTS: Final = 3
_HEADERS: Final = {"alg", "kid", "cty"}


def to_sign(key_name: str, public_key: PublicKey, payload: bytes) -> ToSign:
    """What the key signs: `protected.payload`.

    Args:
        key_name: of the key, as the signer names it.
        public_key: its public half.
        payload: a Statement.
    """
    return ToSign(key_name, message=_protected(public_key) + b"." + base64url_encode(payload).encode())


def output(signed: SignedWith) -> Output:
    """The JWS as a file; its payload is the Statement that was signed, and is not in it."""
    signature = jws_signature(signed.algorithm.jws, signed.signature)
    content = b"".join((_protected(signed.public_key), b"..", base64url_encode(signature).encode()))
    return Output(f"detached-{short_name(signed.algorithm)}.jws", MEDIA_TYPE, content)


def verify(jws: bytes, payload: bytes, public_key: PublicKey) -> None:
    """Believe that the key signed the payload, in exactly this form.

    Raises:
        MalformedError: no detached JWS, or with other headers than `to_sign` writes.
        UnsupportedError: `alg` is not the one algorithm of this key, or the content is of another type.
        BadSignatureError: another key, or another payload.
    """
    header, signature = _parse(jws)
    algorithm = algorithm_of(public_key)
    if header.get("alg") != algorithm.jws:
        raise UnsupportedError(f"the alg of this key is {algorithm.jws}, not {str(header.get('alg'))[:32]!a}")
    if header.get("cty") != _CONTENT_TYPE:
        raise UnsupportedError(f"the cty of the JWS is not {_CONTENT_TYPE}")
    message = jws.partition(b".")[0] + b"." + base64url_encode(payload).encode()
    verify_signature(public_key, native_signature(algorithm.jws, signature), message)


def _protected(public_key: PublicKey) -> bytes:
    header = {"alg": algorithm_of(public_key).jws, "kid": key_id(public_key), "cty": _CONTENT_TYPE}
    return base64url_encode(orjson.dumps(header)).encode()


def _parse(jws: bytes) -> tuple[dict[str, Any], bytes]:
    if len(jws) > MAX_JWS or not jws.isascii():
        raise MalformedError(f"the JWS is longer than {MAX_JWS} octets, or not ASCII")
    parts = jws.decode().split(".")
    if len(parts) != _PARTS or parts[1]:
        raise MalformedError("the JWS is not detached: it must be protected..signature")
    header = strict_object(strict_base64url(parts[0], "protected"), "the protected header")
    if header.keys() != _HEADERS:  # so neither crit nor b64 can change what was signed
        raise MalformedError(f"the protected header must have exactly {', '.join(sorted(_HEADERS))}")
    return header, strict_base64url(parts[2], "signature")
