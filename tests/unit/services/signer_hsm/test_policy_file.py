from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy_file import PolicyFile
from tests.support.signer_world import KEY_POLICY, SignerWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service; its policy's file is the test's."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3")
    yield opened
    await opened.close()


def write(path: Path, text: str) -> None:
    """Write the file so that its stamp surely differs."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def version(number: int) -> str:
    """The usual policy with another version."""
    return KEY_POLICY.replace("version = 1", f"version = {number}")


def followed(
    world: SignerWorld, path: Path, *, may_go_back: bool = False, registry: CollectorRegistry | None = None
) -> PolicyFile:
    """The file, followed."""
    metrics = SignerMetrics(registry or CollectorRegistry())
    return PolicyFile(path, world.core.store, world.clock, metrics, may_go_back=may_go_back)


async def test_a_changed_policy_comes_into_force(world: SignerWorld, tmp_path: Path) -> None:
    """A higher version is taken when the file changes, and is on record; an unchanged file is not even read."""
    path = tmp_path / "keys.toml"
    write(path, version(1))
    file = followed(world, path)
    world.core.decisions.policy = await file.load()
    present = world.core.decisions.policy
    await file.look(world.core.decisions)
    assert world.core.decisions.policy is present
    write(path, version(2))
    await file.look(world.core.decisions)
    assert world.core.decisions.policy.version == 2
    newest = await world.core.store.newest_policy()
    assert newest is not None
    assert (newest.version, newest.sha256) == (2, world.core.decisions.policy.sha256)


@pytest.mark.parametrize("text", ["", "no TOML =", version(1), version(2) + "\n[[rules]]\n", "\udcff", "x" * (5 << 20)])
async def test_a_bad_policy_leaves_the_old_one(world: SignerWorld, tmp_path: Path, text: str) -> None:
    """What makes no sense, goes back, or changes without a new version is not taken."""
    path, registry = tmp_path / "keys.toml", CollectorRegistry()
    write(path, version(2))
    file = followed(world, path, registry=registry)
    world.core.decisions.policy = await file.load()
    assert registry.get_sample_value("signer_policy_in_force", {"file": "keys"}) == 1
    before = path.stat().st_mtime_ns
    path.write_bytes(text.encode(errors="surrogateescape"))
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))
    await file.look(world.core.decisions)
    assert world.core.decisions.policy.version == 2
    assert registry.get_sample_value("signer_policy_in_force", {"file": "keys"}) == 0
    path.unlink()
    await file.look(world.core.decisions)
    assert world.core.decisions.policy.version == 2
    write(path, version(3))
    await file.look(world.core.decisions)
    assert world.core.decisions.policy.version == 3
    assert registry.get_sample_value("signer_policy_in_force", {"file": "keys"}) == 1


async def test_no_start_with_an_older_policy(world: SignerWorld, tmp_path: Path) -> None:
    """A restart does not bring back a policy that was replaced, nor one changed under its version; a ceremony may."""
    path = tmp_path / "keys.toml"
    write(path, version(5))
    await followed(world, path).load()
    await followed(world, path).load()
    write(path, version(4))
    with pytest.raises(KeyPolicyError, match="count it up"):
        await followed(world, path).load()
    write(path, version(5).replace("max_keys = 20", "max_keys = 21"))
    with pytest.raises(KeyPolicyError, match="count it up"):
        await followed(world, path).load()
    write(path, version(1))
    assert (await followed(world, path, may_go_back=True).load()).version == 1
    newest = await world.core.store.newest_policy()
    assert newest is not None
    assert newest.version == 5


async def test_a_pipe_in_the_files_place_is_not_waited_for(world: SignerWorld, tmp_path: Path) -> None:
    """What is no regular file is refused at once, and the next good file is taken."""
    path = tmp_path / "keys.toml"
    write(path, version(2))
    file = followed(world, path)
    world.core.decisions.policy = await file.load()
    path.unlink()
    os.mkfifo(path)
    async with asyncio.timeout(5):
        await file.look(world.core.decisions)
    path.unlink()
    write(path, version(3))
    await file.look(world.core.decisions)
    assert world.core.decisions.policy.version == 3


async def test_requests_go_on_while_a_long_policy_is_read(world: SignerWorld, tmp_path: Path) -> None:
    """Reading it is work for a thread: the event loop never waits for the whole of it."""
    path = tmp_path / "keys.toml"
    write(path, "a" + ".a" * 1500 + " = 1\n" + version(2))
    file = followed(world, path)
    looking = asyncio.create_task(file.look(world.core.decisions))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0.001)
        turns += 1
    await looking
    assert turns > 5
    assert world.core.decisions.policy.version == 1
