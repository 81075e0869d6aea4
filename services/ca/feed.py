"""What was revoked, in order: one reader of new revocations, for everything in this process that must react.

The database is the source, so a revocation by another replica is seen as well, at the next refresh.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from services.ca.revocation_store import RevocationStore, Revoked
from services.chassis.errors import DatabaseError

Subscriber = Callable[[Sequence[Revoked]], None]

_POLL: Final = 5.0  # seconds between looks for revocations by other processes
_PAGE: Final = 1000  # revocations read by one query: some milliseconds of the event loop

_log = structlog.get_logger(__name__)


class RevocationLog:
    """Hands every revocation to its subscribers exactly once, oldest first; subscribe before the first refresh."""

    def __init__(self, store: RevocationStore) -> None:
        self._store = store
        self._subscribers: list[Subscriber] = []
        self._reading = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._last = 0
        self._read_at = -math.inf
        self._closed = False

    @property
    def last(self) -> int:
        """The sequence of the newest revocation that was handed out."""
        return self._last

    def age(self) -> float:
        """Seconds since everything that had happened by then was handed out; infinite before the first refresh."""
        return time.monotonic() - self._read_at

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have `subscriber` called with each batch of new revocations; it must not block."""
        self._subscribers.append(subscriber)

    async def refresh(self) -> None:
        """Read what is new and hand it out.

        Raises:
            DatabaseError: the database cannot be read.
        """
        async with self._reading:
            began = time.monotonic()
            while batch := await self._store.revocations_after(self._last, _PAGE):
                for subscriber in self._subscribers:
                    subscriber(batch)
                self._last = batch[-1].sequence
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(0)  # a CA that starts reads a million of them
            self._read_at = began

    async def run(self) -> None:
        """Look for what other processes revoked, for ever."""
        while True:
            try:
                await self.refresh()
            except DatabaseError as error:
                _log.error("revocations not read", error=str(error))
            await asyncio.sleep(_POLL)

    async def close(self) -> None:
        """Whoever waits gets an answer now: the process is about to stop."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, after: int, seconds: float) -> None:
        """Return when there is something after sequence `after`, at the latest in `seconds`, at once when closed."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._last > after or self._closed)
        except TimeoutError:
            return
