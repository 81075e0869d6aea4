import asyncio

from services.ca.wire import RevocationRequest
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
