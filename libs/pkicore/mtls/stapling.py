"""OCSP staples of our own certificates: fetched, verified before use, renewed at half their life, kept on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkicore.clock import Clock
from pkicore.encoding import write_atomically
from pkicore.errors import PkiError, RevokedError, StaleStatusError
from pkicore.mtls.revocation import FETCH_TIMEOUT
from pkicore.ocsp import verify_response

FetchStaple = Callable[[x509.Certificate, x509.Certificate], Awaitable[bytes]]
_RETRY = 5.0


@dataclass(frozen=True)
class _Staple:
    der: bytes
    good_from: datetime
    good_until: datetime

    def is_past_half(self, now: datetime) -> bool:
        return now >= self.good_from + (self.good_until - self.good_from) / 2


class StapleCache:
    """The newest good OCSP response for each certificate that we serve.

    Args:
        fetch: gives the DER of an OCSP response for (certificate, issuer); it may fail in any way.
        directory: where staples outlive the process; None keeps them in memory only.
        clock: the time.
        on_error: hears of each response that could not be fetched or was refused.
    """

    def __init__(
        self,
        fetch: FetchStaple,
        directory: Path | None,
        clock: Clock,
        *,
        on_error: Callable[[x509.Certificate, Exception], None],
    ) -> None:
        self._fetch = fetch
        self._directory = directory
        self._clock = clock
        self._on_error = on_error
        self._served: dict[x509.Certificate, x509.Certificate] = {}
        self._staples: dict[bytes, _Staple] = {}

    def staple(self, certificate: x509.Certificate) -> bytes:
        """The DER of a good response for this certificate.

        Raises:
            StaleStatusError: there is none, or it is past its nextUpdate.
        """
        held = self._staples.get(_id(certificate))
        if held is None or self._clock.now() > held.good_until:
            raise StaleStatusError(f"no good OCSP staple for the certificate {certificate.serial_number:x}")
        return held.der

    async def prepare(self, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        """See to it that there is a good staple, from disk or the responder, and keep it fresh from now on.

        Raises:
            StaleStatusError: there is none.
        """
        self._served[certificate] = issuer
        self._load(certificate, issuer)
        held = self._staples.get(_id(certificate))
        if held is None or held.is_past_half(self._clock.now()):
            await self._refresh_one(certificate, issuer)
        self.staple(certificate)

    async def wait_for(self, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        """As `prepare`, but tries until there is one."""
        while True:
            try:
                return await self.prepare(certificate, issuer)
            except StaleStatusError:
                await asyncio.sleep(_RETRY)

    def forget(self, certificate: x509.Certificate) -> None:
        """This certificate is no longer served."""
        self._served.pop(certificate, None)
        self._drop(certificate)

    async def refresh(self) -> None:
        """Fetch anew for every certificate served; failures go to `on_error`."""
        await asyncio.gather(*(self._refresh_one(leaf, issuer) for leaf, issuer in tuple(self._served.items())))

    async def run(self, interval: float) -> None:
        """Look every `interval` seconds, for ever, and fetch what is past half its life."""
        while True:
            await asyncio.sleep(interval)
            now = self._clock.now()
            for leaf, issuer in tuple(self._served.items()):
                held = self._staples.get(_id(leaf))
                if held is None or held.is_past_half(now):
                    await self._refresh_one(leaf, issuer)

    async def _refresh_one(self, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                der = await self._fetch(certificate, issuer)
            self._take(certificate, issuer, der)
            path = self._path(certificate)
            if path is not None:
                write_atomically(path, der, 0o644)
        except Exception as error:  # noqa: BLE001 (whatever the injected fetch raises is reported, and tried again)
            if isinstance(error, RevokedError):
                self._drop(certificate)
            self._on_error(certificate, error)

    def _take(self, certificate: x509.Certificate, issuer: x509.Certificate, der: bytes) -> None:
        status = verify_response(der, certificate, issuer, self._clock.now())
        self._staples[_id(certificate)] = _Staple(der, status.this_update, status.next_update)

    def _load(self, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        path = self._path(certificate)
        if path is None or not path.exists() or _id(certificate) in self._staples:
            return
        try:
            self._take(certificate, issuer, path.read_bytes())
        except PkiError as error:
            self._on_error(certificate, error)

    def _drop(self, certificate: x509.Certificate) -> None:
        self._staples.pop(_id(certificate), None)
        path = self._path(certificate)
        if path is not None:
            path.unlink(missing_ok=True)

    def _path(self, certificate: x509.Certificate) -> Path | None:
        return None if self._directory is None else self._directory / f"{_id(certificate).hex()[:32]}.ocsp"


def _id(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())
