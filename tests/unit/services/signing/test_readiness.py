"""What `/readyz` learns of the database and of signer-hsm, without requests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pkicore.errors import KeyUnavailableError
from pkicore.keys.remote import RemotePublicKey
from services.chassis.observability import HttpMetrics
from services.chassis.ops import Readiness, ops_application
from services.signer_hsm.client import ForbiddenError
from services.signing.readiness import DATABASE, FINE_SECONDS, PATIENCE_SECONDS, SIGNER, ReadinessWatch
from tests.support.signing_world import SigningWorld, SwitchableSigner

KEY = "acme.artefact-es256"


class Watched:
    """A watch over a world, and what it says."""

    def __init__(self, world: SigningWorld, key_id: str | None = KEY) -> None:
        """Over its database and its signer."""
        self.readiness = Readiness(DATABASE, SIGNER)
        self.watch = ReadinessWatch(world.core.store.probe, world.signer, key_id, self.readiness)

    async def waiting(self) -> set[str]:
        """The conditions that do not hold after a look at both."""
        fine = {DATABASE: await self.watch.look_at_database(), SIGNER: await self.watch.look_at_signer()}
        assert {name for name, holds in fine.items() if not holds} == set(self.readiness.reasons)
        return set(self.readiness.reasons)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service."""
    opened = await SigningWorld.open(tmp_path)
    yield opened
    await opened.close()


async def test_nothing_is_ready_before_the_first_look(world: SigningWorld) -> None:
    """Both conditions stand from the start, and both hold after a look."""
    watched = Watched(world)
    assert set(watched.readiness.reasons) == {"database", "signer-hsm"}
    assert await watched.waiting() == set()


async def test_signer_that_is_away_and_comes_back(world: SigningWorld) -> None:
    """Not ready while it does not answer, with a reason that says so; ready once it does."""
    watched = Watched(world)
    world.signer.fault = KeyUnavailableError("away")
    assert await watched.waiting() == {SIGNER}
    assert "does not answer" in watched.readiness.reasons[SIGNER]
    world.signer.fault = None
    assert await watched.waiting() == set()


async def test_signer_that_keeps_silent_is_noticed_in_time(world: SigningWorld) -> None:
    """An open connection without an answer is as good as none: the look ends long before a signature would."""

    class Silent(SwitchableSigner):
        async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
            await asyncio.sleep(3600)
            return await super().public_key(key_id, version)

    readiness = Readiness(SIGNER)
    watch = ReadinessWatch(world.core.store.probe, Silent(world.signer.signer), KEY, readiness)
    async with asyncio.timeout(20):
        assert not await watch.look_at_signer()
    assert "does not answer" in readiness.reasons[SIGNER]
    assert FINE_SECONDS + PATIENCE_SECONDS <= 5


async def test_signer_that_refuses_one_key_is_there(world: SigningWorld) -> None:
    """A key that may not be used, or is not there, is no reason to send nobody here; nor is having no keys at all."""
    world.signer.fault = ForbiddenError("no")
    assert await Watched(world).waiting() == set()
    world.signer.fault = KeyUnavailableError("away")
    assert await Watched(world, None).waiting() == set()


async def test_database_that_cannot_be_written_and_its_cure(world: SigningWorld, tmp_path: Path) -> None:
    """Not ready while nothing can be written, and the probe leaves no row."""
    watched = Watched(world)
    with sqlite3.connect(tmp_path / "signing.sqlite3", isolation_level=None) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON idempotency BEGIN SELECT RAISE(ABORT, 'full'); END")
        assert await watched.waiting() == {DATABASE}
        other.execute("DROP TRIGGER full")
        assert await watched.waiting() == set()
        assert other.execute("SELECT count(*) FROM idempotency").fetchone() == (0,)


async def test_ops_listener_names_what_is_missing(world: SigningWorld) -> None:
    """`/readyz` answers 503 with the conditions that do not hold, and 200 when all do."""
    registry = CollectorRegistry()
    watched = Watched(world)
    app = ops_application("signing", registry, watched.readiness, HttpMetrics(registry))
    world.signer.fault = KeyUnavailableError("away")
    await watched.waiting()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops") as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, set(answer.json()["waiting"])) == (503, {SIGNER})
        world.signer.fault = None
        await watched.waiting()
        assert (await http.get("/readyz")).status_code == 200
