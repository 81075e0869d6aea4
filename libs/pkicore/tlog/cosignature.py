"""ML-DSA-44 cosignatures of checkpoints (C2SP tlog-cosignature v1.1, signature type 0x06).

Whoever cosigns says: this tree is consistent with every one that I have seen of this log. They sign no text, but a
structure that names them, the time, the log, its size and its root; extension lines are not covered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import mldsa

from pkicore.algorithms import verify_signature
from pkicore.errors import BadSignatureError, MalformedError
from pkicore.tlog.checkpoint import Checkpoint
from pkicore.tlog.keys import decode_vkey, encode_vkey, key_id_input
from pkicore.tlog.note import KEY_ID_SIZE, NoteSignature, check_key_name

MAX_TIMESTAMP: Final = 2**63 - 1
"""Unix seconds at most."""
_TYPE: Final = 0x06
_LABEL: Final = b"subtree/v1\n\0"
_SIGNATURE_SIZE: Final = 2420
_U64_SIZE: Final = 8
_MAX_NAME: Final = 255


class Cosignature(NamedTuple):
    """The `timestamped_signature` of a note's signature line.

    Attributes:
        timestamp: Unix seconds when no larger tree was known to the cosigner; 0 for nothing said of that.
        signature: 2420 octets of ML-DSA-44.
    """

    timestamp: int
    signature: bytes

    def to_bytes(self) -> bytes:
        """As it stands in the line, after the key ID."""
        return _u64(self.timestamp) + self.signature

    @classmethod
    def parse(cls, data: bytes) -> Cosignature:
        """From `Note.signature_of(cosigner)`.

        Raises:
            MalformedError: it is none.
        """
        timestamp = int.from_bytes(data[:_U64_SIZE], "big")
        if len(data) != _U64_SIZE + _SIGNATURE_SIZE or timestamp > MAX_TIMESTAMP:
            raise MalformedError("this is no ML-DSA-44 cosignature")
        return cls(timestamp, data[_U64_SIZE:])


@dataclass(frozen=True)
class Cosigner:
    """An ML-DSA-44 key under a name; a log may cosign its own checkpoints.

    To sign: `cosigner.assemble(now, await key.sign(cosigner.message(checkpoint, now)))`.

    Raises:
        MalformedError: a name that is none.
    """

    name: str
    public_key: mldsa.MLDSA44PublicKey

    def __post_init__(self) -> None:
        check_key_name(self.name)
        _vector(self.name)

    @cached_property
    def key_id(self) -> bytes:
        """The first four octets of SHA-256 over name, line end, 0x06 and the key."""
        return hashlib.sha256(key_id_input(self.name, _TYPE, self.public_key.public_bytes_raw())).digest()[:KEY_ID_SIZE]

    @property
    def vkey(self) -> str:
        """How verifiers are told of it."""
        return encode_vkey(self.name, _TYPE, self.public_key.public_bytes_raw())

    @classmethod
    def from_vkey(cls, vkey: str) -> Cosigner:
        """The cosigner of a verifier key.

        Raises:
            MalformedError: it is none, or contradicts itself.
            UnsupportedError: it is of another type.
        """
        name, raw = decode_vkey(vkey, _TYPE)
        try:
            return cls(name, mldsa.MLDSA44PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise MalformedError("the verifier key holds no ML-DSA-44 key") from error

    def message(self, checkpoint: Checkpoint, timestamp: int) -> bytes:
        """The `cosigned_message` to be signed, pure, with an empty context; `timestamp` is Unix seconds, or 0.

        Raises:
            MalformedError: the origin has more than 255 octets, or the time is out of range.
        """
        if not 0 <= timestamp <= MAX_TIMESTAMP:
            raise MalformedError("a cosignature's time is not negative and has 63 bits")
        tree = _vector(checkpoint.origin) + _u64(0) + _u64(checkpoint.size) + checkpoint.root
        return _LABEL + _vector(self.name) + _u64(timestamp) + tree

    def assemble(self, timestamp: int, signature: bytes) -> NoteSignature:
        """The line for a signature over `message(checkpoint, timestamp)`; the caller verifies it first."""
        return NoteSignature(self.name, self.key_id, Cosignature(timestamp, signature).to_bytes())

    def verify(self, text: str, signature: bytes) -> None:
        """Believe that the cosigner vouched for the checkpoint of this text; whether lately enough is the caller's.

        Raises:
            BadSignatureError: it did not.
            MalformedError: the text is no checkpoint, or the signature no cosignature.
        """
        cosignature = Cosignature.parse(signature)
        message = self.message(Checkpoint.parse(text), cosignature.timestamp)
        try:
            verify_signature(self.public_key, cosignature.signature, message)
        except BadSignatureError as error:
            raise BadSignatureError(f"the cosignature of {self.name} does not verify") from error


def _u64(number: int) -> bytes:
    return number.to_bytes(_U64_SIZE, "big")


def _vector(text: str) -> bytes:
    """opaque<1..2^8-1>."""
    data = text.encode()
    if not 1 <= len(data) <= _MAX_NAME:
        raise MalformedError(f"cosigners and the logs they sign have names of 1 to {_MAX_NAME} octets")
    return bytes((len(data),)) + data
