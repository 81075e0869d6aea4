"""Slots that accounts share fairly."""

from __future__ import annotations

import asyncio

import pytest

from services.acme.errors import AcmeError
from services.acme.fair_slots import FairSlots


class Work:
    """What takes a slot each; it says who has begun, and ends when it is told to."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        self.slots = FairSlots(concurrent, waiting, "tries")
        self.begun: list[str] = []
        self.tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._ends: dict[str, list[asyncio.Event]] = {}

    async def ask(self, account: str, times: int = 1) -> None:
        """Begin as much work of an account, as far as there are slots."""
        for _ in range(times):
            self.tasks.setdefault(account, []).append(asyncio.create_task(self._run(account)))
        await self.settled()

    async def end(self, account: str) -> None:
        """End what an account has had running for longest."""
        self._ends[account].pop(0).set()
        await self.settled()

    async def settled(self) -> None:
        """Whoever can go on has."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def _run(self, account: str) -> None:
        end = asyncio.Event()
        async with self.slots.one(account):
            self.begun.append(account)
            self._ends.setdefault(account, []).append(end)
            await end.wait()

    async def stop(self) -> None:
        """Give up all of it."""
        every = [task for tasks in self.tasks.values() for task in tasks]
        for task in every:
            task.cancel()
        await asyncio.gather(*every, return_exceptions=True)


async def test_who_has_nothing_is_served_at_once() -> None:
    """An account that asks for everything leaves a quarter of the slots to those who have none."""
    work = Work(8, 100)
    await work.ask("slow", 50)
    assert work.begun == ["slow"] * 6
    await work.ask("victim", 2)
    assert work.begun[6:] == ["victim"]
    await work.ask("other")
    assert work.begun[7:] == ["other"]
    await work.stop()


async def test_turns_go_round() -> None:
    """A slot that is free again goes to the account with the fewest, and among equals round and round."""
    work = Work(2, 100)
    await work.ask("a", 3)
    await work.ask("b", 3)
    await work.ask("c", 2)
    assert work.begun == ["a", "a"]
    await work.end("a")
    assert work.begun[2:] == ["b"]
    await work.end("a")
    assert work.begun[3:] == ["c"]
    await work.end("b")
    assert work.begun[4:] == ["a"]
    await work.end("c")
    assert work.begun[5:] == ["b"]
    await work.stop()


async def test_there_is_room_to_wait_for_who_has_nothing() -> None:
    """A full queue refuses those who are in it; another still gets a place, and the next free slot."""
    work = Work(1, 2)
    await work.ask("slow", 4)
    with pytest.raises(AcmeError, match="too many tries are waiting") as refused:
        await work.tasks["slow"][-1]
    assert (refused.value.acme_type, refused.value.headers) == ("rateLimited", ((b"retry-after", b"5"),))
    await work.ask("victim")
    await work.end("slow")
    assert work.begun == ["slow", "victim"]
    await work.stop()


async def test_who_gives_up_leaves_no_trace() -> None:
    """Neither a place to wait nor a slot is lost by cancellation, even where the slot comes in that moment."""
    work = Work(1, 1)
    await work.ask("a")
    await work.ask("b")
    work.tasks["b"][0].cancel()
    await work.ask("c")
    work._ends["a"].pop().set()  # ends without letting the next one begin
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    work.tasks["c"][0].cancel()
    await work.ask("d")
    assert work.begun[-1] == "d"
    await work.stop()
    await work.ask("e")
    assert work.begun[-1] == "e"
    await work.stop()
