"""Jobs go to threads and results come back; what is full, hung, given up or closed is told at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import TypeVarTuple

import pytest

from services.signer_hsm.backends.lane import CLOSE_SECONDS, Lane, lane_of
from services.signer_hsm.errors import BusyError, UnavailableError
from tests.support.hang import GENEROUS, Hang

Args = TypeVarTuple("Args")


@asynccontextmanager
async def lane(workers: int = 2, queue: int = 4, initializer: Callable[[], None] | None = None) -> AsyncIterator[Lane]:
    """A lane that is closed in the end."""
    made = Lane("hsm", workers, queue, initializer=initializer)
    try:
        yield made
    finally:
        await made.aclose()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(GENEROUS):
        while not condition():  # noqa: ASYNC110 (the lane offers no event)
            await asyncio.sleep(0.001)


async def test_results_and_arguments() -> None:
    """A job gets its arguments, and its caller what it returned."""
    async with lane() as jobs:
        assert await jobs.run(divmod, 7, 2) == (3, 1)
        assert jobs.in_use == 0


async def test_each_caller_gets_its_own_result() -> None:
    """A thousand jobs of many callers come back to their callers."""
    async with lane(workers=3, queue=1000) as jobs:
        results = await asyncio.gather(*(jobs.run(str, number) for number in range(1000)))
    assert results == [str(number) for number in range(1000)]


async def test_exceptions_reach_the_caller() -> None:
    """What a job raises is raised where it is awaited, and the thread goes on."""

    def stop() -> None:
        raise StopIteration

    async with lane(workers=1) as jobs:
        with pytest.raises(ZeroDivisionError):
            await jobs.run(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await jobs.run(stop)
        assert await jobs.run(int, "7") == 7


def test_many_results_wake_the_loop_once() -> None:
    """Results that are ready together are fetched together."""
    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_run_many_before_looking())
    assert 1 <= loop.wakes <= 10


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often threads wake it."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """As the loop's own."""
        self.wakes += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


async def _run_many_before_looking() -> None:
    async with lane(workers=1, queue=200) as jobs:
        ran = threading.Event()
        tasks = [asyncio.create_task(jobs.run(int)) for _ in range(200)]
        last = asyncio.create_task(jobs.run(ran.set))
        await asyncio.sleep(0)
        assert ran.wait(GENEROUS)  # the loop does not look before the last job has run
        await asyncio.gather(last, *tasks)


async def test_full_says_so_at_once() -> None:
    """When every thread and every waiting place is taken, the next caller is refused without waiting."""
    hang = Hang()
    async with lane(workers=2, queue=3) as jobs:
        tasks = [asyncio.create_task(jobs.run(hang.call)) for _ in range(5)]
        await hang.has_begun(2)
        with pytest.raises(BusyError) as refusal:
            await jobs.run(int)
        assert refusal.value.retry_after
        assert jobs.in_use == 5
        hang.gate.set()
        assert await asyncio.gather(*tasks) == ["late"] * 5
        assert await jobs.run(int) == 0


async def test_a_place_is_free_when_the_thread_is() -> None:
    """A caller that gives up does not free the place of its job: the thread still hangs."""
    hang = Hang()
    async with lane(workers=1, queue=1) as jobs:
        task = asyncio.create_task(jobs.run(hang.call))
        await hang.has_begun()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (jobs.in_use, jobs.stuck, jobs.exhausted) == (1, 1, True)
        waiting = asyncio.create_task(jobs.run(int))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await jobs.run(int)
        hang.gate.set()
        assert await waiting == 0
        await until(lambda: not jobs.in_use)
        assert (jobs.stuck, jobs.exhausted) == (0, False)


async def test_stuck_counts_what_has_begun_only() -> None:
    """A caller that gives up before its job begins has it dropped: it never runs, and no thread is stuck for it."""
    hang = Hang()
    dropped = Hang()
    async with lane(workers=1, queue=2) as jobs:
        first = asyncio.create_task(jobs.run(hang.call))
        await hang.has_begun()
        second = asyncio.create_task(jobs.run(dropped.call))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert jobs.stuck == 0
        hang.gate.set()
        assert await first == "late"
        assert await jobs.run(int) == 0
        assert (dropped.calls, jobs.in_use) == (0, 0)


async def test_giving_up_at_the_last_moment() -> None:
    """Callers that give up while their results are on the way leave no thread counted as stuck."""
    async with lane(workers=2, queue=100) as jobs:
        for _ in range(300):
            task = asyncio.create_task(jobs.run(int))
            await asyncio.sleep(0)
            await asyncio.to_thread(int)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not jobs.in_use)
        assert jobs.stuck == 0


