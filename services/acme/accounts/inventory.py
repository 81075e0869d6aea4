"""What the accounts' keys are, as a metric for `ztca pqc report`: numbers only, counted in the background."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.acme.store import Store
from services.chassis.errors import DatabaseError

_PAUSE: Final = 600.0  # seconds between counts, each of which reads every account


class AccountInventory:
    """Valid accounts by the algorithm of their key."""

    def __init__(self, store: Store, registry: CollectorRegistry) -> None:
        self._store = store
        self._log = structlog.get_logger("acme.inventory")
        self._accounts = Gauge(
            "pqcpki_acme_accounts", "Valid accounts, by the algorithm of their key.", ("algorithm",), registry=registry
        )

    async def run(self) -> None:
        """Count for ever."""
        while True:
            try:
                await self.count()
            except DatabaseError as error:
                self._log.warning("accounts are not counted", error=str(error))
            await asyncio.sleep(_PAUSE)

    async def count(self) -> None:
        """Count once.

        Raises:
            DatabaseError: the database cannot be read; the metric stays.
        """
        found = await self._store.accounts_by_algorithm()
        self._accounts.clear()
        for algorithm, count in found.items():
            self._accounts.labels(algorithm).set(count)
