"""The threads of one back end: a synchronous SDK runs here, and a call that hangs hangs nobody else.

A job goes from the event loop into the queue, a thread runs it, and the result comes back by one wake-up of the loop
for all results that are ready by then. There are three rules:

- what is full says so at once (`BusyError`); the loop never waits for a thread;
- a caller may give up at any time: a job that has not begun is never run, one that has begun keeps its place until its
  thread comes back, and counts as stuck meanwhile, since nothing can stop a thread;
- the threads are daemons: one that never returns does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple, cast, runtime_checkable

from services.signer_hsm.errors import BusyError, UnavailableError

__all__ = ["CLOSE_SECONDS", "HasLane", "Lane", "lane_of"]

CLOSE_SECONDS: Final = 5.0
"""How long `Lane.aclose` waits for jobs that were accepted."""
_BUSY_RETRY: Final = 1.0

T = TypeVar("T")
Args = TypeVarTuple("Args")


class _Job:
    """One call and what became of it; its thread alone writes `begun`, the loop alone `abandoned`."""

    __slots__ = ("abandoned", "args", "begun", "delivered", "error", "function", "future", "result", "stuck")

    def __init__(self, function: Callable[..., object], args: tuple[object, ...], future: asyncio.Future[None]) -> None:
        self.function = function
        self.args = args
        self.future = future
        self.begun = False
        self.abandoned = False
        self.delivered = False
        self.stuck = False
        self.result: object = None
        self.error: BaseException | None = None


class Lane:
    """A bounded pool of threads for one back end and one event loop.

    A back end shows its lane as its attribute `lane` (see `HasLane`), so that metrics and health see it.

    Attributes:
        name: of the back end; the threads are named after it.
        workers: threads at most; each is started when it is first needed.
        queue: jobs that may wait for a thread.
    """

    def __init__(self, name: str, workers: int, queue: int, *, initializer: Callable[[], None] | None = None) -> None:
        """Starts no thread yet.

        Args:
            name: of the back end.
            workers: threads at most.
            queue: jobs that may wait.
            initializer: run by each thread before its first job; when it raises, the job fails with that and the next
                job of the thread tries again.
        """
        self.name = name
        self.workers = workers
        self.queue = queue
        self._initializer = initializer
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._open = 0
        self._stuck = 0
        self._woken = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def in_use(self) -> int:
        """Jobs that wait or run, given-up ones included as long as they hold their place."""
        return self._open

    @property
    def stuck(self) -> int:
        """Threads whose callers have given up waiting."""
        return self._stuck

    @property
    def exhausted(self) -> bool:
        """Whether every thread is stuck, so that nothing will run before one comes back."""
        return self._stuck >= self.workers

    def facts(self) -> Mapping[str, int]:
        """The numbers, for a back end's `health().detail`."""
        return {"workers": self.workers, "in_use": self._open, "stuck_workers": self._stuck}

    async def run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """What the function returns or raises in one of the threads.

        Raises:
            BusyError: as many jobs wait as may wait.
            UnavailableError: the lane is closed.
        """
        job = self._submit(function, args)
        try:
            await job.future
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                del job  # the error's traceback leads back here: no cycle for the collector to find
        return cast("T", job.result)

    def _submit(self, function: Callable[..., object], args: tuple[object, ...]) -> _Job:
        if self._closed:
            raise UnavailableError(f"the back end {self.name} is closed")
        if self._open >= self.workers + self.queue:
            raise BusyError(f"the back end {self.name} has all it can take in hand", retry_after=_BUSY_RETRY)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        job = _Job(function, args, self._loop.create_future())
        if len(self._threads) < self.workers and self._open >= len(self._threads):
            self._start_thread()
        self._open += 1
        self._jobs.put(job)
        return job

    def _abandon(self, job: _Job) -> None:
        """The caller has gone: either the thread sees `abandoned` before it begins, or we see that it has begun."""
        job.abandoned = True
        if job.begun and not job.delivered:
            job.stuck = True
            self._stuck += 1

    def _start_thread(self) -> None:
        number = next(self._numbers)
        thread = threading.Thread(target=self._work, args=(number,), name=f"{self.name}-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int) -> None:
        """A thread's life: take a job, run it, hand back the result, until told to end."""
        initializer = self._initializer
        while (job := self._jobs.get()) is not None:
            job.begun = True
            if not job.abandoned:
                self._running[number] = job
                try:
                    if initializer is not None:
                        initializer()
                        initializer = None
                    job.result = job.function(*job.args)
                except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                    job.error = error
                del self._running[number]
            self._done.append(job)
            del job
            if not self._woken and not self._wake():
                break
        self._jobs.put(None)  # for the next thread

    def _wake(self) -> bool:
        """One wake-up for all results that are ready when the loop comes to it; False when there is no loop left."""
        self._woken = True
        try:
            cast("asyncio.AbstractEventLoop", self._loop).call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop was closed while this thread hung
            return False
        return True

    def _deliver(self) -> None:
        self._woken = False  # first: a result that comes from here on wakes the loop again
        done = self._done
        while done:
            job = done.popleft()
            job.delivered = True
            self._open -= 1
            if job.stuck:
                self._stuck -= 1
            if not job.future.done():
                job.future.set_result(None)

    async def aclose(self) -> None:
        """Let what was accepted end, for some seconds, then fail whoever still waits. Safe to repeat; never hangs."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await self._until_ended()
        self._refuse_the_rest()

    async def _until_ended(self) -> None:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + CLOSE_SECONDS, 0.0005
        while self._alive() > self._stuck and loop.time() < end:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
        self._deliver()

    def _alive(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def _refuse_the_rest(self) -> None:
        running = [*self._running.values()]
        left: list[_Job | None] = [*running]
        try:
            while True:
                left.append(self._jobs.get_nowait())
        except Empty:
            self._jobs.put(None)  # for the threads that are still away
        for job in left:
            if job is not None and not job.future.done():
                job.error = UnavailableError(f"the back end {self.name} was closed", uncertain=job in running)
                job.future.set_result(None)


@runtime_checkable
class HasLane(Protocol):
    """A back end that runs its calls in a lane."""

    @property
    def lane(self) -> Lane:
        """Its threads."""
        ...


def lane_of(backend: Any) -> Lane | None:  # noqa: ANN401 - any back end, and the ones without a lane too
    """The back end's lane, None where it needs no threads."""
    return backend.lane if isinstance(backend, HasLane) else None