async def test_each_thread_is_prepared_once() -> None:
    """The initializer runs in each thread before its first job, and not again."""
    prepared: list[str] = []
    barrier = threading.Barrier(2, timeout=GENEROUS)

    def meet() -> int:
        return barrier.wait()

    async with lane(workers=2, initializer=lambda: prepared.append(threading.current_thread().name)) as jobs:
        await asyncio.gather(jobs.run(meet), jobs.run(meet))
        await jobs.run(int)
    assert sorted(prepared) == ["hsm-1", "hsm-2"]


async def test_a_failed_preparation_is_tried_again() -> None:
    """When a thread cannot be prepared its job fails with that, and the next job tries anew."""
    failures = [UnavailableError("no session")]

    def prepare() -> None:
        if failures:
            raise failures.pop()

    async with lane(workers=1, initializer=prepare) as jobs:
        with pytest.raises(UnavailableError, match="no session"):
            await jobs.run(int)
        assert await jobs.run(int) == 0


async def test_threads_are_started_when_needed() -> None:
    """A lane that is used by one caller at a time has one thread."""
    async with lane(workers=8) as jobs:
        names = {(await jobs.run(threading.current_thread)).name for _ in range(20)}
    assert names == {"hsm-1"}


async def test_closing_lets_accepted_jobs_end() -> None:
    """What was accepted before the lane closes is done; what comes after is refused."""
    jobs = Lane("hsm", 1, 10)
    tasks = [asyncio.create_task(jobs.run(str, number)) for number in range(5)]
    await asyncio.sleep(0)
    await jobs.aclose()
    assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "4"]
    with pytest.raises(UnavailableError):
        await jobs.run(int)
    await jobs.aclose()


async def test_closing_with_a_hung_thread_ends() -> None:
    """A thread that is stuck keeps neither the lane from closing nor a waiting caller without an answer."""
    hang = Hang()
    jobs = Lane("hsm", 1, 10)
    stuck = asyncio.create_task(jobs.run(hang.call))
    await hang.has_begun()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    waiting = asyncio.create_task(jobs.run(int))
    await asyncio.sleep(0)
    async with asyncio.timeout(GENEROUS):
        await jobs.aclose()
        with pytest.raises(UnavailableError, match="closed"):
            await waiting
    hang.gate.set()


async def test_closing_waits_for_no_stuck_thread() -> None:
    """With one thread of two stuck, closing lets the other one end its job and does not wait for the stuck one."""
    hang = Hang()
    jobs = Lane("hsm", 2, 10)
    stuck = asyncio.create_task(jobs.run(hang.call))
    await hang.has_begun()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    last = asyncio.create_task(jobs.run(time.sleep, 0.05))
    await asyncio.sleep(0)
    begun = time.monotonic()
    await jobs.aclose()
    assert time.monotonic() - begun < CLOSE_SECONDS
    await last
    hang.gate.set()


def test_a_hung_thread_does_not_keep_the_process() -> None:
    """A process whose only SDK call hangs for ever ends all the same."""
    program = (
        "import asyncio, threading\n"
        "from services.signer_hsm.backends.lane import Lane\n"
        "async def main():\n"
        "    lane = Lane('hsm', 1, 1)\n"
        "    task = asyncio.create_task(lane.run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "    await asyncio.gather(task, return_exceptions=True)\n"
        "    await lane.aclose()\n"
        "    print('closed', lane.stuck)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "closed 1\n"


async def test_a_thread_that_returns_after_the_loop_has_gone() -> None:
    """A thread that comes back to a closed loop ends without a word."""
    hang = Hang()
    jobs = Lane("hsm", 1, 1)

    async def leave() -> None:
        task = asyncio.create_task(jobs.run(hang.call))
        await hang.has_begun()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await asyncio.to_thread(asyncio.run, leave())
    threads = [thread for thread in threading.enumerate() if thread.name == "hsm-1"]
    hang.gate.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, GENEROUS)
        assert not thread.is_alive()


async def test_facts_and_owner() -> None:
    """The lane tells its numbers, and is found on a back end that shows it."""

    class Owner:
        def __init__(self, lane: Lane) -> None:
            self.lane = lane

    async with lane(workers=3) as jobs:
        assert jobs.facts() == {"workers": 3, "in_use": 0, "stuck_workers": 0}
        assert lane_of(Owner(jobs)) is jobs
    assert lane_of(object()) is None
