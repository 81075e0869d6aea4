"""A service's public listener: its certificate from the CA, its staple, and what keeps both fresh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pkicore.clock import Clock
from pkicore.mtls import PUBLIC, CredentialsSource, TlsListener
from pkicore.x509.names import Names
from services.ca.client.identity import issue_from
from services.ca.client.public_certificate import PUBLIC_PROFILE, PublicCertificate
from services.ca.client.way import CREDENTIALS_CHECK_SECONDS, WayToCa, credentials_source, patiently
from services.chassis.identity import IdentityRenewer
from services.chassis.observability import TlsMetrics
from services.chassis.runner import BackgroundTask


@dataclass(frozen=True)
class PublicSide:
    """The public listener, and what keeps its certificate fresh."""

    listener: TlsListener
    credentials: CredentialsSource
    renewer: IdentityRenewer

    @classmethod
    async def open(
        cls, service: str, names: Names, state_dir: Path, ca: WayToCa, metrics: TlsMetrics, clock: Clock
    ) -> PublicSide:
        """The listener with its certificate and staple at hand: from disk while they are good, else waited for.

        Args:
            service: its name, as the CA's records of the requester have it.
            names: what the certificate stands for.
            state_dir: of the service; the pair is in `tls/public` below it.
            ca: where certificate and staple come from.
            metrics: of the listener.
            clock: the time.
        """
        issue = issue_from(ca.client, service, PUBLIC_PROFILE)
        certificate = PublicCertificate(state_dir / "tls" / "public", names, issue, clock)
        await patiently("public certificate", certificate.ensure)
        credentials = credentials_source(certificate.files)
        listener = ca.listener("public", PUBLIC, credentials, metrics, clock)
        await patiently("staple", listener.open)
        renewer = IdentityRenewer(certificate.files, issue, clock, metrics, ca.is_superseded)
        return cls(listener, credentials, renewer)

    def background(self) -> list[BackgroundTask]:
        """Renewal, and the look at what renewal has written."""
        return [
            BackgroundTask("public-certificate", self.renewer.run),
            BackgroundTask("public-credentials", lambda: self.credentials.run(CREDENTIALS_CHECK_SECONDS)),
        ]
