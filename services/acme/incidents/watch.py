"""Open incidents as metrics: how many certificates are still at risk, counted in the background."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.acme.incidents.incidents import Incidents
from services.chassis.errors import DatabaseError

_PAUSE: Final = 30.0  # seconds between counts, each of which looks at every certificate concerned
_SHARE: Final = 50  # of its time does the watch count at most one such part

_log: Final = structlog.get_logger("acme.incidents")


class IncidentWatch:
    """Open incidents, and of each the certificates that nobody has replaced."""

    def __init__(self, incidents: Incidents, registry: CollectorRegistry) -> None:
        self._incidents = incidents
        self._open = Gauge("pqcpki_acme_incidents_open", "Open incidents.", registry=registry)
        self._at_risk = Gauge(
            "pqcpki_acme_incident_at_risk",
            "Certificates of an open incident that are neither replaced nor revoked nor expired.",
            ("incident",),
            registry=registry,
        )

    async def run(self) -> None:
        """Count for ever."""
        while True:
            began = time.monotonic()
            try:
                await self.count()
            except DatabaseError as error:
                _log.warning("incidents are not counted", error=str(error))
            await asyncio.sleep(max(_PAUSE, _SHARE * (time.monotonic() - began)))

    async def count(self) -> None:
        """Count once.

        Raises:
            DatabaseError: the database cannot be read; the metrics stay.
        """
        rows = await self._incidents.all_open()
        at_risk = {row.id: (await self._incidents.progress(row)).at_risk for row in rows}
        self._open.set(len(rows))
        self._at_risk.clear()
        for incident, count in at_risk.items():
            self._at_risk.labels(incident).set(count)
