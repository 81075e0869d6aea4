"""Slots that accounts share fairly: however much a few of them ask for, the others are served."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.acme.answers import retry_after
from services.acme.errors import AcmeError

RETRY_AFTER_SECONDS: Final = 5
_RESERVED: Final = 4  # one slot in so many is only for accounts that have none


class FairSlots:
    """Lets so many work at once and so many more wait.

    The next free slot is for the account with the fewest, and of those with as many, for whichever has waited longest
    since its last turn. A share of the slots, and as many places to wait again as there are, are kept for accounts that
    have nothing running or waiting.

    Args:
        concurrent: slots.
        waiting: places to wait in.
        what: waits, as a refusal says it.
    """

    def __init__(self, concurrent: int, waiting: int, what: str) -> None:
        self._free = concurrent
        self._reserved = concurrent // _RESERVED
        self._room = waiting
        self._what = what
        self._waiting = 0
        self._running: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of their turns

    @asynccontextmanager
    async def one(self, account: str) -> AsyncIterator[None]:
        """Wait for a slot and keep it.

        Raises:
            AcmeError: "rateLimited", when too many wait.
        """
        if account not in self._queues and self._may_start(account):
            self._start(account)
        else:
            await self._turn(account)
        try:
            yield
        finally:
            self._end(account)

    def _may_start(self, account: str) -> bool:
        return self._free > (self._reserved if self._running[account] else 0)

    def _start(self, account: str) -> None:
        self._free -= 1
        self._running[account] += 1

    def _end(self, account: str) -> None:
        self._free += 1
        self._running[account] -= 1
        if not self._running[account]:
            del self._running[account]
        if account in self._queues:
            self._queues[account] = self._queues.pop(account)  # its turn is over
        self._hand_out()

    async def _turn(self, account: str) -> None:
        is_new = account not in self._running and account not in self._queues
        if self._waiting >= (2 * self._room if is_new else self._room):
            raise AcmeError(
                "rateLimited",
                f"too many {self._what} are waiting; try again in {RETRY_AFTER_SECONDS} seconds",
                headers=[retry_after(RETRY_AFTER_SECONDS)],
            )
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(account, deque()).append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(account, turn)
            else:
                self._end(account)  # the slot came in the same moment
            raise

    def _leave(self, account: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(account)
        if queue is None or turn not in queue:
            return  # it was passed over already
        queue.remove(turn)
        self._waiting -= 1
        if not queue:
            del self._queues[account]

    def _hand_out(self) -> None:
        while self._free and self._queues:
            account = min(self._queues, key=self._running.__getitem__)  # the first of several
            if not self._may_start(account):
                return
            queue = self._queues.pop(account)
            turn = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[account] = queue
            if not turn.cancelled():
                self._start(account)
                turn.set_result(None)
