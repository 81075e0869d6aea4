"""CRLs as a listener or client needs them: fetched, verified, never older than before, kept on disk, never too stale.

1. fetch   2. verify signature, issuer and times   3. refuse a CRL number lower than the one held (RFC 5280 §5.2.3)
4. keep on disk   5. tell those who built something from the old one.

Which list speaks of a certificate is said by the distribution points that both name; where no list does, the status is
unknown, and nobody is let in. Held are the complete lists of all issuers; or, of issuing CAs, those lists that the
certificates of peers name, complete ones or shards, each from when the first such peer came.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from pkicore.clock import Clock
from pkicore.crl import VerifiedCrl
from pkicore.encoding import write_atomically
from pkicore.errors import PkiError, RevokedError, StaleStatusError, StatusUnknownError
from pkicore.mtls.peer import IssuedBy, key_hash

FetchCrl = Callable[[x509.Certificate], Awaitable[bytes]]
FetchShard = Callable[[x509.Certificate, int], Awaitable[bytes]]
FETCH_TIMEOUT = 30.0
"""Seconds that one fetch of a CRL or staple may take."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_LARGE = 1 << 20  # octets
_SHARD = re.compile(r"/([1-9][0-9]{0,5})\Z", re.ASCII)
_KEY_CHARACTERS = 32  # of a file's name: half of the digest of the issuer's key


@dataclass(frozen=True)
class _List:
    """What is wanted of an issuer: its complete list, or a shard (from 1)."""

    key: bytes
    shard: int = 0

    @property
    def file_name(self) -> str:
        return f"{self.key.hex()[:_KEY_CHARACTERS]}{f'-{self.shard}' if self.shard else ''}.crl"

    @classmethod
    def named(cls, key: bytes, url: str) -> _List:
        """That of an issuer at a distribution point: a shard's URL ends in its number."""
        shard = _SHARD.search(url)
        return cls(key, int(shard[1]) if shard else 0)


class ListMissingError(StatusUnknownError):
    """The lists that speak of a certificate are not held, and may be had: `CrlCache.take_up` gets them."""

    def __init__(self, message: str, lists: frozenset[_List]) -> None:
        super().__init__(message)
        self.lists = lists


@dataclass(frozen=True)
class _Held:
    crl: VerifiedCrl
    confirmed_at: datetime
    """When its publisher last served it as the newest."""


