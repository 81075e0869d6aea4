"""Checkpoints: a log's size and root as a signed note (C2SP tlog-checkpoint)."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pkicore.errors import MalformedError, ProofError
from pkicore.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE
from pkicore.tlog.note import NoteVerifier, decode_base64, verify_note

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LINE: Final = re.compile(r"[^\x00-\x1f\ud800-\udfff]+")
_LEAST_LINES: Final = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself; only `verify_checkpoint` says that it is the log which says so.

    Attributes:
        origin: the log's name, unique for ever; by custom a URL without scheme, which is its key's name too.
        size: leaves.
        root: the tree's root hash.
        extensions: further lines, which mean nothing to us; best none.

    Raises:
        MalformedError: nothing that a log can say.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(_LINE.fullmatch(line) for line in (self.origin, *self.extensions)):
            raise MalformedError("an origin or extension of a checkpoint is one line of text")
        if not 0 <= self.size <= MAX_SIZE:
            raise MalformedError(f"a log has 0 to {MAX_SIZE} leaves")
        if len(self.root) != HASH_SIZE or (self.size == 0 and self.root != EMPTY_ROOT):
            raise MalformedError("the root hash of a checkpoint cannot be of its tree")

    @property
    def text(self) -> str:
        """The text of the note: what the log signs."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a note; every checkpoint has one form only.

        Raises:
            MalformedError: it is no checkpoint.
        """
        *lines, rest = text.split("\n")
        if len(lines) < _LEAST_LINES or rest:
            raise MalformedError("a checkpoint has an origin, a size and a root hash, each in a line")
        origin, size, root, *extensions = lines
        if not _SIZE.fullmatch(size):
            raise MalformedError("the checkpoint's size is no number")
        return cls(origin, int(size), decode_base64(root), tuple(extensions))


def verify_checkpoint(data: bytes, origin: str, keys: Sequence[NoteVerifier]) -> Checkpoint:
    """The checkpoint of the log of this origin, which every one of these keys has signed.

    That it continues an earlier one is the caller's to verify (`verify_consistency`).

    Raises:
        MalformedError: it is no checkpoint.
        ProofError: a key has not signed it, no keys are given, or it is of another log.
        BadSignatureError: a key's signature is wrong.
    """
    checkpoint = Checkpoint.parse(verify_note(data, keys))
    if not hmac.compare_digest(checkpoint.origin.encode(), origin.encode()):
        raise ProofError("the checkpoint is another log's")
    return checkpoint
