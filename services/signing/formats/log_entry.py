"""An entry of the transparency log with its proof, as a Sigstore bundle carries it (TransparencyLogEntry)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pkicore.errors import MalformedError
from pkicore.tlog.checkpoint import Checkpoint
from pkicore.tlog.note import Note

KIND: Final = "hashedrekord"
KIND_VERSION: Final = "0.0.2"


class InclusionProof(Protocol):
    """Where a leaf stands in a tree."""

    @property
    def index(self) -> int:
        """Of the leaf, from 0."""
        ...

    @property
    def tree_size(self) -> int:
        """Leaves of the tree."""
        ...

    @property
    def hashes(self) -> Sequence[bytes]:
        """From the leaf's sibling up (RFC 9162 §2.1.3)."""
        ...


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry that the log has taken.

    Attributes:
        index: in the log, from 0.
        log_id: 32 octets that name the log's key (`NoteKey.log_id`).
        canonical_body: the entry, RFC 8785 JSON, exactly as it is the leaf.
        inclusion_proof: that it is in the tree of the checkpoint.
        checkpoint: the signed note, whose root the proof leads to.
    """

    index: int
    log_id: bytes
    canonical_body: bytes = field(repr=False)
    inclusion_proof: InclusionProof = field(repr=False)
    checkpoint: bytes = field(repr=False)

    def members(self) -> dict[str, Any]:
        """TransparencyLogEntry in protobuf JSON; without `integratedTime`, which such logs do not vouch for.

        Raises:
            MalformedError: the checkpoint is none.
        """
        proof = self.inclusion_proof
        return {
            "logIndex": str(self.index),
            "logId": {"keyId": _text(self.log_id)},
            "kindVersion": {"kind": KIND, "version": KIND_VERSION},
            "inclusionProof": {
                "logIndex": str(proof.index),
                "rootHash": _text(self._root()),
                "treeSize": str(proof.tree_size),
                "hashes": [_text(item) for item in proof.hashes],
                "checkpoint": {"envelope": self.checkpoint.decode()},
            },
            "canonicalizedBody": _text(self.canonical_body),
        }

    def _root(self) -> bytes:
        checkpoint = Checkpoint.parse(Note.parse(self.checkpoint).text)
        if checkpoint.size != self.inclusion_proof.tree_size:
            raise MalformedError("the inclusion proof is of another tree than its checkpoint")
        return checkpoint.root


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
