"""The last checkpoint outside the database: a log that was restored from an older backup does not go on."""

import asyncio
import shutil
import stat
from pathlib import Path

import pytest

from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.proofs import verify_consistency
from services.chassis.errors import UnavailableError
from services.chassis.tlog import ForkedLogError, RenamedLogError, TileLog
from tests.support.clock import ManualClock
from tests.support.logs import ORIGIN, create_log_schema, opened_log
from tests.support.pki import MemoryKey


@pytest.fixture
def key() -> MemoryKey:
    """The log's key."""
    return MemoryKey.generate("ecdsa-p256")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the last checkpoint is."""
    return tmp_path / "log-checkpoint"


@pytest.fixture
async def url(tmp_path: Path) -> str:
    """A database with a log's tables."""
    url = f"sqlite:///{tmp_path / 'log.sqlite3'}"
    await create_log_schema(url)
    return url


async def append(log: TileLog, *entries: bytes) -> int:
    """Append these, and wait until a checkpoint covers them; the size it has."""
    made = await asyncio.gather(*map(log.append, entries))
    return (await log.proof(max(entry.index for entry in made))).tree_size


async def grow(url: str, key: MemoryKey, file: Path, *entries: bytes) -> int:
    """One life of a process that appends these."""
    async with opened_log(url, key, ManualClock(), kept=file) as log:
        return await append(log, *entries)


def backup(url: str, name: str) -> Path:
    """A copy of the database, which nobody uses now."""
    path = Path(url.removeprefix("sqlite:///"))
    return Path(shutil.copyfile(path, path.with_name(name)))


def restore(url: str, copy: Path) -> None:
    """Put a copy back, as an operator does."""
    path = Path(url.removeprefix("sqlite:///"))
    for sidecar in path.parent.glob(f"{path.name}-*"):
        sidecar.unlink()
    shutil.copyfile(copy, path)


def octets(file: Path) -> bytes:
    """What the file has."""
    return file.read_bytes()


def mode(file: Path) -> int:
    """Who may do what with it."""
    return stat.S_IMODE(file.stat().st_mode)


def put(file: Path, content: bytes) -> None:
    """Give the file another content."""
    file.write_bytes(content)


async def test_every_checkpoint_is_in_the_file_before_it_is_seen(url: str, key: MemoryKey, file: Path) -> None:
    """What a caller is shown is no newer than what the file has; nobody else may read or write the file."""
    async with opened_log(url, key, ManualClock(), kept=file) as log:
        for number in range(3):
            size = await append(log, b"%d" % number)
            assert verify_checkpoint(octets(file), ORIGIN, [log.note_key]).size == size == number + 1
    assert mode(file) == 0o600


@pytest.mark.parametrize("after", [1, 300])
async def test_an_older_database_is_refused(url: str, key: MemoryKey, file: Path, after: int) -> None:
    """The error has both sizes, says that a backup may be the reason, and what to do; the right database goes on."""
    await grow(url, key, file, b"first", b"second")
    old = backup(url, "old")
    await grow(url, key, file, *(b"%d" % number for number in range(after)))
    new = backup(url, "new")
    restore(url, old)
    with pytest.raises(ForkedLogError, match=rf"has 2 entries, and {2 + after} were signed.*restored"):
        await grow(url, key, file, b"a fork")
    restore(url, new)
    assert await grow(url, key, file, b"goes on") == 3 + after


async def test_an_older_database_that_has_grown_again_is_refused(url: str, key: MemoryKey, file: Path) -> None:
    """As many entries, or more, and others: a process without the file has gone on from a backup."""
    await grow(url, key, file, b"first")
    old = backup(url, "old")
    await grow(url, key, file, b"second", b"third")
    restore(url, old)
    for entries in ((b"other", b"others"), (b"more",)):
        async with opened_log(url, key, ManualClock()) as log:
            await append(log, *entries)
        with pytest.raises(ForkedLogError, match="gone another way since a backup"):
            await grow(url, key, file, b"a fork")


