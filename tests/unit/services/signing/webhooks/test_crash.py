import asyncio
import signal
import sys
from pathlib import Path

import pytest

from services.signing.webhooks.courier import LEASE_SECONDS
from tests.support.webhook_receiver import WebhookReceiver
from tests.support.webhook_world import webhook_world

ROOT = Path(__file__).parents[5]


@pytest.mark.parametrize(("when", "times"), [("before", 2), ("after", 1)])
async def test_courier_killed_around_the_mark_loses_nothing(tmp_path: Path, when: str, times: int) -> None:
    """Killed before it keeps that a receiver took it, the courier sends it again with its id; killed after, not."""
    async with WebhookReceiver() as receiver, webhook_world(tmp_path) as world:
        await world.receiver(f"http://hook.test:{receiver.port}/")
        await world.happens("evt_1")
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.crashing_courier",
            str(tmp_path / "signing.sqlite3"),
            world.dns.address,
            when,
            cwd=ROOT,
        )
        assert await program.wait() == -signal.SIGKILL
        assert len(receiver.received) == 1
        await world.deliver()
        assert len(receiver.received) == 1  # the lease of the dead process holds
        world.later(LEASE_SECONDS)
        await world.deliver()
        assert [got.id for got in receiver.received] == ["evt_1"] * times
        assert (await world.one("delivered")).attempts == times
