import asyncio
import math

import pytest

from services.ca.feed import RevocationLog
from services.ca.wire import RevocationRequest
from services.chassis.errors import DatabaseError
from tests.support.ca_world import ACME, CaWorld

LONG = 60.0  # seconds; far longer than a test may wait


async def _waiting(world: CaWorld) -> "asyncio.Task[None]":
    waiting = asyncio.create_task(world.core.log.wait(world.core.log.last, LONG))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    return waiting


async def test_a_revocation_ends_the_wait(world: CaWorld) -> None:
    """Whoever waits for revocations goes on as soon as there is one."""
    answer = await world.issue("a.example")
    waiting = await _waiting(world)
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=answer.serial))
    async with asyncio.timeout(5):
        await waiting


async def test_closing_ends_the_wait(world: CaWorld) -> None:
    """A process that stops is not held up by those who wait for revocations."""
    waiting = await _waiting(world)
    await world.core.log.close()
    async with asyncio.timeout(5):
        await waiting


async def test_the_log_knows_how_old_its_news_are(world: CaWorld) -> None:
    """From a look that succeeded; one that fails makes it no younger."""
    log = RevocationLog(world.core.store)
    assert log.age() == math.inf
    await log.refresh()
    assert 0 <= log.age() < LONG
    await asyncio.sleep(0.05)
    before = log.age()
    assert before >= 0.05
    await world.database.close()
    with pytest.raises(DatabaseError):
        await log.refresh()
    assert log.age() >= before
