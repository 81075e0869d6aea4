"""What this CA certifies and signs with, by algorithm: the CA's part of `ztca pqc report`."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from cryptography import x509

from pkicore.algorithms import algorithm_of
from pkicore.clock import Clock, unix
from services.ca.issuance import IssuingCa
from services.ca.ledger.store.counts import CountStore
from services.ca.ledger.wire import Inventory, InventoryIssuer, LiveCertificates

_KEPT: Final = 30.0  # seconds; one count reads an index of every live certificate


class Inventories:
    """Counts at most every thirty seconds, however often it is asked."""

    def __init__(
        self,
        store: CountStore,
        cas: Mapping[str, IssuingCa],
        roots: Mapping[str, x509.Certificate],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cas = cas
        self._roots = roots
        self._clock = clock
        self._monotonic = monotonic
        self._counting = asyncio.Lock()
        self._last: tuple[float, Inventory] | None = None

    async def take(self) -> Inventory:
        """The inventory, half a minute old at most.

        Raises:
            DatabaseError: the database cannot be read.
        """
        async with self._counting:
            if self._last is None or self._monotonic() - self._last[0] > _KEPT:
                self._last = self._monotonic(), await self._count()
            return self._last[1]

    async def _count(self) -> Inventory:
        now = unix(self._clock.now())
        live = await self._store.live(now)
        issuers = [
            InventoryIssuer(name, _role(ca), _algorithm(ca.issuer.certificate), _place(ca))
            for name, ca in self._cas.items()
        ]
        roots = [InventoryIssuer(name, "root", _algorithm(root), "offline") for name, root in self._roots.items()]
        counts = [LiveCertificates(row.algorithm, row.profile, row.count, row.oldest) for row in live]
        return Inventory(now, (*roots, *issuers), tuple(counts))


def _role(ca: IssuingCa) -> str:
    return "issuing" if ca.state == "active" else ca.state


def _algorithm(certificate: x509.Certificate) -> str:
    return algorithm_of(certificate.public_key()).name


def _place(ca: IssuingCa) -> str:
    """Which kind of place holds the key; not where."""
    return ca.key.uri.partition(":")[0]
