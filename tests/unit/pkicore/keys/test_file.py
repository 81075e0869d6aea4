"""Keys in files."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key, verify_signature
from pkicore.errors import (
    KeyAccessError,
    KeyLockedError,
    KeyNotFoundError,
    KeyPermissionError,
    MalformedError,
    UnsupportedError,
)
from pkicore.keys import open_key
from pkicore.keys.file import FileKey, create_file_key, load_file_key

PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Where unlocking and slow signatures run."""
    with ThreadPoolExecutor(2, thread_name_prefix="keys") as pool:
        yield pool


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-87"])
async def test_create_open_and_sign(name: str, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """A key comes back from its file as the same key, and the file is 0600 and names no secret."""
    path = tmp_path / "a.key"
    public_key = create_file_key(path, ALGORITHMS[name], PASSPHRASE)
    asked: list[str] = []

    def secrets(uri: str) -> bytes:
        asked.append(uri)
        return PASSPHRASE

    key = await open_key(f"file:{path}", secrets=secrets, pool=pool)
    assert asked == [f"file:{path}"] == [key.uri]
    assert key.algorithm is ALGORITHMS[name]
    assert key.public_key == public_key
    verify_signature(public_key, await key.sign(b"message"), b"message")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSPHRASE not in path.read_bytes()
    assert os.listdir(tmp_path) == ["a.key"]  # noqa: PTH208 - one short call in a test
    assert repr(key) == f"FileKey('file:{path}', {name})"


async def test_a_wrong_passphrase_says_nothing_more(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The error names neither passphrase nor cause, and carries no chained exception."""
    path = tmp_path / "a.key"
    create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)
    with pytest.raises(KeyLockedError) as caught:
        await load_file_key(path, b"wrong horse", pool)
    assert "wrong horse" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key at the same path is refused, and the first stays as it was."""
    path = tmp_path / "a.key"
    create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)
    before = path.read_bytes()
    with pytest.raises(KeyAccessError, match="never overwritten"):
        create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)
    assert path.read_bytes() == before


def test_two_writers_make_one_key(tmp_path: Path) -> None:
    """Of several processes or threads that race for a path one wins, and the others are told."""
    path = tmp_path / "a.key"
    barrier, outcomes = threading.Barrier(3), list[str]()

    def create() -> None:
        barrier.wait()
        try:
            create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)
            outcomes.append("made")
        except KeyAccessError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", "refused", "refused"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_given_key_must_be_of_the_algorithm(tmp_path: Path) -> None:
    """A P-384 key is not written as a P-256 key, and an empty passphrase protects nothing."""
    key = generate_private_key(ALGORITHMS["ecdsa-p384"])
    with pytest.raises(MalformedError, match="ecdsa-p256"):
        create_file_key(tmp_path / "a.key", ALGORITHMS["ecdsa-p256"], PASSPHRASE, key)
    with pytest.raises(KeyLockedError, match="passphrase"):
        create_file_key(tmp_path / "a.key", ALGORITHMS["ecdsa-p384"], b"", key)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    """The sentence says which path could not be written."""
    path = tmp_path / "nowhere" / "a.key"
    with pytest.raises(KeyAccessError, match="nowhere"):
        create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
async def test_files_open_to_others_are_refused(mode: int, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Any bit for group or world is enough, and the error says what to do."""
    path = tmp_path / "a.key"
    create_file_key(path, ALGORITHMS["ed25519"], PASSPHRASE)
    path.chmod(mode)
    with pytest.raises(KeyPermissionError, match="chmod 600"):
        await load_file_key(path, PASSPHRASE, pool)


async def test_what_is_no_key_file(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Nothing, a directory, a FIFO that nobody writes to, and rubbish each have their own error, at once."""
    with pytest.raises(KeyNotFoundError):
        await load_file_key(tmp_path / "missing", PASSPHRASE, pool)
    (tmp_path / "dir").mkdir(mode=0o700)
    with pytest.raises(KeyPermissionError, match="plain file"):
        await load_file_key(tmp_path / "dir", PASSPHRASE, pool)
    os.mkfifo(tmp_path / "fifo", 0o600)
    async with asyncio.timeout(5):
        with pytest.raises(KeyPermissionError, match="plain file"):
            await load_file_key(tmp_path / "fifo", PASSPHRASE, pool)
    rubbish = tmp_path / "rubbish"
    rubbish.touch(0o600)
    rubbish.write_bytes(b"-----BEGIN PRIVATE KEY-----")
    with pytest.raises(MalformedError):
        await load_file_key(rubbish, PASSPHRASE, pool)


@pytest.mark.parametrize("uri", ["pkcs11:token=x", "", "file:relative/path", "file:", "FILE:/x"])
async def test_uris_that_are_not_offered(uri: str, pool: ThreadPoolExecutor) -> None:
    """Another scheme or a relative path is refused before any secret is asked for."""

    def secrets(uri: str) -> bytes:
        raise AssertionError(uri)

    with pytest.raises(UnsupportedError, match="file"):
        await open_key(uri, secrets=secrets, pool=pool)


@pytest.mark.parametrize(("name", "threads"), [("ecdsa-p256", 0), ("ed25519", 0), ("ml-dsa-44", 1), ("rsa-2048", 1)])
async def test_slow_signatures_leave_the_loop(name: str, threads: int) -> None:
    """RSA and ML-DSA sign in the pool that was handed in; the quick ones start no thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"sign-{name}")
    key = FileKey("file:/x", generate_private_key(ALGORITHMS[name]), pool)
    await key.sign(b"message")
    found = [thread for thread in threading.enumerate() if thread.name.startswith(f"sign-{name}")]
    pool.shutdown()
    assert len(found) == threads
