"""Publishing CRLs: numbered, at most one per list and second, durable before anybody sees them.

A list is an issuer's complete one (ID) or one of its shards (ID/1, ID/2, ...); each comes with the delta to it, of the
same number and second (RFC 5280 §5.2.3). A revocation makes its lists due at once; half of a list's life makes it due
anyway. A large list rests in proportion to what it costs; meanwhile its delta comes alone, with the next number.
thisUpdate strictly rises, since OpenSSL chooses between two CRLs of an issuer by it. An entry leaves only after it
stood in a CRL that was issued after its certificate had expired (RFC 5280 §3.3). A shard that was once published is
published for ever, whatever the settings say now, since certificates name it. Once the last certificate of a retired
issuing CA has ended, its next lists are its last ones, and hold without end. Roots' CRLs are made offline; here they
are only read.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, unix
from pkicore.errors import BadSignatureError, KeyAccessError, MalformedError
from services.ca.crl_entries import ShardEntries, final_of, spliced
from services.ca.crl_lists import CrlList
from services.ca.crl_pace import Overdue, Pace, Trouble
from services.ca.crl_signing import ListSigner, check_signature
from services.ca.errors import PublicationDelayedError
from services.ca.feed import RevocationLog
from services.ca.issuance import IssuingCa
from services.ca.responders import PROFILE
from services.ca.revocation_store import Revoked, StoredCrl
from services.ca.store import CaStore
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError, DuplicateError

_PUBLISH_SECONDS: Final = 15.0
FAILURES: Final = (DatabaseError, KeyAccessError, BadSignatureError)
"""What keeps a CRL from being published for now; the last one is served meanwhile."""
_TICK: Final = 30.0  # seconds between looks at the clock and at the roots' CRLs
_SAME_SECOND: Final = 0.1  # seconds to wait for the next whole second
_LARGE_DELTA: Final = 20_000  # entries from which a delta builds on the newest list, however young its base is
WITHOUT_END: Final = unix(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
"""nextUpdate of an issuing CA's last lists (as RFC 5280 §4.1.2.5 says "no end")."""

_log = structlog.get_logger(__name__)


