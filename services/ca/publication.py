"""Publishing CRLs: numbered, at most one per list and second, durable before anybody sees them.

A list is an issuer's complete one (ID) or one of its shards (ID/1, ID/2, ...); each comes with the delta to it, of the
same number and second (RFC 5280 §5.2.3). A revocation makes its lists due at once; half of a list's life makes it due
anyway. thisUpdate strictly rises, since OpenSSL chooses between two CRLs of an issuer by it. An entry leaves only after
it stood in a CRL that was issued after its certificate had expired (RFC 5280 §3.3). A shard that was once published is
published for ever, whatever the settings say now, since certificates name it. Roots' CRLs are made offline; here they
are only read.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from pkicore.clock import Clock, from_unix, unix
from pkicore.crl import build_crl
from pkicore.errors import BadSignatureError, KeyAccessError
from pkicore.x509.tbs import delta_url
from services.ca.crl_entries import ShardEntries, Spliced, spliced
from services.ca.crl_lists import CrlList
from services.ca.errors import PublicationDelayedError
from services.ca.feed import RevocationLog
from services.ca.issuance import IssuingCa
from services.ca.revocation_store import RevocationStore, Revoked, StoredCrl
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
    """The newest CRL of every list, and the one task that makes new ones; it follows the log of revocations itself."""

    def __init__(
        self,
        *,
        store: RevocationStore,
        log: RevocationLog,
        cas: Mapping[str, IssuingCa],
        roots: Collection[str],
        clock: Clock,
        lifetime: timedelta,
        former_base_url: str = "",
    ) -> None:
        self._store = store
        self._log = log
        self._cas = cas
        self._roots = roots
        self._clock = clock
        self._lifetime = int(lifetime.total_seconds())
        self._former_base_url = former_base_url
        self._entries: dict[str, dict[int, ShardEntries]] = {issuer: {0: ShardEntries()} for issuer in cas}
        self._lists = {item.path: item for issuer, ca in cas.items() for item in CrlList.of(issuer, ca.issuer)}
        self._current: dict[str, StoredCrl] = {}
        self._deltas: dict[str, StoredCrl] = {}
        self._due: set[str] = set(self._lists)
        self._wake = asyncio.Event()
        self._published = asyncio.Condition()
        self._listeners: list[Callable[[StoredCrl], None]] = []
        log.subscribe(self._take)

    @property
    def current(self) -> Mapping[str, StoredCrl]:
        """The newest CRL of each list, by its path below /crl."""
        return self._current

    def newest(self, path: str) -> StoredCrl | None:
        """The newest CRL, or delta, at this path below /crl."""
        return self._current.get(path) or self._deltas.get(path)

    @property
    def complete(self) -> bool:
        """Whether every list has a CRL that is not out of date."""
        now = unix(self._clock.now())
        wanted = {*self._lists, *self._roots}
        return all(name in self._current and self._current[name].next_update > now for name in wanted)

    def subscribe(self, listener: Callable[[StoredCrl], None]) -> None:
        """Have `listener` called with each CRL, not with deltas, as it becomes the newest; it must not block."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Read the newest CRLs, of roots and of our own, from the database; shards of earlier settings among them.

        Raises:
            DatabaseError: the database cannot be read.
        """
        found = (CrlList.parse(path) for path in await self._store.lists())
        earlier = {item.path: item for item in found if item is not None and item.issuer in self._cas}
        self._due |= earlier.keys() - self._lists.keys()
        self._lists |= earlier
        await self._load((*self._lists, *self._roots))

    async def extend(self, seconds: float) -> None:
        """Take up the issuers and roots that have come since, and wait for the first CRLs, for so long at most.

        Raises:
            DatabaseError: the database cannot be read.
        """
        new = [name for name in self._cas if name not in self._lists]
        lists = {item.path: item for name in new for item in CrlList.of(name, self._cas[name].issuer)}
        for name in new:
            self._entries.setdefault(name, {0: ShardEntries()})
        self._lists |= lists
        await self._load((*lists, *self._roots))
        self._due |= set(lists)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(lambda: lists.keys() <= self._current.keys())
        except TimeoutError:
            _log.error("the first CRL of a new issuing CA is not published yet", issuers=new)

    async def publish_all(self, seconds: float = _PUBLISH_SECONDS) -> Mapping[str, int]:
        """Have every list published anew; issuer id to the number of its new complete CRL.

        Raises:
            PublicationDelayedError: a CRL is not there in time; it comes when it can.
        """
        before = {path: self._number(path) for path in self._lists}
        self._due |= set(self._lists)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(
                    lambda: all(self._number(path) > number for path, number in before.items())
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
        # What another replica has published must not be missing from the number that follows.
        await self._log.refresh()
        now = unix(self._clock.now())
        self._due |= {path for path in self._lists if self._updated(path) + self._lifetime // 2 <= now}
        for path in sorted(self._due):
            if self._updated(path) < now:
                self._due.discard(path)
                try:
                    await self._publish(self._lists[path], now)
                except FAILURES:
                    self._due.add(path)
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

    def _take(self, batch: Sequence[Revoked]) -> None:
        """What happened, from the log: the lists concerned are due."""
        by_shard = defaultdict[tuple[str, int], list[Revoked]](list)
        for revoked in batch:
            by_shard[revoked.issuer, revoked.shard].append(revoked)
        for (issuer, shard), some in by_shard.items():
            concerned = CrlList(issuer), CrlList(issuer, shard)
            base = min(self._base(item)[1] for item in concerned)
            entries = self._entries.setdefault(issuer, {0: ShardEntries()}).setdefault(shard, ShardEntries())
            for revoked in some:
                entries.take(revoked, changed=revoked.sequence > base)
            if issuer not in self._cas:  # a root, or one that another process has taken up before this one
                continue
            self._lists |= {item.path: item for item in concerned}
            self._due |= {item.path for item in concerned}
        self._wake.set()

    async def _load(self, paths: Iterable[str]) -> None:
        for path in paths:
            stored = await self._store.crl(path)
            delta = await self._store.crl(self._lists[path].delta_path) if path in self._lists else None
            if stored is not None:
                self._show(stored, delta)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _publish(self, item: CrlList, now: int) -> None:
        number, updated = self._number(item.path) + 1, self._updated(item.path)
        crl = StoredCrl(item.path, number, now, now + self._lifetime, b"", sequence=self._log.last)
        base_number, base_sequence, base_update = self._next_base(item, crl)
        # Both are of the entries of this moment: a revocation while one is signed is in neither. So the few changes are
        # copied; the complete list is spliced before anything is waited for.
        entries = [part for shard in self._shards(item) for part in shard.complete(updated)]
        changes = spliced(part for shard in self._shards(item) for part in shard.since(base_sequence))
        count = sum(part.count for part in entries)
        delta = replace(
            crl,
            issuer=item.delta_path,
            base_number=base_number,
            base_sequence=base_sequence,
            base_update=base_update,
        )
        crl = replace(crl, der=await self._signed(item, crl, entries))
        delta = replace(delta, der=await self._signed(item, delta, [changes]))
        detail = {"issuer": item.path, "number": number, "entries": count}
        try:
            await self._store.store_crl(crl, AuditEvent("crl.published", "ca", detail), delta)
        except (ConflictError, DuplicateError):  # another process published first: its CRL may lack what ours has
            self._due.add(item.path)
            await self._load((item.path,))
            return
        self._show(crl, delta)
        self._forget(item)
        _log.info("CRL published", issuer=item.path, number=number, entries=count, delta=changes.count)
        async with self._published:
            self._published.notify_all()

    async def _signed(self, item: CrlList, crl: StoredCrl, entries: Sequence[Spliced]) -> bytes:
        ca = self._cas[item.issuer]
        urls = self._urls(item)
        return await build_crl(
            ca.issuer.certificate,
            ca.key,
            [part.octets for part in entries],
            number=crl.number,
            this_update=from_unix(crl.this_update),
            next_update=from_unix(crl.next_update),
            distribution_points=urls,
            scope="user",
            base_number=crl.base_number or None,
            freshest=() if crl.base_number else [delta_url(urls[0])],
        )

    def _shards(self, item: CrlList) -> Iterator[ShardEntries]:
        shards = self._entries[item.issuer]
        if not item.shard:
            yield from shards.values()
        elif item.shard in shards:
            yield shards[item.shard]

    def _base(self, item: CrlList) -> tuple[int, int, int]:
        """Number, sequence and thisUpdate of what the newest delta builds on."""
        delta = self._deltas.get(item.delta_path)
        return (0, 0, 0) if delta is None else (delta.base_number, delta.base_sequence, delta.base_update)

    def _next_base(self, item: CrlList, crl: StoredCrl) -> tuple[int, int, int]:
        """A delta builds on the same list for half of that list's life, then on the one before this one."""
        number, sequence, updated = self._base(item)
        if number and crl.this_update < updated + self._lifetime // 2:
            return number, sequence, updated
        before = self._current.get(item.path, crl)
        return before.number, before.sequence, before.this_update

    def _forget(self, item: CrlList) -> None:
        """What neither this list nor another of its entries needs any more."""
        for number, shard in self._entries[item.issuer].items():
            if item.shard in {0, number}:
                concerned = CrlList(item.issuer), CrlList(item.issuer, number)
                base = min(self._base(each)[1] for each in concerned)
                shard.published(base, min(self._updated(each.path) for each in concerned))

    def _urls(self, item: CrlList) -> list[str]:
        """A certificate takes a CRL only if its own CRL URL stands in it.

        So those of older certificates stay, and the complete list has those of the shards, too.
        """
        shards = [] if item.shard else [each.shard for each in self._lists.values() if each.issuer == item.issuer]
        issuer = self._cas[item.issuer].issuer
        ours = [issuer.shard_url(shard) for shard in sorted({item.shard, *shards})]
        former = self._former_base_url
        return ours + ([f"{former}/crl/{url.partition('/crl/')[2]}" for url in ours] if former else [])

    def _show(self, crl: StoredCrl, delta: StoredCrl | None) -> None:
        if crl.number <= self._number(crl.issuer):
            return
        self._current[crl.issuer] = crl
        if delta is not None:
            self._deltas[delta.issuer] = delta
        for listener in self._listeners:
            listener(crl)

    def _number(self, path: str) -> int:
        return self._current[path].number if path in self._current else 0

    def _updated(self, path: str) -> int:
        return self._current[path].this_update if path in self._current else 0
