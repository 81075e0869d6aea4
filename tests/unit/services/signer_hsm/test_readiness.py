"""What `/readyz` learns of the database and the keys, and how soon, without requests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.ops import Readiness
from services.signer_hsm.backends.file import open_backend
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.settings import BackendSettings
from services.signer_hsm.client import SignerUnavailableError
from services.signer_hsm.errors import UnavailableError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.readiness import BACKENDS, DATABASE, ReadinessWatch
from tests.support.backend_file import file_settings
from tests.support.signer_world import CA, MemoryBackend, MemoryDevice, SignerWorld

DIGEST = bytes(32)


class Watched:
    """A watch with a clock of its own, and what it says."""

    def __init__(self, world: SignerWorld, *backends: GuardedBackend) -> None:
        """Over the world's database and these back ends."""
        self.seconds = 100.0
        self.readiness = Readiness(DATABASE, BACKENDS)
        guarded = {backend.name: backend for backend in backends}
        self.watch = ReadinessWatch(world.core.store, guarded, self.readiness, lambda: self.seconds)

    async def can_write(self, later: float = 0.0) -> bool:
        """What it says of the database after so many seconds."""
        self.seconds += later
        await self.watch.look_at_database()
        return DATABASE not in self.readiness.reasons

    async def reason(self) -> str | None:
        """What it says of the back ends."""
        await self.watch.look_at_backends()
        return self.readiness.reasons.get(BACKENDS)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service with one key."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3")
    await opened.make("ca.issuing")
    yield opened
    await opened.close()


async def test_commits_are_the_probe_while_there_are_any(world: SignerWorld) -> None:
    """A quiet service writes once in five seconds, a busy one never for this alone."""
    watched = Watched(world)
    for _ in range(20):
        await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
        assert await watched.can_write(1.0)
    assert world.commits.count("probe") == 0
    for _ in range(20):
        assert await watched.can_write(1.0)
    assert world.commits.count("probe") == 4


async def test_a_probe_reaches_the_disk(world: SignerWorld, tmp_path: Path) -> None:
    """SQLite would not write a page whose content stays the same; the probe's is written, and leaves no row."""
    log = tmp_path / "s.sqlite3-wal"
    before = log.stat().st_size, log.read_bytes()
    await world.core.store.probe()
    assert (log.stat().st_size, log.read_bytes()) != before
    with sqlite3.connect(tmp_path / "s.sqlite3") as other:
        assert other.execute("SELECT count(*) FROM idempotency WHERE idempotency_key = 'probe'").fetchone() == (0,)


async def test_a_locked_database_and_its_release(world: SignerWorld, tmp_path: Path) -> None:
    """Without any request: not ready some seconds after another process has locked it, and ready soon afterwards."""
    watched = Watched(world)
    assert await watched.can_write()
    with sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await watched.can_write(5.0)
        assert not await watched.can_write(1.0)
        other.execute("ROLLBACK")
    assert await watched.can_write(2.0)


async def test_a_failed_commit_is_heard_of_at_once(world: SignerWorld, tmp_path: Path) -> None:
    """A request that could not be recorded makes the service unready, before any probe; a success ends it."""
    watched = Watched(world)
    assert await watched.can_write()
    with sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(SignerUnavailableError):
            await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
        assert not await watched.can_write()
        other.execute("DROP TRIGGER full")
    await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    assert await watched.can_write()


async def test_a_key_directory_that_is_away(world: SignerWorld, tmp_path: Path) -> None:
    """Without its keys' directory a machine is not ready, and again once it is there; nor over another directory."""
    settings, metrics = file_settings(tmp_path), SignerMetrics(CollectorRegistry())
    seconds = [0.0]
    backend = await open_backend(settings, clock=world.clock)
    guarded = GuardedBackend(backend, settings, metrics, monotonic=lambda: seconds[0])
    watched = Watched(world, guarded)
    assert await watched.reason() is None
    settings.directory.rename(tmp_path / "away")
    seconds[0] += 1
    assert await watched.reason() == "file: the key directory cannot be used"
    (tmp_path / "away").rename(settings.directory)
    seconds[0] += 1
    assert await watched.reason() is None
    await guarded.aclose()


def memory_backend(world: SignerWorld, kind: str, *, ready: bool) -> GuardedBackend:
    """A back end of this type that says so of itself."""
    device = MemoryDevice()
    if not ready:
        device.fail("health", UnavailableError("away"))
    settings = BackendSettings.model_validate({"name": kind})
    return GuardedBackend(MemoryBackend(kind, device, world.clock, kind), settings, SignerMetrics(CollectorRegistry()))


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ({"vault": False}, None),
        ({"pkcs11": False}, None),
        ({"file": False}, "file: the key directory cannot be used"),
        ({"file": False, "vault": True}, None),
        ({"file": False, "vault": False}, "file: the key directory cannot be used"),
        ({"file": False, "pkcs11": True}, None),
    ],
)
async def test_what_all_processes_share_is_no_reason(
    world: SignerWorld, present: dict[str, bool], reason: str | None
) -> None:
    """A sealed Vault is sealed for every process; and while another back end signs, this one is of use."""
    backends = [memory_backend(world, kind, ready=ready) for kind, ready in present.items()]
    assert await Watched(world, *backends).reason() == reason
