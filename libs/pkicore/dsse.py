"""DSSE 1.0.2: what is signed (the pre-authentication encoding, PAE), and the JSON envelope around it.

1 the policy is a set of keys that the caller trusts · 2 every one of them must have signed · 3 each key counts once,
however often it signed · 4 signatures by others are ignored · 5 `keyid` is a hint and never decides.
Signatures are those of `pkicore.algorithms`: ECDSA as DER, ML-DSA pure with an empty context. What the payload says and
whose keys these are, are the caller's questions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey, algorithm_of, verify_signature
from pkicore.errors import BadSignatureError, MalformedError
from pkicore.jose.strict import strict_object

__all__ = [
    "IN_TOTO_PAYLOAD",
    "MAX_ENVELOPE_BYTES",
    "MAX_SIGNATURES",
    "Envelope",
    "Signature",
    "encode_chunks",
    "envelope_head",
    "envelope_tail",
    "key_hint",
    "key_id",
    "pae",
    "pae_head",
    "verify_all",
]

IN_TOTO_PAYLOAD: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 2 << 20  # room for a payload of 1 MiB in base64; larger ones are files, see `envelope_head`
MAX_SIGNATURES: Final = 16
_MAX_SIGNATURE: Final = 16 * 1024  # octets; ML-DSA-87 takes 4627
_MAX_TEXT: Final = 512  # characters of payloadType and keyid
_STANDARD: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)
_TO_STANDARD: Final = str.maketrans("-_", "+/")


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: `DSSEv1 LEN(type) type LEN(payload) payload`, lengths in octets (protocol.md)."""
    return pae_head(payload_type, len(payload)) + payload


def pae_head(payload_type: str, payload_length: int) -> bytes:
    """The part before the payload, for a payload that is hashed chunk by chunk."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d " % (len(name), name, payload_length)


def key_id(public_key: PublicKey) -> str:
    """Lower-case hexadecimal SHA-256 of the key's SubjectPublicKeyInfo."""
    return _fingerprint(public_key).hex()


def key_hint(public_key: PublicKey) -> str:
    """Base64 of the same: the hint of Sigstore bundles, and the `keyid` of envelopes inside them."""
    return base64.b64encode(_fingerprint(public_key)).decode()


def _fingerprint(public_key: PublicKey) -> bytes:
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope.

    Attributes:
        key_id: a hint which key made it; anybody may have written it, and it may be empty.
        signature: its octets, as `pkicore.algorithms.verify_signature` takes them.
    """

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with signatures; nothing in it may be believed before `verify_all`."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> Envelope:
        """Read an envelope (envelope.md); members it does not define are ignored, as it demands.

        Raises:
            MalformedError: larger than `max_bytes`, not an envelope, a member twice at any depth, base64 in other than
                its one form, no signature or more than 16.
        """
        if len(data) > max_bytes:
            raise MalformedError(f"the envelope is larger than {max_bytes} octets")
        members = strict_object(data, "the envelope")
        found = members.get("signatures")
        if not isinstance(found, list) or not 1 <= len(found) <= MAX_SIGNATURES:
            raise MalformedError(f"signatures must be a list of 1 to {MAX_SIGNATURES}")
        return cls(
            payload_type=_payload_type(members),
            payload=_decode(members.get("payload"), "payload"),
            signatures=tuple(_signature(item) for item in found),
        )

    def to_json(self) -> bytes:
        """The members in the order of envelope.md, without spaces, in standard base64."""
        payload = base64.b64encode(self.payload)
        return b"".join((envelope_head(), payload, envelope_tail(self.payload_type, self.signatures)))


def envelope_head() -> bytes:
    """The part of an envelope before its payload in base64."""
    return b'{"payload":"'


def envelope_tail(payload_type: str, signatures: Sequence[Signature]) -> bytes:
    """The part after it."""
    rest = {
        "payloadType": payload_type,
        "signatures": [{"keyid": one.key_id, "sig": base64.b64encode(one.signature).decode()} for one in signatures],
    }
    return b'",' + orjson.dumps(rest)[1:]


def encode_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Base64 of a payload that comes in chunks of any size, padded at its end alone."""
    rest = b""
    for chunk in chunks:
        whole = rest + chunk
        cut = len(whole) - len(whole) % 3
        rest = whole[cut:]
        yield base64.b64encode(whole[:cut])
    yield base64.b64encode(rest)


def verify_all(envelope: Envelope, keys: Mapping[str, PublicKey] | Sequence[PublicKey]) -> None:
    """Every key has signed this payload as of this type, or raise; see the numbered rules above.

    Args:
        envelope: what came.
        keys: the policy, from trusted configuration. The names of a mapping are tried first as hints, nothing more.

    Raises:
        BadSignatureError: a key without a valid signature, or a policy without keys.
        UnsupportedError: a key of the policy that is not in the table of algorithms.
        BadKeyError: likewise, for RSA.
    """
    policy = list(keys.items()) if isinstance(keys, Mapping) else [("", key) for key in keys]
    if not policy:
        raise BadSignatureError("a policy without keys accepts no envelope")
    message = pae(envelope.payload_type, envelope.payload)
    for name, public_key in policy:
        _require(public_key, _likeliest_first(envelope.signatures, {name, key_id(public_key)}), message)


def _likeliest_first(signatures: Iterable[Signature], names: set[str]) -> list[Signature]:
    return sorted(signatures, key=lambda signature: signature.key_id not in names)


def _require(public_key: PublicKey, signatures: list[Signature], message: bytes) -> None:
    algorithm = algorithm_of(public_key)
    for signature in signatures:
        try:
            verify_signature(public_key, signature.signature, message)
        except BadSignatureError:
            continue
        return
    raise BadSignatureError(f"no valid signature by the {algorithm.name} key {key_id(public_key)}")


def _payload_type(members: Mapping[str, Any]) -> str:
    found = members.get("payloadType")
    if not isinstance(found, str) or not 0 < len(found) <= _MAX_TEXT:
        raise MalformedError(f"payloadType must be a string of 1 to {_MAX_TEXT} characters")
    return found


def _signature(item: object) -> Signature:
    if not isinstance(item, dict):
        raise MalformedError("a signature must be an object")
    name = item.get("keyid", "")
    if not isinstance(name, str) or len(name) > _MAX_TEXT:
        raise MalformedError(f"keyid must be a string of at most {_MAX_TEXT} characters")
    signature = _decode(item.get("sig"), "sig")
    if len(signature) > _MAX_SIGNATURE:
        raise MalformedError(f"a signature has at most {_MAX_SIGNATURE} octets")
    return Signature(name, signature)


def _decode(text: object, what: str) -> bytes:
    """Either alphabet of RFC 4648 but no mixture, with padding and without loose bits: one text per value."""
    if not isinstance(text, str):
        raise MalformedError(f"{what} must be a string")
    if not _STANDARD.fullmatch(text) and not _URL_SAFE.fullmatch(text):
        raise MalformedError(f"{what} is not base64")
    standard = text.translate(_TO_STANDARD)
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{what} is not base64") from error
    if base64.b64encode(data).decode() != standard:
        raise MalformedError(f"{what} is base64 with loose bits at the end")
    return data
