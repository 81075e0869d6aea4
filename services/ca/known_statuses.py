"""What this process knows of serials without asking the database: for answers that are signed for one request each.

A status is known from the moment it was read until the revocation log says that something happened to its serial, and
only as long as that log is read without fail. Serials that are unknown are not kept: they may be issued next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pkicore.ocsp import CertId, CertStatus
from services.ca.revocation_store import Revoked

TRUSTED: Final = 10.0  # seconds since the revocation log was read; it is every five


class KnownStatus(NamedTuple):
    """The status of a serial under an issuer, with its DER."""

    issuer: str
    serial: int
    status: CertStatus
    der: bytes


class KnownStatuses:
    """The statuses of at most so many CertIDs, by their DER; `log_age` is the revocation log's."""

    def __init__(self, log_age: Callable[[], float], capacity: int) -> None:
        self._log_age = log_age
        self._capacity = capacity
        self._known: OrderedDict[bytes, KnownStatus] = OrderedDict()
        self._cert_ids: dict[int, set[bytes]] = {}
        self._seen = 0

    @property
    def seen(self) -> int:
        """Grows with each thing that happens; what was read before may be out of date."""
        return self._seen

    def of(self, cert_id: bytes) -> KnownStatus | None:
        """The status of a CertID, as `known_at` knows it; None where the database must be asked."""
        known = self._known.get(cert_id)
        return known if known is not None and self._log_age() < TRUSTED else None

    def of_all(self, cert_ids: Sequence[CertId]) -> list[CertStatus] | None:
        """As `of`, where all of them are known."""
        known = [self.of(each.der) for each in cert_ids]
        found = [each.status for each in known if each is not None]
        return found if len(found) == len(known) else None

    def known_at(self, now: int) -> int:
        """When all of these were right for certain, in Unix seconds."""
        return now - math.ceil(self._log_age())

    def learn(self, issuer: str, cert_id: CertId, status: CertStatus, seen: int) -> None:
        """Keep what was read of an issued serial; not where something has happened since `seen`."""
        if status.state == "unknown" or seen != self._seen or not self._capacity:
            return
        self._known[cert_id.der] = KnownStatus(issuer, cert_id.serial, status, status.encode())
        self._known.move_to_end(cert_id.der)
        self._cert_ids.setdefault(cert_id.serial, set()).add(cert_id.der)
        if len(self._known) > self._capacity:
            self._forget(next(iter(self._known)))

    def take(self, batch: Sequence[Revoked]) -> None:
        """Something happened to these serials."""
        self._seen += len(batch)
        for revoked in batch:
            for cert_id in self._cert_ids.pop(revoked.serial, ()):
                del self._known[cert_id]

    def _forget(self, cert_id: bytes) -> None:
        serial = self._known.pop(cert_id).serial
        self._cert_ids[serial].discard(cert_id)
        if not self._cert_ids[serial]:
            del self._cert_ids[serial]
