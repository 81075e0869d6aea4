"""The log itself: one task appends what has queued, another signs the checkpoint of what is durable."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from pkicore.errors import PkiError
from pkicore.keys import SigningKey
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.merkle import HASH_SIZE
from pkicore.tlog.proofs import consistency_plan, inclusion_plan
from pkicore.tlog.tiles import HEIGHT, MAX_ENTRY, WIDTH, Tile
from services.chassis.database import Database
from services.chassis.errors import ChassisError, OverloadedError, UnavailableError
from services.chassis.tlog.checkpoints import CheckpointKey, SignedCheckpoint
from services.chassis.tlog.errors import EntryTooLargeError, NoEntryError
from services.chassis.tlog.kept import KeptCheckpoint
from services.chassis.tlog.schema import LogTables
from services.chassis.tlog.store import LogStore
from services.chassis.tlog.tree import Entry, EntryAt, StoredTree

_QUEUE: Final = 4096
"""Entries that may wait."""
_BATCH: Final = 256
"""Entries of one commit at most."""
_RETRY: Final = 1.0
"""Seconds until a checkpoint that could not be signed is tried again."""


@dataclass(frozen=True)
class InclusionProof:
    """Shows that the leaf at `index` is in the tree of `tree_size` leaves with this root (RFC 9162 §2.1.3).

    Attributes:
        index: of the leaf, from 0.
        tree_size: leaves of the tree.
        root: its root hash.
        hashes: the leaf's sibling first.
        checkpoint: the signed note that vouches for size and root.
    """

    index: int
    tree_size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes


class TileLog:
    """One log; `await TileLog.open(...)` makes one, `close` ends it."""

    def __init__(self, store: LogStore, key: CheckpointKey, tree: StoredTree) -> None:
        self._store = store
        self._key = key
        self._tree = tree
        self._queue: deque[tuple[EntryAt, asyncio.Future[Entry]]] = deque()
        self._queued, self._unsigned = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._fault = ""
        self._log = structlog.get_logger("tlog")
        self._loop = asyncio.get_running_loop()
        self._signing: asyncio.Future[None] = self._loop.create_future()
        self._writer = self._loop.create_task(self._write_for_ever(), name="tlog-writer")
        self._signer = self._loop.create_task(self._sign_for_ever(), name="tlog-signer")

    @classmethod
    async def open(
        cls, database: Database, tables: LogTables, *, key: SigningKey, origin: str, kept: Path | None = None
    ) -> Self:
        """Open the log in these tables, begun where it is new; the key is not used yet.

        A tree that has grown beyond its checkpoint, since a process died between the two, is signed in the background.

        Args:
            database: has the tables.
            tables: from `tlog_tables`.
            key: signs checkpoints: Ed25519, or ECDSA on P-256 or P-384.
            origin: the log's name for ever.
            kept: file of the last signed checkpoint (`services.chassis.tlog.kept`), made where it is not there; without
                one, an older database is not told from the last one.

        Raises:
            RenamedLogError: the stored log has another origin.
            ForkedLogError: the stored tree does not continue the stored checkpoint or that of the file, or one of them
                is another key's.
            DatabaseError: the log cannot be read.
            UnsupportedError, MalformedError: a key or origin that no log can have.
        """
        store, checkpoint_key = LogStore(database, tables), CheckpointKey(key, origin)
        await store.begin()
        tree = StoredTree(store, checkpoint_key, None if kept is None else KeptCheckpoint(kept, checkpoint_key))
        await tree.begin()  # before anything is begun that would have to be ended
        log = cls(store, checkpoint_key, tree)
        log._unsigned.set()
        return log

    async def close(self) -> None:
        """Append what has queued, then end; a checkpoint that is not signed yet is signed at the next start."""
        self._closing = True
        self._queued.set()
        await self._writer
        self._signer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._signer
        self._end_round(UnavailableError("the log is closed"))

    @property
    def note_key(self) -> NoteKey:
        """Who signs the checkpoints; its `log_id` names the log."""
        return self._key.note_key

    async def append(self, entry: bytes | EntryAt) -> Entry:
        """Append an entry; returns when it is durable, which is before a checkpoint covers it.

        Args:
            entry: at most 65535 octets, or what makes them from their index.

        Raises:
            EntryTooLargeError: it is longer.
            LogContendedError, OverloadedError: too much is going on; it was not appended.
            TileLogError, DatabaseError: it was not appended (`CommitUnknownError`: it may have been).
        """
        if self._closing:
            raise UnavailableError("the log is closed")
        if len(self._queue) >= _QUEUE:
            raise OverloadedError(f"{_QUEUE} entries wait for the log already")
        entry_at: EntryAt = entry if callable(entry) else lambda _index: entry
        _check_size(entry_at(0))
        future: asyncio.Future[Entry] = self._loop.create_future()
        self._queue.append((entry_at, future))
        self._queued.set()
        return await future

    async def size(self) -> int:
        """How many entries are durable, whichever process appended them, covered by a checkpoint or not.

        Raises:
            DatabaseError: it cannot be read.
        """
        return (await self._store.head()).size

    async def checkpoint(self) -> SignedCheckpoint:
        """The last signed checkpoint, whichever process signed it.

        Raises:
            NoEntryError: none was signed yet.
            ForkedLogError, DatabaseError: it cannot be had.
        """
        return await self._tree.refresh()

    async def proof(self, index: int) -> InclusionProof:
        """That an entry is in the log, by a checkpoint that covers it, which is waited for.

        Raises:
            NoEntryError: the log has no such entry.
            KeyAccessError, BadSignatureError: the checkpoint cannot be signed now; it will be.
            TileLogError, DatabaseError: the proof cannot be made.
        """
        signed = await self._covering(index)
        hashes = await self._tree.prove(inclusion_plan(index, signed.size))
        return InclusionProof(index, signed.size, signed.root, hashes, signed.note)

    async def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """That the tree of `second` leaves, which are signed, continues the one of `first` (RFC 9162 §2.1.4).

        Raises:
            NoEntryError: the signed tree is not as large, or the sizes are in the wrong order.
            TileLogError, DatabaseError: the proof cannot be made.
        """
        if not 0 <= first <= second <= (await self.checkpoint()).size:
            raise NoEntryError(f"there is no proof from {first} to {second} leaves in this log")
        return await self._tree.prove(consistency_plan(first, second))

    async def entries(self, first: int, end: int) -> list[bytes]:
        """The entries from `first` to before `end`, which a checkpoint covers.

        Raises:
            NoEntryError: one of them is not covered.
            TileLogError, DatabaseError: they cannot be read.
        """
        if not 0 <= first < end <= (await self.checkpoint()).size:
            raise NoEntryError(f"the log has no entries {first} to {end - 1}")
        return await self._store.entries(first, end)

    async def tile(self, tile: Tile) -> bytes:
        """The hashes of a tile of the signed tree.

        Raises:
            NoEntryError: the signed tree has no such tile.
            TileLogError, DatabaseError: it cannot be read.
        """
        level = tile.level or 0
        end = tile.number * WIDTH + tile.width
        if tile.level is None or (await self.checkpoint()).size >> (HEIGHT * level) < end:
            raise NoEntryError(f"the log has no {tile.path}")
        return (await self._store.tiles([tile]))[tile][: tile.width * HASH_SIZE]

    async def _covering(self, index: int) -> SignedCheckpoint:
        """The last checkpoint, as soon as it covers the entry."""
        while True:
            signed = self._tree.signed
            if signed is not None and 0 <= index < signed.size:
                return signed
            head = await self._store.head()
            if not 0 <= index < head.size:
                raise NoEntryError(f"the log has no entry {index}")
            if index < head.signed_size:
                return await self._tree.refresh()
            await self._next_round()

    async def _next_round(self) -> None:
        self._unsigned.set()
        await asyncio.shield(self._signing)

    async def _write_for_ever(self) -> None:
        while self._queue or not self._closing:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                await self._write([self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))])

    async def _write(self, batch: Sequence[tuple[EntryAt, asyncio.Future[Entry]]]) -> None:
        try:
            entries = await self._tree.append([entry_at for entry_at, _ in batch])
        except ChassisError as error:
            self._log.error("not logged", entries=len(batch), error=str(error))
            self._refuse(batch, error)
        except Exception as error:  # noqa: BLE001 - the writer must outlive any fault of one batch
            self._log.exception("not logged", entries=len(batch))
            self._refuse(batch, UnavailableError(f"the log could not be written: {type(error).__name__}"))
        else:
            self._unsigned.set()
            for entry, (_, future) in zip(entries, batch, strict=True):
                if not future.done():  # else whoever waited has gone
                    future.set_result(entry)

    @staticmethod
    def _refuse(batch: Sequence[tuple[EntryAt, asyncio.Future[Entry]]], error: ChassisError) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)

    async def _sign_for_ever(self) -> None:
        while True:
            await self._unsigned.wait()
            self._unsigned.clear()
            try:
                await self._tree.sign()
            except (PkiError, ChassisError) as error:
                await self._again(error)
            except Exception as error:  # noqa: BLE001 - the signer must outlive any fault of one round
                self._log.exception("checkpoint not signed")
                await self._again(UnavailableError(f"the checkpoint was not signed: {type(error).__name__}"))
            else:
                self._fault = ""
                self._end_round(None)

    async def _again(self, error: Exception) -> None:
        if str(error) != self._fault:  # once, not once a second
            self._fault = str(error)
            self._log.error("checkpoint not signed, tried again", error=self._fault, retry_seconds=_RETRY)
        self._end_round(error)
        self._unsigned.set()
        await asyncio.sleep(_RETRY)

    def _end_round(self, error: Exception | None) -> None:
        """Tell those who wait for a checkpoint how this one ended, and begin the next."""
        ended, self._signing = self._signing, self._loop.create_future()
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
            ended.exception()  # whether anybody waits for it or not


def _check_size(entry: bytes) -> None:
    if len(entry) > MAX_ENTRY:
        raise EntryTooLargeError(f"an entry of a log has at most {MAX_ENTRY} octets, not {len(entry)}")
