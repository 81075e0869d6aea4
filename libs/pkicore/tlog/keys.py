"""Keys that sign notes, and how verifiers are told of them (C2SP signed-note, Verifier keys)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import algorithm_of, verify_signature
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.tlog.note import KEY_ID_SIZE, NoteSignature, check_key_name, decode_base64

MAX_VKEY: Final = 4096
"""Characters of a verifier key."""
_ED25519_TYPE: Final = 0x01
_CURVES: Final = ("ecdsa-p256", "ecdsa-p384")


@dataclass(frozen=True)
class NoteKey:
    """A key that signs the text of notes as it is: Ed25519, or ECDSA on P-256 or P-384 as Sigstore's logs have it.

    To sign: `note_key.assemble(await signing_key.sign(text.encode()))`.

    Raises:
        UnsupportedError: another kind of key.
        MalformedError: a name that is none.
    """

    name: str
    public_key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if not self._is_ed25519 and algorithm_of(self.public_key).name not in _CURVES:
            raise UnsupportedError("notes are signed with Ed25519, or with ECDSA on P-256 or P-384")

    @cached_property
    def log_id(self) -> bytes:
        """32 octets for name and key (Ed25519), or key alone (ECDSA); `logId.keyId` of a Sigstore bundle."""
        if self._is_ed25519:
            return hashlib.sha256(key_id_input(self.name, _ED25519_TYPE, self._raw)).digest()
        return hashlib.sha256(self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

    @property
    def key_id(self) -> bytes:
        """The first four octets of `log_id`."""
        return self.log_id[:KEY_ID_SIZE]

    @property
    def vkey(self) -> str:
        """How verifiers are told of an Ed25519 key.

        Raises:
            UnsupportedError: C2SP has no verifier keys for ECDSA.
        """
        if not self._is_ed25519:
            raise UnsupportedError("verifier keys are for Ed25519; give an ECDSA key as SubjectPublicKeyInfo")
        return encode_vkey(self.name, _ED25519_TYPE, self._raw)

    @classmethod
    def from_vkey(cls, vkey: str) -> NoteKey:
        """The Ed25519 key of a verifier key.

        Raises:
            MalformedError: it is none, or contradicts itself.
            UnsupportedError: it is of another type.
        """
        name, raw = decode_vkey(vkey, _ED25519_TYPE)
        try:
            return cls(name, ed25519.Ed25519PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise MalformedError("the verifier key holds no Ed25519 key") from error

    def assemble(self, signature: bytes) -> NoteSignature:
        """The line for a signature that this key's private half made over a text; the caller verifies it first."""
        return NoteSignature(self.name, self.key_id, signature)

    def verify(self, text: str, signature: bytes) -> None:
        """Believe that this key signed the text.

        Raises:
            BadSignatureError: it did not.
        """
        try:
            verify_signature(self.public_key, signature, text.encode())
        except BadSignatureError as error:
            raise BadSignatureError(f"the note's signature of {self.name} does not verify") from error

    @property
    def _is_ed25519(self) -> bool:
        return isinstance(self.public_key, ed25519.Ed25519PublicKey)

    @property
    def _raw(self) -> bytes:
        return self.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id_input(name: str, signature_type: int, raw_key: bytes) -> bytes:
    """What is hashed for a key ID: name, line end, signature type, key."""
    return name.encode() + b"\n" + bytes((signature_type,)) + raw_key


def encode_vkey(name: str, signature_type: int, raw_key: bytes) -> str:
    """`name+key ID+base64(type, key)`."""
    key_id = hashlib.sha256(key_id_input(name, signature_type, raw_key)).digest()[:KEY_ID_SIZE]
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes((signature_type,)) + raw_key).decode()}"


def decode_vkey(vkey: str, signature_type: int) -> tuple[str, bytes]:
    """Name and raw key of a verifier key that must be of this type.

    Raises:
        MalformedError: it is none, or its key ID is not of its name and key.
        UnsupportedError: it is of another type.
    """
    name, _, rest = vkey.partition("+")
    _, separator, encoded = rest.partition("+")
    if len(vkey) > MAX_VKEY or not separator:
        raise MalformedError("a verifier key is name+key ID+key")
    check_key_name(name)
    key = decode_base64(encoded)
    if key[:1] != bytes((signature_type,)):
        raise UnsupportedError(f"a verifier key of type {signature_type:#04x} is wanted")
    if encode_vkey(name, key[0], key[1:]) != vkey:
        raise MalformedError("the verifier key's ID is not that of its name and key")
    return name, key[1:]
