from __future__ import annotations

import asyncio

import pytest

from services.acme.background import Background
from services.acme.errors import AcmeError


async def test_one_task_per_piece_of_work() -> None:
    """Work that is under way is joined, and has one outcome; work that has ended can be started again."""
    background, gate, starts = Background(), asyncio.Event(), list[int]()

    async def work() -> str:
        starts.append(1)
        await gate.wait()
        return f"start {len(starts)}"

    first = background.run("a", work)
    assert background.run("a", work) is first
    assert background.run("b", work) is not first
    assert await background.outcome(first, 0.01) is None
    gate.set()
    assert await background.outcome(first, 1) == "start 2"
    await asyncio.sleep(0)
    assert len(starts) == 2
    assert await background.outcome(background.run("a", work), 1) == "start 3"


async def test_waiting_does_not_cancel() -> None:
    """A request that stops waiting leaves the work alone."""
    background, gate, done = Background(), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    task = background.run("a", work)
    waiting = asyncio.create_task(background.outcome(task, 10))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await task
    assert done == [1]


async def test_refusals_reach_whoever_waits() -> None:
    """The refusal that ends a task is raised to the request that waited for it."""
    background = Background()

    async def work() -> None:
        raise AcmeError("rateLimited", "later")

    with pytest.raises(AcmeError, match="later"):
        await background.outcome(background.run("a", work), 1)
    assert not background.is_busy


async def test_close_stops_everything() -> None:
    """Closing cancels what is under way and waits for its end."""
    background = Background()
    task = background.run("a", lambda: asyncio.sleep(60))
    await asyncio.sleep(0)
    await background.close()
    assert task.cancelled()
    assert not background.is_busy
