"""Publishing CRLs: numbered, at most one per issuer and second, durable before anybody sees them.

A revocation makes its issuer's CRL due at once; half of a CRL's life makes it due anyway. thisUpdate strictly rises,
since OpenSSL chooses between two CRLs of an issuer by it. An entry leaves only after it stood in a CRL that was issued
after its certificate had expired (RFC 5280 §3.3). Roots' CRLs are made offline; here they are only read.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from pkicore.clock import Clock, from_unix, unix
from pkicore.crl import build_crl
from pkicore.errors import BadSignatureError, KeyAccessError
from services.ca.errors import PublicationDelayedError
from services.ca.issuance import IssuingCa
from services.ca.store import CaStore, Revoked, StoredCrl
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError, DuplicateError

_PUBLISH_SECONDS: Final = 15.0
_RETRY: Final = 1.0  # seconds after a failed publication
FAILURES: Final = (DatabaseError, KeyAccessError, BadSignatureError)
"""What keeps a CRL from being published for now; the last one is served meanwhile."""
_TICK: Final = 30.0  # seconds between looks at the clock and at the roots' CRLs
_SAME_SECOND: Final = 0.1  # seconds to wait for the next whole second

_log = structlog.get_logger(__name__)


class CrlPublisher:
    """The newest CRL of every issuer, and the one task that makes new ones."""

    def __init__(
        self,
        *,
        store: CaStore,
        cas: Mapping[str, IssuingCa],
        roots: Sequence[str],
        clock: Clock,
        lifetime: timedelta,
        former_base_url: str = "",
    ) -> None:
        self._store = store
        self._cas = cas
        self._roots = roots
        self._clock = clock
        self._lifetime = lifetime
        self._former_base_url = former_base_url
        self._entries: dict[str, list[tuple[int, bytes]]] = {issuer: [] for issuer in cas}
        self._current: dict[str, StoredCrl] = {}
        self._due: set[str] = set(cas)
        self._wake = asyncio.Event()
        self._published = asyncio.Condition()
        self._listeners: list[Callable[[StoredCrl], None]] = []

    @property
    def current(self) -> Mapping[str, StoredCrl]:
        """The newest CRL by issuer id."""
        return self._current

    @property
    def complete(self) -> bool:
        """Whether every issuer has a CRL that is not out of date."""
        now = unix(self._clock.now())
        wanted = {*self._cas, *self._roots}
        return all(name in self._current and self._current[name].next_update > now for name in wanted)

    def subscribe(self, listener: Callable[[StoredCrl], None]) -> None:
        """Have `listener` called with each CRL as it becomes the newest; it must not block."""
        self._listeners.append(listener)

    def take(self, batch: Sequence[Revoked]) -> None:
        """New revocations, from the log: the CRLs of their issuers are due."""
        for revoked in batch:
            if revoked.issuer in self._entries:
                self._entries[revoked.issuer].append((revoked.not_after, revoked.entry))
                self._due.add(revoked.issuer)
        self._wake.set()

    async def load(self) -> None:
        """Read the newest CRLs, of roots and of our own, from the database.

        Raises:
            DatabaseError: the database cannot be read.
        """
        await self._load((*self._cas, *self._roots))

    async def publish_all(self, seconds: float = _PUBLISH_SECONDS) -> Mapping[str, int]:
        """Have every issuing CA publish anew; issuer id to the number of its new CRL.

        Raises:
            PublicationDelayedError: a CRL is not there in time; it comes when it can.
        """
        before = {issuer: self._number(issuer) for issuer in self._cas}
        self._due |= set(self._cas)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(
                    lambda: all(self._number(issuer) > number for issuer, number in before.items())
                )
        except TimeoutError as error:
            raise PublicationDelayedError(
                "the CRLs are not published yet: the clock was set back behind the newest one, or the log says why"
            ) from error
        return {issuer: self._number(issuer) for issuer in self._cas}

    async def publish_due(self) -> bool:
        """Publish what is due and may be published in this second; whether nothing is left due.

        Raises:
            DatabaseError: nothing was published; it is still due.
            KeyAccessError, BadSignatureError: likewise.
        """
        now = unix(self._clock.now())
        half_life = int(self._lifetime.total_seconds()) // 2
        self._due |= {name for name in self._cas if self._updated(name) + half_life <= now}
        for issuer in sorted(self._due):
            if self._updated(issuer) < now:
                self._due.discard(issuer)
                try:
                    await self._publish(self._cas[issuer], now)
                except FAILURES:
                    self._due.add(issuer)
                    raise
        return not self._due

    async def publish_outstanding(self, seconds: float) -> None:
        """Publish until nothing is due, for so long at most: a clock set back must not keep the CA from starting.

        Raises:
            DatabaseError, KeyAccessError, BadSignatureError: as `publish_due`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not await self.publish_due():
                    self._wake.clear()
                    await self._pause(_SAME_SECOND)
        except TimeoutError:
            _log.warning("the newest CRL is not older than the clock; the next one comes later", due=sorted(self._due))

    async def run(self) -> None:
        """Publish for ever; a failure is logged and tried again."""
        while True:
            pause = _RETRY
            self._wake.clear()
            try:
                await self._load(self._roots)
                pause = _TICK if await self.publish_due() else _SAME_SECOND
            except FAILURES as error:
                _log.error("CRL not published", error=str(error))
            await self._pause(pause)

    async def _load(self, issuers: Sequence[str]) -> None:
        for issuer in issuers:
            stored = await self._store.crl(issuer)
            if stored is not None:
                self._show(stored)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _publish(self, ca: IssuingCa, now: int) -> None:
        issuer = ca.issuer.id
        previous = self._current.get(issuer)
        kept = [item for item in self._entries[issuer] if previous is None or item[0] >= previous.this_update]
        next_update = now + int(self._lifetime.total_seconds())
        number = self._number(issuer) + 1
        der = await build_crl(
            ca.issuer.certificate,
            ca.key,
            [entry for _, entry in kept],
            number=number,
            this_update=from_unix(now),
            next_update=from_unix(next_update),
            distribution_points=self._urls(ca),
            scope="user",
        )
        crl = StoredCrl(issuer, number, now, next_update, der)
        event = AuditEvent("crl.published", "ca", {"issuer": issuer, "number": number, "entries": len(kept)})
        try:
            await self._store.store_crl(crl, event)
        except (ConflictError, DuplicateError):  # another process published first: its CRL may lack what ours has
            self._due.add(issuer)
            await self._load((issuer,))
            return
        gone = len(self._entries[issuer]) - len(kept)
        if gone:
            leaving = previous.this_update if previous else 0
            self._entries[issuer] = [item for item in self._entries[issuer] if item[0] >= leaving]
        self._show(crl)
        _log.info("CRL published", issuer=issuer, number=number, entries=len(kept))
        async with self._published:
            self._published.notify_all()

    def _urls(self, ca: IssuingCa) -> list[str]:
        """A certificate takes a CRL only if its own CRL URL stands in it, so those of older certificates stay."""
        former = [f"{self._former_base_url}/crl/{ca.issuer.id}"] if self._former_base_url else []
        return [ca.issuer.crl_url, *former]

    def _show(self, crl: StoredCrl) -> None:
        if crl.number > self._number(crl.issuer):
            self._current[crl.issuer] = crl
            for listener in self._listeners:
                listener(crl)

    def _number(self, issuer: str) -> int:
        return self._current[issuer].number if issuer in self._current else 0

    def _updated(self, issuer: str) -> int:
        return self._current[issuer].this_update if issuer in self._current else 0
