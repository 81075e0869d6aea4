"""What goes on beside the requests: what has had its time is deleted, and what a crash left behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from pkicore.clock import Clock, unix
from services.chassis.errors import ChassisError, DatabaseError
from services.signing.metrics import SigningMetrics
from services.signing.objects import Objects
from services.signing.store import SigningStore
from services.signing.witnesses import Log

_SECONDS: Final = 600.0

_log = structlog.get_logger("upkeep")


class Upkeep:
    """Keeps tables and directories small.

    Args:
        store: whose tables.
        objects: whose directories.
        metrics: counts files that were removed.
        clock: the time.
        remembered: how long an idempotency key is.
        log: the transparency log, if there is one.
    """

    def __init__(
        self,
        store: SigningStore,
        objects: Objects,
        metrics: SigningMetrics,
        clock: Clock,
        remembered: timedelta,
        log: Log | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._objects = objects
        self._metrics = metrics
        self._clock = clock
        self._remembered = remembered

    async def run(self) -> None:
        """Clean up, for ever."""
        while True:
            await self.clean_up()
            await self.count_unrecorded()
            await asyncio.sleep(_SECONDS)

    async def clean_up(self) -> None:
        """Delete idempotency keys that are old enough, and files that nothing names."""
        try:
            await self._store.forget_claims(unix(self._clock.now()) - int(self._remembered.total_seconds()))
            swept = await self._objects.sweep(self._store.object_is_used)
        except (DatabaseError, OSError) as error:
            _log.warning("not all cleaned up", error=str(error))
            return
        if swept:
            self._metrics.swept(swept)
            _log.info("files without a record removed", files=swept)

    async def count_unrecorded(self) -> None:
        """See how many entries of the log belong to no record; those of requests under way are among them."""
        if self._log is None:
            return
        try:
            entries = await self._log.size()
            recorded = await self._store.recorded_log_entries()
        except ChassisError as error:
            _log.warning("log entries not counted", error=str(error))
            return
        self._metrics.unrecorded(max(0, entries - recorded))
