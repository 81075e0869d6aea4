"""Entries of the log that belong to no record: requests that failed after they were logged. They do no harm."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.signing.metrics import SigningMetrics
from services.signing.upkeep import Upkeep
from tests.contract.test_signing_attacks import post
from tests.support.signing_world import SigningWorld, request

LOGGED = request(profile="witnessed", formats=["dsse"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service with a log."""
    opened = await SigningWorld.open(tmp_path, witnesses=True)
    yield opened
    await opened.close()


def rename(world: SigningWorld, table: str, name: str) -> None:
    """Behind the service's back."""
    with closing(sqlite3.connect(world.url.removeprefix("sqlite:///"))) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {name}")
        connection.commit()


async def unrecorded(world: SigningWorld) -> float | None:
    """As the metric has it after a round of upkeep."""
    registry = CollectorRegistry()
    store, objects = world.core.store, world.core.objects
    upkeep = Upkeep(store, objects, SigningMetrics(registry), world.clock, timedelta(days=7), world.log)
    await upkeep.count_unrecorded()
    return registry.get_sample_value("signing_unrecorded_log_entries")


async def test_entries_of_records_are_all_accounted_for(world: SigningWorld) -> None:
    """As many as signatures that were logged, for requests of any size, with a log or without."""
    await world.sign(LOGGED)
    await world.sign(request(b"one", b"two", profile="witnessed"))
    await world.sign(request(profile="hybrid"))
    assert world.log is not None
    assert await world.log.size() == await world.core.store.recorded_log_entries() > 2
    assert await unrecorded(world) == 0


async def test_a_request_whose_last_commit_fails_leaves_entries_that_are_counted(world: SigningWorld) -> None:
    """The entries stay, provable as ever; the same request afterwards is signed, logged anew, and on record once."""
    await world.sign(LOGGED)
    rename(world, "artefacts", "away")
    assert (await post(world, LOGGED, **{"idempotency-key": "k"})).status_code >= 500
    rename(world, "away", "artefacts")
    assert world.log is not None
    size, lost = await world.log.size(), await unrecorded(world)
    assert lost == 2  # a signature of each key over the summary
    entry = await world.log.entry(size - 1)
    assert entry.index == size - 1
    answer = await post(world, LOGGED, **{"idempotency-key": "k"})
    assert answer.status_code == 201
    assert answer.json()["log"]["index"] >= size
    assert await unrecorded(world) == lost
    assert len(await world.audit("signature.created")) == 2


async def test_what_cannot_be_counted_is_said_and_nothing_else(world: SigningWorld) -> None:
    """Upkeep goes on where the database does not answer."""
    await world.sign(LOGGED)
    rename(world, "counters", "away")
    assert await unrecorded(world) in {None, 0.0}
    rename(world, "away", "counters")
    assert await unrecorded(world) == 0


async def test_a_service_without_a_log_counts_nothing(tmp_path: Path) -> None:
    """The metric stays at nought."""
    world = await SigningWorld.open(tmp_path)
    await world.sign(request())
    assert await unrecorded(world) == 0
    await world.close()
