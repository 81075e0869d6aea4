"""How a command reaches a running deployment: its endpoints, the operator's identity, CRLs from the status listener."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import httpx
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL, CrlCache, TlsClient, TlsRules, load_credentials
from pkicore.x509.certificate import load_chain
from services.ca.client import CaClient
from services.ca.endpoints import read_endpoints
from services.ca.errors import CeremonyError
from services.ca.layout import FAMILIES, Layout

_MAX_STALENESS = timedelta(minutes=5)
_FETCH_SECONDS = 10.0


@dataclass(frozen=True)
class Deployed:
    """A running deployment as its files describe it."""

    layout: Layout
    endpoints: dict[str, Any]
    roots: dict[str, x509.Certificate]
    issuers: dict[str, x509.Certificate]

    @classmethod
    def read(cls, directory: Path) -> "Deployed":
        """Read the deployment below a state directory.

        Raises:
            CeremonyError: nothing runs there.
        """
        layout, endpoints = Layout(directory.absolute()), read_endpoints(directory)
        roots = {f"root-{name}": load_chain(layout.root_certificate(name).read_bytes())[0] for name in FAMILIES}
        issuers = {f"issuing-{name}": load_chain(layout.issuer_certificate(name).read_bytes())[0] for name in FAMILIES}
        return cls(layout, endpoints, roots, issuers)

    @property
    def trust_domain(self) -> str:
        """The trust domain, as the operator's certificate has it."""
        (leaf, *_) = load_chain(self.layout.operator_certificate.read_bytes())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return SpiffeId.parse(names.get_values_for_type(x509.UniformResourceIdentifier)[0]).trust_domain

    def service_id(self, service: str) -> SpiffeId:
        """The identity that a service must have."""
        return SpiffeId.service(self.trust_domain, service)

    async def client(self, rules: TlsRules, certificate: Path, key: Path, *, require_staple: bool) -> TlsClient:
        """A TLS client under these rules that shows this identity; the CRLs are fetched first.

        Raises:
            KeyAccessError: the identity cannot be read.
        """
        crls = CrlCache(
            [*self.issuers.values(), *self.roots.values()],
            self._fetch_crl,
            None,
            SystemClock(),
            _MAX_STALENESS,
            on_error=lambda issuer, error: click.echo(
                f"ztca: no CRL of {issuer.subject.rfc4514_string()}: {error}", err=True
            ),
        )
        await crls.refresh()
        return TlsClient(
            credentials=load_credentials(certificate, key),
            rules=rules,
            trust=tuple(self.roots.values()),
            crls=crls,
            clock=SystemClock(),
            require_staple=require_staple,
        )

    async def _fetch_crl(self, issuer: x509.Certificate) -> bytes:
        names = {certificate: name for name, certificate in (self.roots | self.issuers).items()}
        async with httpx.AsyncClient(timeout=_FETCH_SECONDS, trust_env=False) as http:
            answer = await http.get(f"{self.endpoints['crl_base']}/{names[issuer]}")
        return answer.raise_for_status().content


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[CaClient]:
    """The CA of a running deployment, called as its operator.

    Raises:
        CeremonyError: nothing runs there.
    """
    deployed = Deployed.read(directory)
    if "ca_internal" not in deployed.endpoints:
        raise CeremonyError(f"the CA in {directory} does not run: look into {deployed.layout.logs / 'ca.log'}")
    layout = deployed.layout
    client = await deployed.client(INTERNAL, layout.operator_certificate, layout.operator_key, require_staple=True)
    async with client.http1(deployed.service_id("ca"), deployed.endpoints["ca_internal"]) as http:
        yield CaClient(http)
