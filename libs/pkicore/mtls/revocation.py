"""CRLs as a listener or client needs them: fetched, verified, never older than before, kept on disk, never too stale.

1. fetch   2. verify signature, issuer and times   3. refuse a CRL number lower than the one held (RFC 5280 §5.2.3)
4. keep on disk   5. tell those who built something from the old one.
"""

from __future__ import annotations

import asyncio
import os
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
FETCH_TIMEOUT = 30.0
"""Seconds that one fetch of a CRL or staple may take."""

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Held:
    crl: VerifiedCrl
    confirmed_at: datetime
    """When its publisher last served it as the newest."""


class CrlCache:
    """The newest CRL of each issuer.

    A CRL may be used until its nextUpdate, and no longer than `max_staleness` after its publisher was last reached.

    Args:
        issuers: CA certificates whose CRLs are wanted, roots included.
        fetch: gives the DER of an issuer's CRL; it may fail in any way.
        directory: where CRLs outlive the process; None keeps them in memory only.
        clock: the time.
        max_staleness: how long the publisher may be unreachable before nothing is trusted any more.
        on_error: hears of each CRL that could not be fetched or was refused.
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
    ) -> None:
        self._issuers = {key_hash(issuer): issuer for issuer in issuers}
        self._fetch = fetch
        self._directory = directory
        self._clock = clock
        self._max_staleness = max_staleness
        self._on_error = on_error
        self._listeners: list[Callable[[], None]] = []
        self._held: dict[bytes, _Held] = {}
        self._good_until = _NEVER
        self._load()

    def current(self) -> tuple[VerifiedCrl, ...]:
        """The CRL of every issuer.

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
            StatusUnknownError: an issuer has no CRL here.
        """
        for link in links:
            held = self._held.get(link.issuer_key_hash)
            if held is None:
                raise StatusUnknownError(f"no CRL speaks for the certificate {link.serial:x}")
            if link.serial in held.crl.serials:
                raise RevokedError(link.serial)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a newer CRL has been taken."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Fetch the CRL of every issuer; failures go to `on_error`, the CRLs held stay."""
        taken = await asyncio.gather(*(self._refresh_one(key, issuer) for key, issuer in self._issuers.items()))
        self._measure()
        if any(taken):
            for listener in self._listeners:
                listener()

    async def run(self, interval: float) -> None:
        """Refresh every `interval` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            await self.refresh()

    async def _refresh_one(self, key: bytes, issuer: x509.Certificate) -> bool:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                der = await self._fetch(issuer)
            return self._take(key, issuer, der)
        except Exception as error:  # noqa: BLE001 (whatever the injected fetch raises is reported, and tried again)
            self._on_error(issuer, error)
            return False

    def _take(self, key: bytes, issuer: x509.Certificate, der: bytes) -> bool:
        now = self._clock.now()
        held = self._held.get(key)
        if held is not None and held.crl.der == der:
            self._held[key] = _Held(held.crl, now)
            self._keep(key, None, now)
            return False
        crl = VerifiedCrl.verify(der, issuer, now)
        if held is not None and crl.number <= held.crl.number:
            raise StaleStatusError(f"CRL number {crl.number} does not follow {held.crl.number}: a replay")
        self._keep(key, der, now)
        self._held[key] = _Held(crl, now)
        return True

    def _keep(self, key: bytes, der: bytes | None, confirmed_at: datetime) -> None:
        """The file's modification time is when the CRL was last confirmed, so staleness outlives a restart."""
        path = self._path(key)
        if path is None:
            return
        if der is not None:
            write_atomically(path, der, 0o644)
        os.utime(path, (confirmed_at.timestamp(), confirmed_at.timestamp()))

    def _load(self) -> None:
        now = self._clock.now()
        for key, issuer in self._issuers.items():
            path = self._path(key)
            if path is None or not path.exists():
                continue
            confirmed_at = min(now, datetime.fromtimestamp(int(path.stat().st_mtime), UTC))
            try:
                self._held[key] = _Held(VerifiedCrl.verify(path.read_bytes(), issuer, now), confirmed_at)
            except PkiError as error:
                self._on_error(issuer, error)
        self._measure()

    def _path(self, key: bytes) -> Path | None:
        return None if self._directory is None else self._directory / f"{key.hex()[:32]}.crl"

    def _measure(self) -> None:
        complete = self._held.keys() == self._issuers.keys()
        self._good_until = min(map(self._expiry, self._held.values()), default=_NEVER) if complete else _NEVER

    def _expiry(self, held: _Held) -> datetime:
        return min(held.crl.next_update, held.confirmed_at + self._max_staleness)

    def _staleness(self) -> str:
        now = self._clock.now()
        for key, issuer in self._issuers.items():
            name = issuer.subject.rfc4514_string()
            if key not in self._held:
                return f"no CRL of {name}"
            if now > self._expiry(self._held[key]):
                return f"the CRL of {name} was last confirmed at {self._held[key].confirmed_at:%Y-%m-%dT%H:%M:%SZ}"
        return "there are no CRLs"
