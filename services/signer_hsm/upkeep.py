"""What goes on beside the requests: other processes' changes are taken in, and what has had its time is deleted."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from pkicore.clock import Clock, unix
from services.chassis.errors import DatabaseError
from services.signer_hsm.store import SignerStore

FOLLOW_SECONDS: Final = 1.0  # a key that is disabled elsewhere signs here no longer than that
_CLEAN_UP_SECONDS: Final = 600.0

_log = structlog.get_logger("upkeep")


class Upkeep:
    """Keeps the catalogue present and the tables small.

    Args:
        store: both.
        clock: the time.
        remembered: how long an idempotency key is.
    """

    def __init__(self, store: SignerStore, clock: Clock, remembered: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._remembered = remembered

    async def follow(self) -> None:
        """Take other processes' changes of keys, for ever."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self._store.refresh()
            except DatabaseError as error:
                _log.warning("keys not refreshed", error=str(error))

    async def clean_up(self) -> None:
        """Delete what has had its time, for ever."""
        while True:
            await self.clean_up_once()
            await asyncio.sleep(_CLEAN_UP_SECONDS)

    async def clean_up_once(self) -> None:
        """Delete idempotency keys that are old enough, and approvals that have expired."""
        now = unix(self._clock.now())
        try:
            await self._store.forget(claims_before=now - int(self._remembered.total_seconds()), approvals_before=now)
        except DatabaseError as error:
            _log.warning("nothing cleaned up", error=str(error))
