"""Signed notes: a text and the signatures of those who vouch for it (C2SP signed-note)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from pkicore.errors import MalformedError, ProofError

MAX_NOTE: Final = 256 * 1024
"""Octets of a note."""
MAX_SIGNATURES: Final = 32
"""Signatures of a note; C2SP asks to take 16."""
KEY_ID_SIZE: Final = 4

_DASH: Final = "\N{EM DASH} "
_FORBIDDEN: Final = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")


class NoteSignature(NamedTuple):
    """One signature of a note.

    Attributes:
        name: of the key, which is all that says who is meant.
        key_id: four octets that tell the keys and algorithms of one name apart; a hint.
        signature: what the key's algorithm made.
    """

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """As it stands in the note."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """From a line, without its end.

        Raises:
            MalformedError: it is no signature.
        """
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        if not line.startswith(_DASH):
            raise MalformedError("a signature line begins with a dash and a space")
        check_key_name(name)
        data = decode_base64(encoded)
        if len(data) <= KEY_ID_SIZE:
            raise MalformedError("a note's signature is too short")
        return cls(name, data[:KEY_ID_SIZE], data[KEY_ID_SIZE:])


class NoteVerifier(Protocol):
    """A public key under a name, known to the verifier beforehand."""

    @property
    def name(self) -> str:
        """Of the key."""
        ...

    @property
    def key_id(self) -> bytes:
        """The four octets that stand before its signatures."""
        ...

    def verify(self, text: str, signature: bytes) -> None:
        """Believe that the key signed this text.

        Raises:
            BadSignatureError: it did not.
            MalformedError: this kind of key does not sign such a text.
        """
        ...


class Note(NamedTuple):
    """A text, which ends with a line end, and its signatures; nothing in it is verified."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_bytes(self) -> bytes:
        """As it is published.

        Raises:
            MalformedError: a text, name or signature that no note can hold, or too much of them.
        """
        data = (self.text + "\n" + "".join(item.line for item in self.signatures)).encode("utf-8", "surrogatepass")
        if Note.parse(data) != self:
            raise MalformedError("a signed note with this text or these names would be read as another")
        return data

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """From what was published; every note has one form only.

        Raises:
            MalformedError: it is no note, or too large.
        """
        if len(data) > MAX_NOTE:
            raise MalformedError(f"a signed note has at most {MAX_NOTE} octets")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("a signed note is UTF-8") from error
        if _FORBIDDEN.search(whole):
            raise MalformedError("a signed note has no control characters but line ends")
        text, separator, lines = whole.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise MalformedError("a signed note is a text, an empty line, and signatures")
        if lines.count("\n") > MAX_SIGNATURES:
            raise MalformedError(f"a signed note has at most {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(NoteSignature.parse(line) for line in lines[:-1].split("\n")))

    def signature_of(self, key: NoteVerifier) -> bytes:
        """The one signature that claims to be of this key; it is not verified.

        Raises:
            ProofError: there is none, or more than one.
        """
        found = [item.signature for item in self.signatures if (item.name, item.key_id) == (key.name, key.key_id)]
        if len(found) != 1:
            raise ProofError(f"the note has {len(found)} signatures of {key.name} by key {key.key_id.hex()}, not one")
        return found[0]


def verify_note(data: bytes, keys: Sequence[NoteVerifier]) -> str:
    """The text of a note that every one of these keys has signed; signatures of other keys are passed over.

    Raises:
        MalformedError: it is no note.
        ProofError: a key has not signed it, or no keys are given.
        BadSignatureError: a key's signature is wrong.
    """
    note = Note.parse(data)
    if not keys:
        raise ProofError("a note is believed for the sake of a key, and none is given")
    for key in keys:
        key.verify(note.text, note.signature_of(key))
    return note.text


def check_key_name(name: str) -> None:
    """Refuse what cannot be a key's name: nothing, or anything with white space, a control character or a plus.

    Raises:
        MalformedError: so it is.
    """
    if not name or "+" in name or _FORBIDDEN.search(name) or any(character.isspace() for character in name):
        raise MalformedError("the name of a note's key is empty, or has white space or a plus in it")


def decode_base64(text: str) -> bytes:
    """Standard base64 with padding, in its one form (RFC 4648 §4, §3.5).

    Raises:
        MalformedError: anything else.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("not standard base64") from error
    if base64.b64encode(data).decode() != text:
        raise MalformedError("base64 with loose bits at its end")
    return data