async def test_a_file_that_lags_behind_is_brought_up_to_date(url: str, key: MemoryKey, tmp_path: Path) -> None:
    """Two processes with a file each: what the other has signed meanwhile does not stop this one, nor does no file."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    await grow(url, key, mine, b"first")
    before = mine.read_bytes()
    await grow(url, key, other, b"second", b"third")
    assert mine.read_bytes() == before
    async with opened_log(url, key, ManualClock(), kept=mine) as log:
        kept = verify_checkpoint(mine.read_bytes(), ORIGIN, [log.note_key])
        first = verify_checkpoint(before, ORIGIN, [log.note_key])
        assert (first.size, kept.size) == (1, 3)
        verify_consistency(1, 3, await log.consistency(1, 3), first.root, kept.root)


async def test_two_processes_at_once_keep_a_file_each(url: str, key: MemoryKey, tmp_path: Path) -> None:
    """Neither file ever stands in the way of a later start of either."""
    files = tmp_path / "mine", tmp_path / "other"
    for _ in range(2):
        await asyncio.gather(*(grow(url, key, file, *(b"%d" % number for number in range(5))) for file in files))
    for file in files:
        assert await grow(url, key, file, b"later")


async def test_a_checkpoint_that_did_not_reach_the_database_does_no_harm(url: str, key: MemoryKey, file: Path) -> None:
    """Killed after the file and before the commit: the tree is there, and is signed at the next start."""
    await grow(url, key, file, b"first")
    before = backup(url, "before the checkpoint")
    await grow(url, key, file, b"second")
    ahead = octets(file)
    restore(url, before)
    async with opened_log(url, key, ManualClock()) as log:  # the tree that was signed, entry for entry
        await append(log, b"second")
    put(file, ahead)
    assert await grow(url, key, file, b"third") == 3


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"log.example/one\n1\n"])
async def test_a_file_that_is_no_checkpoint_is_not_ignored(
    url: str, key: MemoryKey, file: Path, content: bytes
) -> None:
    """Nothing is signed over something that cannot be read; the sentence names the file."""
    await grow(url, key, file, b"first")
    put(file, content)
    with pytest.raises(ForkedLogError, match="log-checkpoint"):
        await grow(url, key, file, b"second")


async def test_a_file_of_another_key_is_refused(url: str, key: MemoryKey, file: Path, tmp_path: Path) -> None:
    """Somebody else's log, or this one's before it ended."""
    other = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    await create_log_schema(other)
    await grow(other, MemoryKey.generate("ecdsa-p256"), file, b"first")
    with pytest.raises(ForkedLogError, match="log-checkpoint"):
        await grow(url, key, file, b"first")


async def test_what_cannot_be_kept_is_not_published(url: str, key: MemoryKey, file: Path) -> None:
    """The directory is gone: the entry is durable, no checkpoint shows it; when it is back, all of it is signed."""
    directory = file.parent / "state"
    directory.mkdir()
    async with opened_log(url, key, ManualClock(), kept=directory / file.name) as log:
        await append(log, b"first")
        directory.rename(file.parent / "away")
        entry = await log.append(b"second")
        with pytest.raises(UnavailableError, match="cannot be written"):
            await log.proof(entry.index)
        assert (await log.checkpoint()).size == 1
        (file.parent / "away").rename(directory)
        assert await append(log, b"third") == 3


async def test_a_log_keeps_its_name(url: str, key: MemoryKey) -> None:
    """Opened under another origin it says under which it is known."""
    async with opened_log(url, key, ManualClock()) as log:
        await append(log, b"first")
    with pytest.raises(RenamedLogError, match=r"called log.example/one, and was opened as") as caught:
        async with opened_log(url, key, ManualClock(), origin="log.example/two"):
            pass
    assert caught.value.stored == ORIGIN
