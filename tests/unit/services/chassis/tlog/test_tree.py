"""What a log does when its database or its key is not what it was."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from pkicore.errors import BadSignatureError, UnsupportedError
from pkicore.tlog.checkpoint import verify_checkpoint
from services.chassis.database import Database
from services.chassis.errors import ConflictError, DatabaseError, UnavailableError
from services.chassis.tlog import ForkedLogError, TileLog
from services.chassis.tlog.checkpoints import CheckpointKey
from services.chassis.tlog.store import LogStore
from services.chassis.tlog.tree import StoredTree
from tests.support.clock import ManualClock
from tests.support.logs import ORIGIN, OTHER_TABLES, TABLES, create_log_schema, opened_log
from tests.support.pki import MemoryKey


@pytest.fixture
def key() -> MemoryKey:
    """The log's key."""
    return MemoryKey.generate("ecdsa-p256")


@pytest.fixture
async def url(tmp_path: Path) -> str:
    """A database with a log's tables."""
    url = f"sqlite:///{tmp_path / 'log.sqlite3'}"
    await create_log_schema(url)
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    database = await Database.open(url, clock=ManualClock())
    yield database
    await database.close()


async def fill(url: str, key: MemoryKey, count: int) -> bytes:
    """Append so many entries; the checkpoint that covers them."""
    async with opened_log(url, key, ManualClock()) as log:
        made = await asyncio.gather(*(log.append(b"%d" % number) for number in range(count)))
        return (await log.proof(max(entry.index for entry in made))).checkpoint


async def open_and_close(url: str, key: MemoryKey, origin: str = ORIGIN) -> None:
    """As a process that starts does."""
    async with opened_log(url, key, ManualClock(), origin=origin):
        pass


def tamper(url: str, statement: str) -> None:
    """Change the file behind the service's back."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute(statement).rowcount > 0
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE one_tiles SET hashes = zeroblob(320) WHERE level = 0",
        "DELETE FROM one_tiles",
        "UPDATE one_head SET size = 9",
        "UPDATE one_head SET size = 11",
        "UPDATE one_head SET checkpoint = x'00'",
        "UPDATE one_head SET signed_size = 9, size = 9",
    ],
)
async def test_a_log_that_contradicts_its_checkpoint_does_not_start(url: str, key: MemoryKey, statement: str) -> None:
    """Other hashes, missing ones, a tree that shrank or grew by itself, a checkpoint that is none."""
    await fill(url, key, 10)
    tamper(url, statement)
    with pytest.raises(ForkedLogError):
        await open_and_close(url, key)


async def test_a_log_is_bound_to_its_key_and_its_name(url: str, key: MemoryKey) -> None:
    """Another key or origin would begin a second history over the first one's numbers."""
    await fill(url, key, 1)
    with pytest.raises(ForkedLogError, match="its key and its database"):
        await open_and_close(url, MemoryKey.generate("ecdsa-p256"))
    with pytest.raises(ForkedLogError):
        await open_and_close(url, key, "log.example/two")
    await open_and_close(url, key)


@pytest.mark.parametrize("algorithm", ["rsa-2048", "ml-dsa-44", "ecdsa-p521"])
async def test_keys_that_sign_no_notes(database: Database, algorithm: str) -> None:
    """Refused when the log is opened, not when the first checkpoint is due."""
    with pytest.raises(UnsupportedError):
        await TileLog.open(database, TABLES, key=MemoryKey.generate(algorithm), origin=ORIGIN)


async def test_two_logs_of_one_database_are_apart(database: Database, key: MemoryKey) -> None:
    """Each has tables and numbers of its own."""
    one = await TileLog.open(database, TABLES, key=key, origin=ORIGIN)
    other = await TileLog.open(database, OTHER_TABLES, key=key, origin="log.example/other")
    assert [(await log.append(b"same")).index for log in (one, other, one)] == [0, 0, 1]
    assert b"log.example/other" in (await other.proof(0)).checkpoint
    await one.close()
    await other.close()


class LyingKey(MemoryKey):
    """A key whose holder signs something else."""

    async def sign(self, message: bytes) -> bytes:
        """Signs, but not this."""
        return await super().sign(message + b"!")


