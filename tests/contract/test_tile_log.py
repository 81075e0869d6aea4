"""A transparency log over either engine: the same tests run on SQLite and on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from pkicore.errors import KeyUnavailableError
from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_consistency, verify_inclusion
from pkicore.tlog.tiles import Tile
from services.chassis.database import Database
from services.chassis.tlog import EntryTooLargeError, NoEntryError, SignedCheckpoint, TileLog
from services.chassis.tlog.store import LogStore
from tests.support.clock import ManualClock
from tests.support.logs import ORIGIN, TABLES, create_log_schema, entry_of, fill_log, opened_log
from tests.support.naive_tree import tree_hash
from tests.support.pki import MemoryKey


@pytest.fixture
def key() -> MemoryKey:
    """The log's key."""
    return MemoryKey.generate("ecdsa-p256")


@pytest.fixture
async def log_url(url: str) -> str:
    """A fresh database with a log's tables."""
    await create_log_schema(url)
    return url


@pytest.fixture
async def log(log_url: str, key: MemoryKey) -> AsyncIterator[TileLog]:
    """An empty log."""
    async with opened_log(log_url, key, ManualClock()) as log:
        yield log


async def verify(log: TileLog, index: int, data: bytes) -> int:
    """The log proves that it has this entry, by a checkpoint of its key; the tree's size."""
    proof = await log.proof(index)
    checkpoint = verify_checkpoint(proof.checkpoint, ORIGIN, [log.note_key])
    assert (checkpoint.size, checkpoint.root) == (proof.tree_size, proof.root)
    verify_inclusion(leaf_hash(data), index, proof.tree_size, proof.hashes, proof.root)
    return proof.tree_size


async def test_entries_are_numbered_and_proved(log: TileLog) -> None:
    """One after the other, and many at once; each has an index of its own from 0 on."""
    first = await log.append(b"first")
    assert (first.index, first.data) == (0, b"first")
    assert await verify(log, 0, b"first") == 1
    many = await asyncio.gather(*(log.append(entry_of(number)) for number in range(600)))
    assert sorted(entry.index for entry in many) == list(range(1, 601))
    await log.proof(600)
    for entry in many[::97]:
        assert await verify(log, entry.index, entry.data) == 601
    everything = await log.entries(0, 601)
    assert everything == [b"first", *(entry.data for entry in sorted(many, key=lambda entry: entry.index))]
    assert tree_hash(everything) == (await log.checkpoint()).root


async def test_an_entry_may_hold_its_own_index(log: TileLog) -> None:
    """What makes it is asked again when the index is known."""
    made = await asyncio.gather(*(log.append(lambda index: b"I am %d" % index) for _ in range(5)))
    assert [entry.data for entry in made] == [b"I am %d" % entry.index for entry in made]


async def first_checkpoint(log: TileLog) -> SignedCheckpoint:
    """As soon as there is one."""
    while True:
        try:
            return await log.checkpoint()
        except NoEntryError:
            await asyncio.sleep(0.01)


async def test_a_new_log_signs_that_it_is_empty(log: TileLog) -> None:
    """There is something to be consistent with before there is anything in it."""
    async with asyncio.timeout(20):
        assert (await first_checkpoint(log)).size == 0


async def test_trees_continue_each_other(log: TileLog) -> None:
    """From every size to every later one that was signed."""
    roots = {}
    for number in range(9):
        proof = await log.proof((await log.append(entry_of(number))).index)
        roots[proof.tree_size] = proof.root
    for first, second in [(1, 9), (3, 4), (4, 8), (7, 9), (9, 9)]:
        verify_consistency(first, second, await log.consistency(first, second), roots[first], roots[second])


async def test_what_is_not_there_is_not_proved(log: TileLog) -> None:
    """Indices beyond the log, sizes beyond the checkpoint or in the wrong order."""
    await log.proof((await log.append(b"only")).index)
    for index in (1, -1, 10**12):
        with pytest.raises(NoEntryError):
            await log.proof(index)
    for first, second in [(0, 2), (1, 0), (-1, 1)]:
        with pytest.raises(NoEntryError):
            await log.consistency(first, second)
    for first, end in [(0, 2), (1, 1), (-1, 1)]:
        with pytest.raises(NoEntryError):
            await log.entries(first, end)
    for tile in (Tile(0, 0, 2), Tile(0, 1, 1), Tile(1, 0, 1), Tile(None, 0, 1)):
        with pytest.raises(NoEntryError):
            await log.tile(tile)


async def test_an_entry_has_a_largest_size(log: TileLog) -> None:
    """What no bundle can hold is refused, and the others of the moment are not."""
    kept, refused = await asyncio.gather(log.append(b"k" * 65535), log.append(b"x" * 65536), return_exceptions=True)
    assert isinstance(refused, EntryTooLargeError)
    assert not isinstance(kept, BaseException)
    assert kept.index == 0


async def test_a_log_goes_on_where_it_ended(log_url: str, key: MemoryKey) -> None:
    """Over a border of tiles, in several lives of the process."""
    sizes = []
    for life in range(3):
        async with opened_log(log_url, key, ManualClock()) as log:
            made = await asyncio.gather(*(log.append(b"%d.%d" % (life, n)) for n in range(200)))
            sizes.append(await verify(log, made[7].index, made[7].data))
            await verify(log, 0, b"0.0")
    assert sizes == [200, 400, 600]


async def test_two_processes_never_fork_a_log(log_url: str, key: MemoryKey) -> None:
    """Both append at once to one database: every entry has its own index, and either proves all of them."""
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(opened_log(log_url, key, ManualClock())) for _ in range(2)]
        made = []
        for number in range(8):
            wanted = (log.append(b"%d %d" % (number, n)) for n, log in enumerate((one, other, one, other)))
            made += await asyncio.gather(*wanted)
        assert sorted(entry.index for entry in made) == list(range(32))
        for entry in made:
            await verify(one, entry.index, entry.data)
            await verify(other, entry.index, entry.data)
        entries = await one.entries(0, 32)
        assert tree_hash(entries) == (await other.checkpoint()).root


async def test_a_key_that_is_away_delays_proofs_and_nothing_else(log_url: str, key: MemoryKey) -> None:
    """Entries are durable without it; who asks for a proof is told, and gets it when the key is back."""
    away = AwayKey(key)
    async with opened_log(log_url, away, ManualClock()) as log:
        entry = await log.append(b"while the key is away")
        with pytest.raises(KeyUnavailableError):
            await log.proof(entry.index)
        away.is_away = False
        while True:
            try:
                assert await verify(log, entry.index, entry.data) == 1
            except KeyUnavailableError:
                continue
            break


class AwayKey(MemoryKey):
    """A key whose holder does not answer, until it does."""

    def __init__(self, key: MemoryKey) -> None:
        super().__init__(key.private_key)
        self.is_away = True

    async def sign(self, message: bytes) -> bytes:
        """Signs, or not."""
        if self.is_away:
            raise KeyUnavailableError("no answer")
        return await super().sign(message)


async def test_a_large_log_is_opened_and_proved_from_its_edge(log_url: str, key: MemoryKey) -> None:
    """Two levels of tiles."""
    database = await Database.open(log_url, clock=ManualClock())
    tree = await fill_log(database, 3_000)
    assert (await LogStore(database, TABLES).head()).size == tree.size
    await database.close()
    async with opened_log(log_url, key, ManualClock()) as log:
        for index in (0, 255, 256, 2_815, 2_816, 2_999):
            assert await verify(log, index, entry_of(index)) == 3_000
