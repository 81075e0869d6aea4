"""What a log signs of itself: origin, size and root as a note, verified before anybody sees it."""

from __future__ import annotations

from typing import NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pkicore.errors import BadSignatureError, MalformedError, ProofError
from pkicore.keys import SigningKey
from pkicore.tlog.checkpoint import Checkpoint, verify_checkpoint
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.note import Note
from services.chassis.tlog.errors import ForkedLogError, RenamedLogError


class SignedCheckpoint(NamedTuple):
    """A checkpoint of this log, and the note that says it."""

    size: int
    root: bytes
    note: bytes


class CheckpointKey:
    """The log's key under the log's origin, which is the key's name.

    Args:
        key: Ed25519, or ECDSA on P-256 or P-384; here or far away.
        origin: by custom a URL without scheme; never changed.

    Raises:
        UnsupportedError: another kind of key.
        MalformedError: an origin that is no name.
    """

    def __init__(self, key: SigningKey, origin: str) -> None:
        self._key = key
        self._origin = origin
        self.note_key = NoteKey(origin, cast("ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey", key.public_key))

    async def sign(self, tree: Frontier) -> SignedCheckpoint:
        """The checkpoint of a tree.

        Raises:
            KeyAccessError: the key cannot be used now.
            BadSignatureError: what came back is no signature of this key.
        """
        text = Checkpoint(self._origin, tree.size, tree.root).text
        signature = await self._key.sign(text.encode())
        self.note_key.verify(text, signature)
        note = Note(text, (self.note_key.assemble(signature),)).to_bytes()
        return SignedCheckpoint(tree.size, tree.root, note)

    def read(self, note: bytes) -> SignedCheckpoint:
        """A checkpoint that was stored.

        Raises:
            RenamedLogError: it says another origin.
            ForkedLogError: this key has not signed it for this origin.
        """
        stored = note.partition(b"\n")[0].decode(errors="replace")
        if stored and stored.isprintable() and stored != self._origin:
            raise RenamedLogError(stored, self._origin)
        try:
            checkpoint = verify_checkpoint(note, self._origin, [self.note_key])
        except (MalformedError, ProofError, BadSignatureError) as error:
            raise ForkedLogError(
                f"the stored checkpoint is not one of {self._origin} by the log's present key: {error}; "
                "give the log its key and its database again"
            ) from error
        return SignedCheckpoint(checkpoint.size, checkpoint.root, note)
