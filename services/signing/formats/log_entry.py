"""An entry of the transparency log with its proof, as a Sigstore bundle carries it (TransparencyLogEntry)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import Algorithm, PublicKey, algorithm_of
from pkicore.errors import MalformedError
from pkicore.tlog.checkpoint import Checkpoint
from pkicore.tlog.note import Note
from services.signing.formats.key_details import hash_name, key_details

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


def hashed_rekord(
    public_key: PublicKey,
    signature: bytes,
    digest_name: str,
    digest: bytes,
    certificate: x509.Certificate | None = None,
) -> bytes:
    """The entry about a signature (hashedrekord 0.0.2), in its one canonical form (RFC 8785): the leaf.

    Args:
        public_key: that signed.
        signature: as it stands in the bundle.
        digest_name: hash of the key's algorithm, or SHA-256 where it has none of its own.
        digest: of the artefact, or of the PAE of an envelope.
        certificate: the leaf, which stands in the entry instead of the key; None in key mode.

    Raises:
        UnsupportedError: a hash or key that Sigstore has no name for.
    """
    if certificate is None:
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        verifier: dict[str, Any] = {"publicKey": {"rawBytes": _text(spki)}}
    else:
        verifier = {"x509Certificate": {"rawBytes": _text(certificate.public_bytes(Encoding.DER))}}
    members = {
        "apiVersion": KIND_VERSION,
        "kind": KIND,
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": hash_name(digest_name), "digest": _text(digest)},
                "signature": {
                    "content": _text(signature),
                    "verifier": {"keyDetails": key_details(algorithm_of(public_key)), **verifier},
                },
            }
        },
    }
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)  # ASCII strings alone, so this is RFC 8785


def entry_digest_name(algorithm: Algorithm) -> str:
    """The hash of the digest in an entry about a signature of this algorithm."""
    return "sha256" if algorithm.signature_hash is None else algorithm.signature_hash.name
