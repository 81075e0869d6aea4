"""Who may use a back end next: each tenant in turn, none with more than three quarters of it, few enough waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final

from services.signer_hsm.errors import BusyError

__all__ = ["FairShare"]

_BUSY_RETRY: Final = 1.0


class FairShare:
    """The places of one back end.

    Tenants that wait get the next free place round-robin, the calls of one tenant in their order. While one tenant has
    three quarters of the places it waits too, so that another one's first call finds a place at once.
    """

    def __init__(self, name: str, places: int, waiting: int) -> None:
        """All places free.

        Args:
            name: of the back end.
            places: calls under way at once.
            waiting: calls that may wait; one tenant has half of these at most.
        """
        self._name = name
        self._free = places
        self._places = places
        self._tenant_places = max(1, places - max(1, places // 4))
        self._may_wait = waiting
        self._tenant_may_wait = max(1, waiting // 2)
        self._held: dict[str, int] = {}
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting = 0

    @property
    def in_use(self) -> int:
        """Calls under way."""
        return self._places - self._free

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._waiting

    @property
    def held(self) -> Mapping[str, int]:
        """Places by tenant; who holds none is not in it."""
        return self._held

    def take_at_once(self, tenant: str) -> bool:
        """Take a place if there is one for this tenant and nobody of it waits."""
        if self._free == 0 or tenant in self._queues or self._held.get(tenant, 0) >= self._tenant_places:
            return False
        self._take(tenant)
        return True

    async def take(self, tenant: str) -> None:
        """Wait for a place.

        Raises:
            BusyError: too many wait already, of all or of this tenant.
        """
        if self.take_at_once(tenant):
            return
        queue = self._queues.get(tenant)
        if self._waiting >= self._may_wait or (queue is not None and len(queue) >= self._tenant_may_wait):
            raise BusyError(f"too many operations wait for the back end {self._name}", retry_after=_BUSY_RETRY)
        if queue is None:
            queue = self._queues[tenant] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(tenant, turn)
            raise

    def give_back(self, tenant: str) -> None:
        """Free a place that `take` or `take_at_once` took."""
        held = self._held[tenant] - 1
        if held:
            self._held[tenant] = held
        else:
            del self._held[tenant]
        self._free += 1
        while self._queues and self._free and self._call_next():
            pass

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._held[tenant] = self._held.get(tenant, 0) + 1

    def _call_next(self) -> bool:
        for tenant, queue in self._queues.items():
            if self._held.get(tenant, 0) < self._tenant_places:
                turn = queue[0]
                self._remove(tenant, turn)
                if not turn.cancelled():
                    self._take(tenant)
                    turn.set_result(None)
                    self._next_tenant_after(tenant)
                return True
        return False

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """A caller gives up: when its turn had come already, the place goes on to the next."""
        if not turn.cancelled():
            self.give_back(tenant)
        elif turn in self._queues.get(tenant, ()):
            self._remove(tenant, turn)

    def _remove(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues[tenant]
        queue.remove(turn)
        self._waiting -= 1
        if not queue:
            del self._queues[tenant]

    def _next_tenant_after(self, tenant: str) -> None:
        if tenant in self._queues:
            self._queues.move_to_end(tenant)
