"""Entering signatures into the log, and what is known of an entry afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pkicore.keys import SigningKey
from pkicore.tlog.keys import NoteKey
from services.chassis.database import Database
from services.chassis.tlog import TileLog
from services.signing.formats import LogEntry, SignedWith
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.schema import log_tables


class SigningLog:
    """The log of this deployment; a `services.signing.witnesses.Log`."""

    def __init__(self, tiles: TileLog) -> None:
        self.tiles = tiles

    @classmethod
    async def open(cls, database: Database, *, key: SigningKey, origin: str, kept: Path | None = None) -> Self:
        """Open the log in the service's database; the key is not used yet. `kept`: file of the last checkpoint.

        Raises:
            ForkedLogError, DatabaseError, UnsupportedError, MalformedError: as `TileLog.open`.
        """
        return cls(await TileLog.open(database, log_tables, key=key, origin=origin, kept=kept))

    async def close(self) -> None:
        """End the log's tasks."""
        await self.tiles.close()

    @property
    def note_key(self) -> NoteKey:
        """Who signs its checkpoints; verifiers are told of it."""
        return self.tiles.note_key

    @property
    def origin(self) -> str:
        """The first line of its checkpoints."""
        return self.tiles.note_key.name

    async def enter(self, signed: SignedWith, digest: bytes) -> LogEntry:
        """Enter a signature over what has this digest, under the hash of the signature's algorithm.

        Raises:
            UnsupportedError: Sigstore has no name for the key's kind.
            KeyAccessError, BadSignatureError: it is entered, and cannot be proved now.
            TileLogError, DatabaseError: it was not entered, or cannot be proved now.
        """
        certificate = signed.certificate_chain[0] if signed.certificate_chain else None
        name = entry_digest_name(signed.algorithm)
        return await self.add(hashed_rekord(signed.public_key, signed.signature, name, digest, certificate))

    async def add(self, body: bytes) -> LogEntry:
        """Enter a canonical body; returns with the proof that it is there.

        Raises:
            KeyAccessError, BadSignatureError, TileLogError, DatabaseError: as `enter`.
        """
        return await self._entry((await self.tiles.append(body)).index, body)

    async def size(self) -> int:
        """How many entries it has, covered by a checkpoint or not.

        Raises:
            DatabaseError: it cannot be read.
        """
        return await self.tiles.size()

    async def entry(self, index: int) -> LogEntry:
        """An entry with its proof, by the newest checkpoint.

        Raises:
            NoEntryError: there is none, or no checkpoint covers it yet.
            TileLogError, DatabaseError: it cannot be read.
        """
        (body,) = await self.tiles.entries(index, index + 1)
        return await self._entry(index, body)

    async def _entry(self, index: int, body: bytes) -> LogEntry:
        proof = await self.tiles.proof(index)
        return LogEntry(index, self.note_key.log_id, body, proof, proof.checkpoint)
