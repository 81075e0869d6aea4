"""Work that may outlive the request that asked for it: at most one task per piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from services.acme.errors import AcmeError

T = TypeVar("T")


class Background:
    """Keeps tasks by key, so that two requests for the same work wait for the same task."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._log = structlog.get_logger("acme.background")

    def run(self, key: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Start the work, or join it where it is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(_call(work), name=key)
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    @property
    def is_busy(self) -> bool:
        """Whether any work is under way."""
        return bool(self._tasks)

    async def outcome(self, task: asyncio.Task[T], seconds: float) -> T | None:
        """Wait at most so long; what the task ended with, None where it has not ended. It goes on either way.

        Raises:
            AcmeError: the refusal that the task ended with.
        """
        await asyncio.wait({task}, timeout=seconds)
        return task.result() if task.done() else None

    async def close(self) -> None:
        """Stop everything; what is stored as processing is taken up again at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, AcmeError):
            self._log.error("background work failed", work=key, exc_info=error)


async def _call(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
