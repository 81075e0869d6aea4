"""Metrics for alerts: when the certificates and the CRLs of CAs end."""

import asyncio
import math
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from services.ca.hierarchy import Hierarchy
from services.ca.publication import CrlPublisher

_PAUSE: Final = 15.0  # seconds


class IssuerWatch:
    """Shows when each CA's certificate ends, and the first of its CRLs: of what this process has in memory."""

    def __init__(self, hierarchy: Hierarchy, publisher: CrlPublisher) -> None:
        self._hierarchy = hierarchy
        self._publisher = publisher
        self._ends = Gauge(
            "pqcpki_ca_issuer_end_timestamp_seconds",
            "When the certificate of a CA ends; role is root, active, prepared or retired.",
            ("issuer", "role"),
            registry=None,
        )
        self._next = Gauge(
            "pqcpki_ca_crl_next_update_timestamp_seconds",
            "The nextUpdate of that CRL of an issuer which ends first; 0 where one was never published.",
            ("issuer",),
            registry=None,
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show the metrics in a registry."""
        for gauge in (self._ends, self._next):
            registry.register(gauge)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(_PAUSE)

    def look(self) -> None:
        """Look once."""
        self._ends.clear()
        for name, root in self._hierarchy.roots.items():
            self._ends.labels(name, "root").set(root.not_valid_after_utc.timestamp())
        for name, ca in self._hierarchy.cas.items():
            self._ends.labels(name, ca.state).set(ca.issuer.certificate.not_valid_after_utc.timestamp())
        self._next.clear()
        first = dict.fromkeys((*self._hierarchy.roots, *self._hierarchy.cas), math.inf)
        for path, crl in self._publisher.current.items():
            issuer = path.partition("/")[0]
            if issuer in first:
                first[issuer] = min(first[issuer], crl.next_update)
        for name, end in first.items():
            self._next.labels(name).set(0 if end == math.inf else end)
