"""A service's own certificates come from the CA by CSR, each time with a new key."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Protocol

from pkicore.clock import Clock
from pkicore.x509.csr import UnverifiedCsr
from pkicore.x509.names import Names
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.errors import SettingsError
from services.chassis.identity import IdentityFiles, IdentityRenewer, Issue, RotationObserver, Superseded

INTERNAL_PROFILE: Final = "service"


class Issuer(Protocol):
    """Whoever issues; `CaClient` is one."""

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """A certificate, or CaError."""


def issue_from(authority: Issuer, service: str, profile: str) -> Issue:
    """How a CSR of our own becomes a chain; repeated for the same CSR, it yields the same certificate."""

    async def issue(csr_der: bytes) -> bytes:
        names = UnverifiedCsr.parse(csr_der).verify().names
        request = CertificateRequest(
            csr=csr_der,
            profile=profile,
            identifiers=_identifiers(names),
            idempotency_key=f"{service}-tls-{hashlib.sha256(csr_der).hexdigest()}",
            requester={"purpose": f"{profile} certificate of {service}"},
        )
        return (await authority.issue(request)).chain.encode()

    return issue


def internal_renewer(
    authority: Issuer,
    service: str,
    *,
    certificate: Path,
    key: Path,
    clock: Clock,
    observer: RotationObserver,
    superseded: Superseded,
) -> IdentityRenewer:
    """Renews a service's mTLS identity.

    Raises:
        SettingsError: certificate and key lie in different directories.
    """
    if certificate.parent != key.parent:
        raise SettingsError("tls_certificate and tls_key must lie in one directory: they are renewed together")
    files = IdentityFiles(certificate.parent, certificate.name, key.name)
    return IdentityRenewer(files, issue_from(authority, service, INTERNAL_PROFILE), clock, observer, superseded)


def _identifiers(names: Names) -> tuple[Identifier, ...]:
    return (
        *(Identifier("dns", name) for name in names.dns),
        *(Identifier("ip", str(address)) for address in names.ip),
        *(Identifier("uri", uri) for uri in names.uri),
    )
