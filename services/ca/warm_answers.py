"""OCSP answers made before anybody asks: about what this process issues, and at its start about the newest there is.

It is work for idle moments: while certificates are issued one after the other it waits. After each answer it rests for
nineteen times as long as that took, so it has a twentieth of a processor at most. What has not had its turn is answered
when it is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import structlog
from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.x509.profiles import Profile
from services.ca.hierarchy import Hierarchy
from services.ca.ledger.query import LedgerQuery
from services.ca.ledger.store.search import LedgerSearch
from services.ca.responder import OcspAnswers
from services.ca.wire import IssuedCertificate, parse_serial
from services.chassis.errors import DatabaseError

_WAITING: Final = 1000  # issued certificates that wait for their turn; older ones are left out
RESTS: Final = 19  # times as long as the work before it
_QUIET: Final = 0.1  # seconds without a new certificate make a moment idle
_PAUSE: Final = 5.0  # seconds, when no answer can be made
_FULL: Final = 0.75  # of the room for answers; the rest is for what is asked
_PAGE: Final = 50  # rows of the ledger that are read at once
_LIVE: Final = frozenset({"good", "revoked"})

_log = structlog.get_logger(__name__)


class WarmAnswers:
    """Has answers made whose certificates name a responder (`ocsp` of their profile)."""

    def __init__(
        self,
        answers: OcspAnswers,
        ledger: LedgerSearch,
        hierarchy: Hierarchy,
        profiles: Mapping[str, Profile],
        clock: Clock,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rest = rest
        self._answers = answers
        self._ledger = ledger
        self._hierarchy = hierarchy
        self._profiles = frozenset(name for name, profile in profiles.items() if profile.ocsp)
        self._clock = clock
        self._issued: deque[str] = deque(maxlen=_WAITING)
        self._wake = asyncio.Event()
        self._busy = False

    def issued(self, profile: str, certificate: IssuedCertificate) -> None:
        """This one is new; it may be asked for soon."""
        self._busy = True
        if profile in self._profiles:
            self._issued.append(certificate.certificate)
            self._wake.set()

    async def run(self) -> None:
        """Make answers for ever: of new certificates first, then of those that were there at the start."""
        earlier = self._earlier()
        while True:
            await self._idle()
            began = time.monotonic()
            try:
                done = await self._next_issued() or await anext(earlier, False)
            except DatabaseError as error:
                _log.error("no OCSP answers made ahead", error=str(error))
                earlier = self._earlier()
                await self._rest(_PAUSE)
                continue
            if done:
                await self._rest((time.monotonic() - began) * RESTS)
            else:
                await self._wake.wait()
                self._wake.clear()

    async def _idle(self) -> None:
        while self._busy:
            self._busy = False
            await self._rest(_QUIET)

    async def _next_issued(self) -> bool:
        """Whether there was one."""
        if not self._issued:
            return False
        certificate = x509.load_pem_x509_certificate(self._issued.popleft().encode())
        issuers = (ca.issuer.certificate for ca in self._hierarchy.cas.values())
        issuer = next((each for each in issuers if each.subject == certificate.issuer), None)
        if issuer is not None:
            await self._make(issuer, certificate.serial_number)
        return True

    async def _earlier(self) -> AsyncIterator[bool]:
        """One answer at a time, about the newest first, until there are enough."""
        query: LedgerQuery | None = LedgerQuery(limit=_PAGE)
        while query is not None:
            page = await self._ledger.page(query, unix(self._clock.now()))
            for entry in page.certificates:
                if self._answers.filled >= _FULL:
                    return
                ca = self._hierarchy.cas.get(entry.issuer)
                if ca is not None and entry.status in _LIVE and entry.profile in self._profiles:
                    await self._make(ca.issuer.certificate, parse_serial(entry.serial))
                    yield True
            query = None if page.next is None else query.following(page.next)
            yield True

    async def _make(self, issuer: x509.Certificate, serial: int) -> None:
        if not await self._answers.make_ready(issuer, serial):
            await self._rest(_PAUSE)
