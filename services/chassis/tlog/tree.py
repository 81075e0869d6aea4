"""The stored tree and its last checkpoint as this process knows them; every change depends on the stored head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pkicore.errors import ProofError
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import ProofPlan, consistency_plan, verify_consistency
from pkicore.tlog.tiles import edge_tiles
from services.chassis.errors import ConflictError
from services.chassis.tlog.checkpoints import CheckpointKey, SignedCheckpoint
from services.chassis.tlog.errors import ForkedLogError, LogContendedError, NoEntryError
from services.chassis.tlog.kept import KeptCheckpoint
from services.chassis.tlog.store import UNSIGNED, Head, LogStore

_ATTEMPTS: Final = 16
"""Times that a change is tried where other processes change the same log."""

EntryAt: TypeAlias = Callable[[int], bytes]
"""Makes an entry out of its index; called anew where the index changes, and the last call counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that is durable, and its index."""

    index: int
    data: bytes


class StoredTree:
    """Grows and signs one log. One task at a time appends, one signs; anybody reads."""

    def __init__(self, store: LogStore, key: CheckpointKey, kept: KeptCheckpoint | None = None) -> None:
        self._store = store
        self._key = key
        self._kept = kept
        self._tree: Frontier | None = None
        self._signed: SignedCheckpoint | None = None

    @property
    def signed(self) -> SignedCheckpoint | None:
        """The last signed checkpoint that this process has seen."""
        return self._signed

    async def begin(self) -> None:
        """Hold the tree against the last checkpoint, that of the database and that of the file beside it.

        Raises:
            ForkedLogError: the tree does not continue one of them.
            DatabaseError: it cannot be read, or the file be read or written.
        """
        tree = await self.present()
        if self._kept is None:
            return
        kept = await self._kept.read()
        if kept is not None:
            await self._check_contains(tree, kept, self._kept)
        if self._signed is not None and (kept is None or kept.size < self._signed.size):
            await self._kept.write(self._signed)

    async def present(self) -> Frontier:
        """The tree; read, and held against the last checkpoint, where this process is not sure of it.

        Raises:
            ForkedLogError: the tree does not continue the checkpoint.
            DatabaseError: it cannot be read.
        """
        if self._tree is None:
            known = self._signed  # as it was before the head is read, which cannot be less then
            head = await self._store.head()
            if head.signed_size > (UNSIGNED if known is None else known.size):
                known = self._key.read(head.checkpoint)
            self._tree = await self._load(head.size, known)
            self._adopt(head)
        return self._tree

    async def refresh(self) -> SignedCheckpoint:
        """The last signed checkpoint, whichever process signed it.

        Raises:
            NoEntryError: none was signed yet.
            ForkedLogError, DatabaseError: it cannot be had.
        """
        self._adopt(await self._store.head())
        if self._signed is None:
            raise NoEntryError("the log has not signed a checkpoint yet; try again")
        return self._signed

    async def append(self, entries_at: Sequence[EntryAt]) -> list[Entry]:
        """Append entries, each made from its index; where another process was quicker, from another one.

        Raises:
            LogContendedError: others were quicker every time.
            ForkedLogError: what they have appended does not continue what was signed.
            DatabaseError: nothing was appended (`CommitUnknownError`: it may have been).
        """
        for _ in range(_ATTEMPTS):
            tree = await self.present()
            entries = [Entry(index, entry_at(index)) for index, entry_at in enumerate(entries_at, start=tree.size)]
            grown, tiles = tree.append([leaf_hash(entry.data) for entry in entries])
            try:
                await self._store.grow(tree.size, [entry.data for entry in entries], tiles)
            except ConflictError:
                self._tree = None
            except BaseException:
                self._tree = None  # the commit may have happened
                raise
            else:
                self._tree = grown
                return entries
        raise LogContendedError(f"other processes appended to this log {_ATTEMPTS} times in between")

    async def sign(self) -> None:
        """Sign what is durable, if it is not signed already.

        Raises:
            KeyAccessError, BadSignatureError: the key cannot sign now.
            LogContendedError: other processes signed, but never all of this tree.
            ForkedLogError: what others have done contradicts it.
            DatabaseError: the checkpoint was not stored (`CommitUnknownError`: it may have been).
        """
        tree = await self.present()
        for _ in range(_ATTEMPTS):
            if self._signed_size >= tree.size:
                return
            previous = self._signed_size
            fresh = await self._key.sign(tree)
            if self._kept is not None:
                await self._kept.write(fresh)
            try:
                await self._store.sign(previous, fresh.size, fresh.note)
            except ConflictError:
                await self.refresh()
            else:
                self._signed = fresh
                return
        raise LogContendedError(f"other processes signed this log {_ATTEMPTS} times in between")

    async def prove(self, plan: ProofPlan) -> tuple[bytes, ...]:
        """The hashes of a proof.

        Raises:
            ForkedLogError: a tile is missing.
            DatabaseError: a tile cannot be read.
        """
        try:
            return tuple(plan.prove(await self._store.tiles(plan.tiles)))
        except ProofError as error:
            raise ForkedLogError(f"the stored log is damaged: {error}") from error

    def _adopt(self, head: Head) -> None:
        if head.signed_size > self._signed_size:
            self._signed = self._key.read(head.checkpoint)

    async def _load(self, size: int, signed: SignedCheckpoint | None) -> Frontier:
        """The tree of this size, if it continues the checkpoint."""
        try:
            tree = Frontier.load(size, await self._store.tiles(edge_tiles(size)))
            if signed is not None:
                await self._verify_continues(tree, signed)
        except ProofError as error:
            raise ForkedLogError(
                f"the stored log of {size} entries does not continue its signed checkpoint: {error}; "
                "nothing is signed before the database that does is restored"
            ) from error
        return tree

    async def _check_contains(self, tree: Frontier, kept: SignedCheckpoint, file: KeptCheckpoint) -> None:
        if tree.size < kept.size:
            raise ForkedLogError(
                f"the stored log has {tree.size} entries, and {kept.size} were signed: the database is an older one, "
                f"perhaps of a backup. Nothing is signed before one with {kept.size} entries or more is restored. "
                "Where there is none any more, this log has ended: another one begins with a new key, a new origin and "
                f"empty tables, once {file.path} is moved away"
            )
        try:
            await self._verify_continues(tree, kept)
        except ProofError as error:
            raise ForkedLogError(
                f"the stored log of {tree.size} entries does not contain the tree of {kept.size} that {file.path} says "
                f"was signed: {error}; it has gone another way since a backup. Restore the database that contains it"
            ) from error

    async def _verify_continues(self, tree: Frontier, signed: SignedCheckpoint) -> None:
        """ProofError where it does not."""
        plan = consistency_plan(signed.size, tree.size)
        proof = plan.prove(await self._store.tiles(plan.tiles))
        verify_consistency(signed.size, tree.size, proof, signed.root, tree.root)

    @property
    def _signed_size(self) -> int:
        return UNSIGNED if self._signed is None else self._signed.size
