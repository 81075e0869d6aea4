"""The mTLS identities that the CA renews in process, by its own nine steps: its own, and those that nobody else can.

An operator's is used by commands that come and go, so nobody would renew it in time. A service renews its own over
mutual TLS, which it cannot once that has expired: after a month off, it would be shut out for good.
What was revoked stays shut out: the CA renews only its own identity then, for it is the authority.
"""

from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Final

import structlog
from cryptography import x509

from pkicore.clock import Clock
from pkicore.identity import SpiffeId
from pkicore.x509.certificate import load_chain
from services.ca.errors import RefusedError
from services.ca.issuance import Issuance
from services.ca.settings import CaSettings, IdentitySettings
from services.ca.store import CaStore
from services.ca.wire import CertificateRequest, Identifier
from services.chassis.identity import IdentityFiles, IdentityRenewer, Issue, RotationObserver, Superseded
from services.chassis.runner import BackgroundTask

_log: Final = structlog.get_logger(__name__)


class Identities:
    """The identities that the settings name."""

    def __init__(
        self,
        settings: CaSettings,
        store: CaStore,
        issuance: Issuance,
        clock: Clock,
        observer: RotationObserver,
        superseded: Superseded,
    ) -> None:
        self._settings = settings
        self._store = store
        self._issuance = issuance
        self._clock = clock
        self._observer = observer
        self._superseded = superseded

    def own(self) -> IdentityRenewer:
        """Renews the identity of this process."""
        identity = SpiffeId.service(self._settings.trust_domain, "ca")
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        files = IdentityFiles(certificate.parent, certificate.name, key.name)
        return IdentityRenewer(
            files, self._issue_to(identity, "service"), self._clock, self._observer, self._superseded
        )

    def operators(self) -> list[IdentityRenewer]:
        """Renew the operators' identities."""
        return [self._of(item) for item in self._settings.identities if item.profile == "client"]

    def background(self) -> list[BackgroundTask]:
        """Renews the CA's own identity and the operators' while it runs."""
        operators = [BackgroundTask("operator-identity", renewer.run) for renewer in self.operators()]
        return [BackgroundTask("own-identity", self.own().run), *operators]

    async def renew_at_start(self) -> None:
        """What has run out while the CA did not run is renewed before any listener opens.

        Raises:
            PkiError, CaServiceError, DatabaseError, OSError: an identity cannot be read, issued or written.
        """
        own = self.own()
        if await self._is_revoked(self._settings.tls_certificate):
            await own.renew()
        await own.renew_if_due()
        await self.renew_expired()

    def ending(self, margin: timedelta) -> list[Path]:
        """The certificates, the CA's own first, that end within this time.

        Raises:
            PkiError, OSError: one of them cannot be read.
        """
        listed = [item.directory / "cert.pem" for item in self._settings.identities]
        limit = self._clock.now() + margin
        return [path for path in (self._settings.tls_certificate, *listed) if _leaf(path).not_valid_after_utc <= limit]

    async def renew_ending(self, margin: timedelta) -> None:
        """Renew the identities, the CA's own too, that end within this time.

        Raises:
            PkiError, CaServiceError, DatabaseError, OSError: an identity cannot be read, issued or written.
        """
        if self._settings.tls_certificate in self.ending(margin):
            await self.own().renew()
        await self.renew_expired(margin)

    async def renew_expired(self, margin: timedelta = timedelta(0)) -> None:
        """Renew the listed identities that have expired, or do so within this time, and were not revoked.

        Raises:
            PkiError, CaServiceError, DatabaseError, OSError: an identity cannot be read, issued or written.
        """
        for item in self._settings.identities:
            certificate = item.directory / "cert.pem"
            if _leaf(certificate).not_valid_after_utc > self._clock.now() + margin:
                continue
            if await self._is_revoked(certificate):
                _log.warning("identity not renewed: it was revoked", identity=item.id)
            else:
                await self._of(item).renew()

    def _of(self, item: IdentitySettings) -> IdentityRenewer:
        issue = self._issue_to(SpiffeId.parse(item.id), item.profile)

        async def issue_unless_revoked(csr: bytes) -> bytes:
            if await self._is_revoked(item.directory / "cert.pem"):
                raise RefusedError(f"{item.id} is not renewed: its certificate was revoked")
            return await issue(csr)

        return IdentityRenewer(
            IdentityFiles(item.directory), issue_unless_revoked, self._clock, self._observer, self._superseded
        )

    def _issue_to(self, identity: SpiffeId, profile: str) -> Issue:
        async def issue(csr: bytes) -> bytes:
            names = (Identifier("uri", str(identity)),)
            wanted = CertificateRequest(csr, profile, names, f"identity-{token_hex(8)}")
            return (await self._issuance.issue(identity, wanted)).answer.chain.encode()

        return issue

    async def _is_revoked(self, certificate: Path) -> bool:
        row = await self._store.by_serial(_leaf(certificate).serial_number)
        return row is not None and row.revoked_at is not None


def _leaf(certificate: Path) -> x509.Certificate:
    return load_chain(certificate.read_bytes())[0]