class CrlCache:
    """The newest CRLs: each issuer's complete one, or of issuing CAs those that are named.

    A CRL may be used until its nextUpdate, and no longer than `max_staleness` after its publisher was last reached.

    Args:
        issuers: CA certificates whose CRLs are wanted, roots included.
        fetch: gives the DER of an issuer's CRL; it may fail in any way.
        directory: where CRLs outlive the process; None keeps them in memory only.
        clock: the time.
        max_staleness: how long the publisher may be unreachable before nothing is trusted any more.
        on_error: hears of each CRL that could not be fetched or was refused.
        fetch_shard: gives the DER of a shard, from 1; as `fetch`. With it, lists of issuing CAs are held that
            certificates name, and no others; of roots the complete ones, as ever.
    """

    def __init__(
        self,
        issuers: Sequence[x509.Certificate],
        fetch: FetchCrl,
        directory: Path | None,
        clock: Clock,
        max_staleness: timedelta,
        *,
        on_error: Callable[[x509.Certificate, Exception], None],
        fetch_shard: FetchShard | None = None,
    ) -> None:
        self._followed: dict[bytes, x509.Certificate] = {}
        self._wanted: dict[_List, x509.Certificate] = {}
        self._fetch = fetch
        self._fetch_shard = fetch_shard
        self._directory = directory
        self._clock = clock
        self._max_staleness = max_staleness
        self._on_error = on_error
        self._listeners: list[Callable[[], None]] = []
        self._held: dict[_List, _Held] = {}
        self._taking = asyncio.Lock()
        self._good_until = _NEVER
        self._wanted = self._wanted_of(issuers)
        self._load()

    def current(self) -> tuple[VerifiedCrl, ...]:
        """Every list that is wanted.

        Raises:
            StaleStatusError: one of them is missing, past its nextUpdate, or was not confirmed for too long.
        """
        if self._clock.now() > self._good_until:
            raise StaleStatusError(self._staleness())
        return self.newest()

    def newest(self) -> tuple[VerifiedCrl, ...]:
        """The CRLs held, however old: what they revoke stays revoked."""
        return tuple(held.crl for held in self._held.values())

    def check(self, links: Iterable[IssuedBy]) -> None:
        """Check each certificate of a verified chain against the CRL of its issuer.

        Raises:
            RevokedError: one of them is revoked.
            ListMissingError: no list that is held speaks of one of them; others may be had.
            StatusUnknownError: no list speaks of one of them.
        """
        missing = frozenset[_List]()
        for link in links:
            lists = [held.crl for each, held in self._held.items() if each.key == link.issuer_key_hash]
            if any(link.serial in crl.serials for crl in lists):
                raise RevokedError(link.serial)
            if not any(crl.covers(link.crl_urls) for crl in lists):
                missing |= self._missing(link)
        if missing:
            raise ListMissingError("a CRL that a certificate names is not at hand", missing)

    def follows(self, certificate: x509.Certificate) -> bool:
        """Whether the lists that speak of a certificate, which need not be genuine, are had when they are needed."""
        return any(issuer.subject == certificate.issuer for issuer in self._followed.values())

    async def take_up(self, missing: ListMissingError) -> None:
        """Get lists that were missing, and hold them from now on; failures go to `on_error`."""
        async with self._taking:
            wanted = {each: self._followed[each.key] for each in missing.lists - self._held.keys()}
            taken = await asyncio.gather(*(self._refresh_one(each, issuer) for each, issuer in wanted.items()))
            self._wanted |= {each: issuer for each, issuer in wanted.items() if each in self._held}
            self._measure()
        if any(taken):
            for listener in self._listeners:
                listener()

    def _missing(self, link: IssuedBy) -> frozenset[_List]:
        """The lists that may speak of a certificate, of which none that is held does.

        Raises:
            StatusUnknownError: there is none.
        """
        key = link.issuer_key_hash
        named = frozenset(_List.named(key, url) for url in link.crl_urls if key in self._followed)
        if not named - self._held.keys():
            raise StatusUnknownError(f"no CRL speaks for the certificate {link.serial:x}")
        return named - self._held.keys()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a newer CRL has been taken."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Fetch the CRL of every issuer; failures go to `on_error`, the CRLs held stay."""
        taken = await asyncio.gather(*(self._refresh_one(each, issuer) for each, issuer in self._wanted.items()))
        self._measure()
        if any(taken):
            for listener in self._listeners:
                listener()

    async def follow(self, issuers: Sequence[x509.Certificate]) -> bool:
        """Want the CRLs of these issuers from now on; a new one counts as soon as its CRL is at hand.

        Until then what it has issued is refused, and all else is judged as before. What an issuer has issued that is
        not wanted any more is refused at once. An issuing CA whose lists are had when they are needed counts now.

        Returns:
            Whether each of them counts; ask again where not.
        """
        wanted = self._wanted_of(issuers)
        fresh = {each: issuer for each, issuer in wanted.items() if each not in self._wanted}
        await asyncio.gather(*(self._refresh_one(each, issuer) for each, issuer in fresh.items()))
        before = self._wanted.keys()
        self._wanted = {each: issuer for each, issuer in wanted.items() if each in before or each in self._held}
        self._held = {each: held for each, held in self._held.items() if each in self._wanted}
        self._measure()
        if self._wanted.keys() != before:
            for listener in self._listeners:
                listener()
        return self._wanted.keys() == wanted.keys()

    async def run(self, interval: float) -> None:
        """Refresh every `interval` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def _refresh_one(self, wanted: _List, issuer: x509.Certificate) -> bool:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                if wanted.shard and self._fetch_shard is not None:
                    der = await self._fetch_shard(issuer, wanted.shard)
                else:
                    der = await self._fetch(issuer)
            return await self._take(wanted, issuer, der)
        except Exception as error:  # noqa: BLE001 (whatever the injected fetch raises is reported, and tried again)
            self._on_error(issuer, error)
            return False

    async def _take(self, wanted: _List, issuer: x509.Certificate, der: bytes) -> bool:
        now = self._clock.now()
        held = self._held.get(wanted)
        if held is not None and held.crl.der == der:
            self._held[wanted] = _Held(held.crl, now)
            self._keep(wanted, None, now)
            return False
        crl = await _verified(der, issuer, now)
        held = self._held.get(wanted)
        if held is not None and crl.number <= held.crl.number:
            raise StaleStatusError(f"CRL number {crl.number} does not follow {held.crl.number}: a replay")
        self._keep(wanted, der, now)
        self._held[wanted] = _Held(crl, now)
        return True

    def _keep(self, wanted: _List, der: bytes | None, confirmed_at: datetime) -> None:
        """The file's modification time is when the CRL was last confirmed, so staleness outlives a restart."""
        path = self._path(wanted)
        if path is None:
            return
        if der is not None:
            write_atomically(path, der, 0o644)
        os.utime(path, (confirmed_at.timestamp(), confirmed_at.timestamp()))

    def _wanted_of(self, issuers: Iterable[x509.Certificate]) -> dict[_List, x509.Certificate]:
        """The lists of these issuers: complete ones, and of those that are followed, those that were named before."""
        certificates = {key_hash(issuer): issuer for issuer in issuers}
        if self._fetch_shard is not None:
            self._followed = {key: each for key, each in certificates.items() if each.subject != each.issuer}
        named = {each: issuer for each, issuer in self._wanted.items() if each.key in self._followed}
        return named | {_List(key): each for key, each in certificates.items() if key not in self._followed}

    def _load(self) -> None:
        now = self._clock.now()
        self._wanted |= self._named_on_disk()
        for wanted, issuer in tuple(self._wanted.items()):
            path = self._path(wanted)
            if path is None or not path.exists():
                continue
            confirmed_at = min(now, datetime.fromtimestamp(int(path.stat().st_mtime), UTC))
            try:
                self._held[wanted] = _Held(VerifiedCrl.verify(path.read_bytes(), issuer, now), confirmed_at)
            except PkiError as error:
                self._on_error(issuer, error)
        self._wanted = {each: it for each, it in self._wanted.items() if each in self._held or not self._is_named(each)}
        self._measure()

    def _is_named(self, wanted: _List) -> bool:
        return wanted.key in self._followed

    def _named_on_disk(self) -> dict[_List, x509.Certificate]:
        """Lists that certificates named before the process began."""
        found = dict[_List, x509.Certificate]()
        if self._directory is None:
            return found
        for key, issuer in self._followed.items():
            for path in self._directory.glob(f"{key.hex()[:_KEY_CHARACTERS]}*.crl"):
                found[_List.named(key, path.stem.replace("-", "/"))] = issuer
        return found

    def _path(self, wanted: _List) -> Path | None:
        return None if self._directory is None else self._directory / wanted.file_name

    def _measure(self) -> None:
        wanted = [self._held[each] for each in self._wanted if each in self._held]  # more may be held, by `follow`
        complete = len(wanted) == len(self._wanted)
        self._good_until = min(map(self._expiry, wanted), default=_NEVER) if complete else _NEVER

    def _expiry(self, held: _Held) -> datetime:
        return min(held.crl.next_update, held.confirmed_at + self._max_staleness)

    def _staleness(self) -> str:
        now = self._clock.now()
        for wanted, issuer in self._wanted.items():
            name = issuer.subject.rfc4514_string() + (f", shard {wanted.shard}" if wanted.shard else "")
            held = self._held.get(wanted)
            if held is None:
                return f"no CRL of {name}"
            if now > self._expiry(held):
                return f"the CRL of {name} was last confirmed at {held.confirmed_at:%Y-%m-%dT%H:%M:%SZ}"
        return "there are no CRLs"


async def _verified(der: bytes, issuer: x509.Certificate, now: datetime) -> VerifiedCrl:
    """Large lists are read beside the event loop: a million entries take a second."""
    if len(der) < _LARGE:
        return VerifiedCrl.verify(der, issuer, now)
    return await asyncio.to_thread(VerifiedCrl.verify, der, issuer, now)
