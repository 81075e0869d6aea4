"""A call that hangs until it is let go, as an SDK's does whose device has gone."""

from __future__ import annotations

import asyncio
import threading

GENEROUS = 20.0
"""Seconds after which a test that waits for something bound to happen gives up."""


class Hang:
    """Call it from a thread.

    Attributes:
        gate: set it, and all calls return.
        calls: how many have begun.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0
        self._begun = threading.Semaphore(0)

    def call(self) -> str:
        """Hang."""
        self.calls += 1
        self._begun.release()
        self.gate.wait()
        return "late"

    async def has_begun(self, calls: int = 1) -> None:
        """Wait until so many more calls hang."""
        for _ in range(calls):
            assert await asyncio.to_thread(self._begun.acquire, timeout=GENEROUS)
