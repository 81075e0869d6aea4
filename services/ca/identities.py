"""The mTLS identities that the CA renews in process, by its own nine steps: its own, and those that nobody else can.

An operator's is used by commands that come and go, so nobody would renew it in time. A service renews its own over
mutual TLS, which it cannot once that has expired: after a month off, it would be shut out for good.
"""

from secrets import token_hex

from pkicore.clock import Clock
from pkicore.identity import SpiffeId
from pkicore.x509.certificate import load_chain
from services.ca.issuance import Issuance
from services.ca.settings import CaSettings, IdentitySettings
from services.ca.wire import CertificateRequest, Identifier
from services.chassis.identity import IdentityFiles, IdentityRenewer, RotationObserver
from services.chassis.runner import BackgroundTask


class Identities:
    """The identities that the settings name."""

    def __init__(self, settings: CaSettings, issuance: Issuance, clock: Clock, observer: RotationObserver) -> None:
        self._settings = settings
        self._issuance = issuance
        self._clock = clock
        self._observer = observer

    def own(self) -> IdentityRenewer:
        """Renews the identity of this process."""
        identity = SpiffeId.service(self._settings.trust_domain, "ca")
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        return self._renewer(identity, "service", IdentityFiles(certificate.parent, certificate.name, key.name))

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
        await self.own().renew_if_due()
        await self.renew_expired()

    async def renew_expired(self) -> None:
        """Renew the listed identities that have expired.

        Raises:
            PkiError, CaServiceError, DatabaseError, OSError: an identity cannot be read, issued or written.
        """
        for item in self._settings.identities:
            leaf = load_chain((item.directory / "cert.pem").read_bytes())[0]
            if leaf.not_valid_after_utc <= self._clock.now():
                await self._of(item).renew()

    def _of(self, item: IdentitySettings) -> IdentityRenewer:
        return self._renewer(SpiffeId.parse(item.id), item.profile, IdentityFiles(item.directory))

    def _renewer(self, identity: SpiffeId, profile: str, files: IdentityFiles) -> IdentityRenewer:
        async def issue(csr: bytes) -> bytes:
            names = (Identifier("uri", str(identity)),)
            wanted = CertificateRequest(csr, profile, names, f"identity-{token_hex(8)}")
            return (await self._issuance.issue(identity, wanted)).answer.chain.encode()

        return IdentityRenewer(files, issue, self._clock, self._observer)
