"""What ends soon, as metrics: counted in the background, never for a request."""

import asyncio
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from pkicore.clock import Clock, unix
from services.ca.ledger.store.counts import CountStore
from services.chassis.errors import DatabaseError

HORIZONS: Final = {"1d": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
"""Label and seconds, rising."""
_PAUSE: Final = 300.0  # seconds between counts

_log = structlog.get_logger(__name__)


class ExpiryWatch:
    """Live certificates that end within a day, a week and thirty days, by profile and issuer; and the first end."""

    def __init__(self, store: CountStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        labels = ("profile", "issuer")
        self._ending = Gauge(
            "pqcpki_ca_certificates_ending",
            "Live certificates that end within that time.",
            (*labels, "within"),
            registry=None,
        )
        self._earliest = Gauge(
            "pqcpki_ca_earliest_end_timestamp_seconds",
            "When the first live certificate ends; only where that is within thirty days.",
            labels,
            registry=None,
        )
        self._counted = Gauge(
            "pqcpki_ca_ending_counted_timestamp_seconds", "When these were counted last.", registry=None
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show the metrics in a registry."""
        for gauge in (self._ending, self._earliest, self._counted):
            registry.register(gauge)

    async def run(self) -> None:
        """Count for ever."""
        while True:
            try:
                await self.count()
            except DatabaseError as error:
                _log.warning("certificates that end soon are not counted", error=str(error))
            await asyncio.sleep(_PAUSE)

    async def count(self) -> None:
        """Count once.

        Raises:
            DatabaseError: the database cannot be read; the metrics stay.
        """
        now = unix(self._clock.now())
        found = await self._store.ending(now, [now + seconds for seconds in HORIZONS.values()])
        self._ending.clear()
        self._earliest.clear()
        for ending in found:
            for within, count in zip(HORIZONS, ending.counts, strict=True):
                self._ending.labels(ending.profile, ending.issuer, within).set(count)
            self._earliest.labels(ending.profile, ending.issuer).set(ending.earliest)
        self._counted.set(now)