class CrlPublisher:
    """The newest CRL of every list, and the one task that makes new ones; it follows the log of revocations itself."""

    def __init__(
        self,
        *,
        store: CaStore,
        log: RevocationLog,
        cas: Mapping[str, IssuingCa],
        roots: Collection[str],
        clock: Clock,
        lifetime: timedelta,
        former_base_url: str = "",
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._cas = cas
        self._roots = roots
        self._clock = clock
        self._lifetime = int(lifetime.total_seconds())
        self._entries: dict[str, dict[int, ShardEntries]] = {issuer: {0: ShardEntries()} for issuer in cas}
        self._lists = {item.path: item for issuer, ca in cas.items() for item in CrlList.of(issuer, ca.issuer)}
        self._signer = ListSigner(cas, self._lists, former_base_url)
        self._current: dict[str, StoredCrl] = {}
        self._newest: dict[str, StoredCrl] = {}  # as `_current`, or newer, of another process, perhaps without entries
        self._unusable: set[str] = set()
        self._deltas: dict[str, StoredCrl] = {}
        self._due: set[str] = set(self._lists)
        self._untold: set[str] = set()  # of those due, where not even a delta tells of everything
        self._taken_up: set[str] = set()  # by `extend`, and not published since
        self._pace, self._trouble, self._overdue = pace or Pace(), Trouble(), Overdue(clock)
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

    def subscribe(self, listener: Callable[[StoredCrl], None]) -> None:
        """Have `listener` called with each CRL, not with deltas, as it becomes the newest; it must not block."""
        self._listeners.append(listener)

    def register(self, registry: CollectorRegistry) -> None:
        """Show the metrics in a registry."""
        self._overdue.register(registry)

    async def load(self) -> None:
        """Read the newest CRLs, of roots and of our own, from the database; shards of earlier settings among them.

        Large ones are there once the log of revocations was read, and `publish_due` was called.

        Raises:
            DatabaseError: the database cannot be read.
        """
        found = (CrlList.parse(path) for path in await self._store.lists())
        earlier = {item.path: item for item in found if item is not None and item.issuer in self._cas}
        self._due |= earlier.keys() - self._lists.keys()
        self._lists |= earlier
        await self._load((*self._lists, *self._roots))

    async def extend(self, seconds: float) -> None:
        """Take up the issuers, shards and roots that have come since, and wait for their lists, for so long at most.

        An issuer's complete list is made anew for new shards, since it speaks for their certificates, too.

        Raises:
            DatabaseError: the database cannot be read.
            PublicationDelayedError: not all of them are published yet; no certificate may name them, ask again.
        """
        lists = {item.path: item for name, ca in self._cas.items() for item in CrlList.of(name, ca.issuer)}
        new = lists.keys() - self._lists.keys()
        self._taken_up |= new | {lists[path].issuer for path in new}
        for name in self._cas:
            self._entries.setdefault(name, {0: ShardEntries()})
        self._lists |= lists
        await self._load((*new, *self._roots))
        self._due |= self._taken_up
        self.hurry()
        try:
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(lambda: not self._taken_up)
        except TimeoutError as error:
            missing = ", ".join(sorted(self._taken_up))
            raise PublicationDelayedError(
                f"nothing is issued under new CRLs before they are there: {missing}"
            ) from error

    async def publish_all(self, seconds: float = _PUBLISH_SECONDS) -> Mapping[str, int]:
        """Have every list published anew; issuer id to the number of its new complete CRL.

        Raises:
            PublicationDelayedError: a CRL is not there in time; it comes when it can.
        """
        wanted = {path for path in self._lists if not self._is_last(path)}
        before = {path: self._current[path].number if path in self._current else 0 for path in wanted}
        self._due |= wanted
        self.hurry()
        try:
            async with asyncio.timeout(seconds), self._published:
                await self._published.wait_for(
                    lambda: all(
                        path in self._current and self._current[path].number > number for path, number in before.items()
                    )
                )
        except TimeoutError as error:
            raise PublicationDelayedError(
                "the CRLs are not published yet: the clock was set back behind the newest one, or the log says why"
            ) from error
        return {issuer: self._current[issuer].number for issuer in self._cas if issuer in self._current}

    async def publish_due(self) -> bool:
        """Publish what is due and may be published in this second; whether nothing is left due.

        Raises:
            DatabaseError: nothing was published; it is still due.
            KeyAccessError, BadSignatureError: likewise.
        """
        # What another replica has published must not be missing from the number that follows.
        await self._log.refresh()
        await self._restore()
        now = unix(self._clock.now())
        self._due |= {path for path in self._lists if self._is_old(path, now)}
        self._overdue.note(self._due | self._untold)
        for path in sorted(self._due | self._untold):
            whole = path in self._due and not self._pace.rest(path)
            if self._updated(path) < now and (whole or path in self._untold):
                self._untold.discard(path)
                if whole:
                    self._due.discard(path)
                try:
                    await self._publish(self._lists[path], now, whole=whole)
                except FAILURES:
                    self._due.add(path)
                    self._untold.add(path)
                    raise
        self._overdue.note(self._due | self._untold)
        return not self._due and not self._untold

    async def publish_outstanding(self, seconds: float) -> None:
        """Publish until nothing is due, for so long at most: a clock set back must not keep the CA from starting.

        Raises:
            DatabaseError, KeyAccessError, BadSignatureError: as `publish_due`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not await self.publish_due():
                    self._wake.clear()
                    await self._pause(self._next_attempt())
        except TimeoutError:
            _log.warning("the newest CRL is not older than the clock; the next one comes later", due=sorted(self._due))

    def hurry(self) -> None:
        """Publish what is due though it should rest."""
        self._pace.hurry()
        self._wake.set()

    async def rested(self) -> None:
        """Return once no list needs a rest; what is due may be published then."""
        await asyncio.sleep(max(map(self._pace.rest, self._lists), default=0.0))

    async def run(self) -> None:
        """Publish for ever; a failure is logged and tried again."""
        while True:
            self._wake.clear()
            try:
                await self._load(self._roots)
                pause = _TICK if await self.publish_due() else self._next_attempt()
            except FAILURES as error:
                pause = self._trouble.failed(error)
            else:
                self._trouble.over()
            await self._pause(pause)

    def _next_attempt(self) -> float:
        """Seconds until what is left may be published: what waits for the next second, or for its list's rest."""
        waiting = self._due - self._untold
        if self._untold or not waiting:
            return _SAME_SECOND
        return max(_SAME_SECOND, min(map(self._pace.rest, waiting)))

    def _take(self, batch: Sequence[Revoked]) -> None:
        """What happened, from the log: the lists concerned are due."""
        by_shard = defaultdict[tuple[str, int], list[Revoked]](list)
        for revoked in batch:
            by_shard[revoked.issuer, revoked.shard].append(revoked)
        for (issuer, shard), some in by_shard.items():
            concerned = CrlList(issuer), CrlList(issuer, shard)
            base = min(self._base(item)[1] for item in concerned)
            entries = self._entries.setdefault(issuer, {0: ShardEntries()}).setdefault(shard, ShardEntries())
            entries.take(some, base)
            if issuer not in self._cas:  # a root, or one that another process has taken up before this one
                continue
            self._lists |= {item.path: item for item in concerned}
            now = unix(self._clock.now())
            matters = any(revoked.not_after >= now for revoked in some)
            paths = {item.path for item in concerned if matters or not self._is_last(item.path)}
            self._due |= paths
            self._untold |= paths
        self._wake.set()

    async def _load(self, paths: Iterable[str]) -> None:
        for path in paths:
            stored = await self._store.crl_row(path)
            delta = await self._store.crl_row(self._lists[path].delta_path) if path in self._lists else None
            self._show(stored, delta)

    async def _restore(self) -> None:
        """Put the entries into large lists from the database of which there is no earlier one to show."""
        for path in self._newest.keys() - self._current.keys() - self._unusable:
            stored, item = self._newest[path], self._lists[path]
            final = final_of(self._shards(item), stored.ended_before, stored.sequence)
            try:
                whole = stored.completed(part.octets for part in final)
                await asyncio.to_thread(check_signature, whole, self._cas[item.issuer].issuer.certificate)
            except (MalformedError, BadSignatureError) as error:
                self._unusable.add(path)
                _log.error("stored CRL not shown, the next one will be", issuer=path, error=str(error))
            else:
                self._current[path] = self._newest[path] = whole
                self._tell(whole)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _publish(self, item: CrlList, now: int, *, whole: bool) -> None:
        begun = time.monotonic()
        number, before = self._number(item.path) + 1, self._newest.get(item.path)
        taken_up = self._taken_up & {item.path} if whole else set()
        crl = StoredCrl(
            item.path,
            number,
            now,
            WITHOUT_END if await self._is_over(item, now) else now + self._lifetime,
            b"",
            sequence=self._log.last,
            ended_before=0 if before is None else before.this_update,
        )
        base_number, base_sequence, base_update = self._next_base(item, crl)
        # Both are of the entries of this moment: a revocation while one is signed is in neither.
        shards = self._shards(item)
        final = final_of(shards, crl.ended_before, crl.sequence) if whole else []
        held = [part for shard in shards.values() for part in shard.held(crl.ended_before)]
        changes = spliced(part for shard in shards.values() for part in shard.since(base_sequence))
        delta = replace(
            crl,
            issuer=item.delta_path,
            base_number=base_number,
            base_sequence=base_sequence,
            base_update=base_update,
        )
        delta = replace(delta, der=await self._signer.sign(item, delta, [changes]))
        detail = {"issuer": item.delta_path, "number": number, "entries": changes.count}
        if whole:
            crl = replace(crl, der=await self._signer.sign(item, crl, [*final, *held]))
            detail = {"issuer": item.path, "number": number, "entries": sum(part.count for part in (*final, *held))}
        try:
            await self._store.store_lists(
                delta,
                crl if whole else None,
                AuditEvent("crl.published", "ca", detail),
                is_first=item.delta_path not in self._deltas,
                final_octets=sum(len(part.octets) for part in final),
            )
        except (ConflictError, DuplicateError):  # another process published first: its CRL may lack what ours has
            self._due.add(item.path)
            self._untold.add(item.path)
            await self._load((item.path,))
            return
        self._show(crl if whole else None, delta)
        self._taken_up -= taken_up
        self._forget(item)
        if whole:
            self._pace.spent(
                item.path, time.monotonic() - begun, octets=len(crl.der), entries=sum(part.count for part in final)
            )
        _log.info("CRL published", **detail, delta=changes.count)
        async with self._published:
            self._published.notify_all()

    def _shards(self, item: CrlList) -> Mapping[int, ShardEntries]:
        shards = self._entries[item.issuer]
        return {number: shard for number, shard in shards.items() if item.shard in {0, number}}

    def _is_last(self, path: str) -> bool:
        """Whether no list follows this one: all that the issuing CA has issued has ended."""
        newest = self._newest.get(path)
        retired = path in self._lists and self._cas[self._lists[path].issuer].state == "retired"
        return retired and newest is not None and newest.next_update == WITHOUT_END

    def _is_old(self, path: str, now: int) -> bool:
        newest = self._newest.get(path)
        half = 0 if newest is None else newest.this_update + self._lifetime // 2
        return half <= now and not self._is_last(path)

    async def _is_over(self, item: CrlList, now: int) -> bool:
        if self._cas[item.issuer].state != "retired":
            return False
        return await self._store.last_expiry(item.issuer, but=PROFILE) < now

    def _base(self, item: CrlList) -> tuple[int, int, int]:
        """Number, sequence and thisUpdate of what the newest delta builds on."""
        delta = self._deltas.get(item.delta_path)
        return (0, 0, 0) if delta is None else (delta.base_number, delta.base_sequence, delta.base_update)

    def _next_base(self, item: CrlList, crl: StoredCrl) -> tuple[int, int, int]:
        """A delta builds on the same list for half of that list's life, or while it is small, then on the newest."""
        number, sequence, updated = self._base(item)
        changed = sum(shard.count_since(sequence) for shard in self._shards(item).values())
        if number and crl.this_update < updated + self._lifetime // 2 and changed <= _LARGE_DELTA:
            return number, sequence, updated
        before = self._newest.get(item.path, crl)
        return before.number, before.sequence, before.this_update

    def _forget(self, item: CrlList) -> None:
        """What neither this list nor another of its entries needs any more."""
        for number, shard in self._entries[item.issuer].items():
            if item.shard in {0, number}:
                concerned = CrlList(item.issuer), CrlList(item.issuer, number)
                base = min(self._base(each)[1] for each in concerned)
                shard.published(base, min(self._complete_update(each.path) for each in concerned))

    def _show(self, crl: StoredCrl | None, delta: StoredCrl | None) -> None:
        if delta is not None and delta.number > self._number_of(self._deltas, delta.issuer):
            self._deltas[delta.issuer] = delta
        if crl is None or crl.number <= self._number_of(self._newest, crl.issuer):
            return
        self._newest[crl.issuer] = crl
        if crl.is_whole:  # else it is another process's, and the next one will be ours
            self._current[crl.issuer] = crl
            self._tell(crl)

    def _tell(self, crl: StoredCrl) -> None:
        for listener in self._listeners:
            listener(crl)

    @staticmethod
    def _number_of(lists: Mapping[str, StoredCrl], path: str) -> int:
        return lists[path].number if path in lists else 0

    def _number(self, path: str) -> int:
        """Lists and the deltas to them count together."""
        return max(self._number_of(self._newest, path), self._number_of(self._deltas, f"{path}/delta"))

    def _complete_update(self, path: str) -> int:
        return self._newest[path].this_update if path in self._newest else 0

    def _updated(self, path: str) -> int:
        delta = self._deltas.get(f"{path}/delta")
        return max(self._complete_update(path), 0 if delta is None else delta.this_update)