async def test_a_wrong_signature_is_never_published(url: str, key: MemoryKey) -> None:
    """It is verified before it is stored; the next honest one covers everything."""
    async with opened_log(url, LyingKey(key.private_key), ManualClock()) as log:
        await log.append(b"entry")
        with pytest.raises(BadSignatureError):
            await log.proof(0)
    async with opened_log(url, key, ManualClock()) as log:
        proof = await log.proof(0)
        assert verify_checkpoint(proof.checkpoint, ORIGIN, [log.note_key]).size == 1


async def test_a_tree_of_another_process_is_never_overwritten(database: Database, key: MemoryKey) -> None:
    """Whoever appends to a tree that has grown meanwhile has written nothing; likewise for checkpoints."""
    store = LogStore(database, TABLES)
    await store.begin()
    stale, checkpoint_key = StoredTree(store, CheckpointKey(key, ORIGIN)), CheckpointKey(key, ORIGIN)
    before = await stale.present()
    fresh = StoredTree(store, checkpoint_key)
    await fresh.append([lambda _: b"theirs"])
    await fresh.sign()
    grown, tiles = before.append([b"\0" * 32])
    with pytest.raises(ConflictError):
        await store.grow(before.size, [b"ours"], tiles)
    with pytest.raises(ConflictError):
        await store.sign(-1, grown.size, b"ours")
    assert await store.entries(0, 9) == [b"theirs"]
    (entry,) = await stale.append([lambda _: b"ours"])
    assert entry.index == 1
    await stale.sign()
    assert (await fresh.refresh()).size == 2


async def test_a_database_that_fails_loses_the_batch_alone(tmp_path: Path, url: str, key: MemoryKey) -> None:
    """Whoever waits is told; when the database is back the log goes on without a gap."""
    async with opened_log(url, key, ManualClock()) as log:
        await log.append(b"0")
        await log.proof(0)
        blocker = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
        blocker.execute("DROP TABLE one_entries")
        with pytest.raises(DatabaseError):
            await log.append(b"lost")
        blocker.execute("CREATE TABLE one_entries (position BIGINT PRIMARY KEY, entry BLOB NOT NULL)")
        blocker.execute("INSERT INTO one_entries VALUES (0, x'30')")
        blocker.close()
        entry = await log.append(b"1")
        assert entry.index == 1
        await log.proof(1)
        assert await log.entries(0, 2) == [b"0", b"1"]


async def test_a_closed_log_takes_nothing(url: str, key: MemoryKey) -> None:
    """What has queued before is appended; what comes later is refused."""
    async with opened_log(url, key, ManualClock()) as log:
        queued = [asyncio.create_task(log.append(b"%d" % number)) for number in range(3)]
        await asyncio.sleep(0)
    assert [entry.index for entry in await asyncio.gather(*queued)] == [0, 1, 2]
    with pytest.raises(UnavailableError):
        await log.append(b"late")


async def test_a_caller_that_goes_away_takes_nobody_along(url: str, key: MemoryKey) -> None:
    """Its entry may be appended; the others of the batch are."""
    async with opened_log(url, key, ManualClock()) as log:
        gone, stays = asyncio.create_task(log.append(b"gone")), asyncio.create_task(log.append(b"stays"))
        await asyncio.sleep(0)
        gone.cancel()
        entry = await stays
        assert (await log.proof(entry.index)).tree_size > entry.index


def maker_of(fault: type[Exception]) -> Callable[[int], bytes]:
    """Makes no entry once its index is known."""

    def make(index: int) -> bytes:
        if index:
            raise fault
        return b""

    return make


async def test_a_maker_that_fails_does_not_end_the_log(url: str, key: MemoryKey) -> None:
    """A mistake in one batch is that batch's."""
    async with opened_log(url, key, ManualClock()) as log:
        await log.append(b"0")
        with pytest.raises(UnavailableError, match="ZeroDivisionError"):
            await log.append(maker_of(ZeroDivisionError))
        assert (await log.append(b"1")).index == 1
