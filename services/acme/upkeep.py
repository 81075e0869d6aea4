"""What goes on beside the requests, alone or as one of several replicas on one database.

What a replica that died has left processing is taken up by the others, not only at its next start: an order or a
challenge that is still processing at the second look is taken up by whoever looks. That the one that works on it lives
after all is harmless: the CA answers both with one certificate, and of the two outcomes the first is stored.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from services.acme.authorizations.authorizations import Authorizations
from services.acme.nonces import Nonces
from services.acme.orders.issuance import Issuance
from services.acme.rate_limits.rate_limits import RateLimits
from services.chassis.database import Database

LOOK_SECONDS: Final = 20.0  # between two looks for what others left; more than a validation takes
SWEEP_SECONDS: Final = 300.0  # between two removals of nonces and buckets
_PAUSE_SECONDS: Final = 0.05  # between two commits of a removal, so that requests are not held up


@asynccontextmanager
async def alone(database: Database, what: str) -> AsyncGenerator[bool]:
    """Whether no other replica does the same at this moment.

    Raises:
        UnavailableError: the database does not answer.
    """
    if database.shared is None:
        yield True
        return
    async with database.shared.lease(what) as held:
        yield held


class Upkeep:
    """The loops; `look` and `sweep` are one turn of each."""

    def __init__(
        self, database: Database, issuance: Issuance, authorizations: Authorizations, limits: RateLimits, nonces: Nonces
    ) -> None:
        self._database = database
        self._issuance = issuance
        self._authorizations = authorizations
        self._limits = limits
        self._nonces = nonces
        self._orders: set[str] = set()
        self._challenges: set[str] = set()

    async def look(self) -> None:
        """Learn what other replicas changed or left; there is nothing to do where there are none.

        Raises:
            DatabaseError: the database does not answer.
        """
        if self._database.shared is None:
            return
        await self._limits.load_overrides()
        self._orders = await self._issuance.take_up(self._orders)
        self._challenges = await self._authorizations.take_up(self._challenges)

    async def sweep(self) -> None:
        """Remove used nonces that have expired and buckets that are full again, a bounded number per commit.

        Raises:
            DatabaseError: the database does not answer.
        """
        async with alone(self._database, "acme-sweep") as here:
            if here:
                await _until_clean(self._nonces.clean_up)
                await _until_clean(self._limits.clean_up)

    async def run(self) -> None:
        """Look and sweep again and again, at no two replicas' common time."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(_again(self.look, LOOK_SECONDS))
            loops.create_task(_again(self.sweep, SWEEP_SECONDS))


async def _until_clean(clean_up: Callable[[], Awaitable[bool]]) -> None:
    more = True
    while more:
        more = await clean_up()
        await asyncio.sleep(_PAUSE_SECONDS)


async def _again(turn: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
        await turn()
