"""How a command reaches a running deployment: its endpoints, its trust, CRLs from the status listener, an identity.

Of the directory, `endpoints.json` and `trust/` are read, and `operator/` where no other identity is given. So a machine
that holds a copy of the first two and an identity of its own can call the services as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.errors import PkiError
from pkicore.identity import spiffe_id_of
from pkicore.mtls import CrlCache, TlsClient, TlsRules, load_credentials
from pkicore.x509.certificate import load_chain
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.errors import DeploymentError
from services.chassis.public_http import public_client

_MAX_STALENESS: Final = timedelta(minutes=5)
_FETCH_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Deployed:
    """A running deployment as its files describe it.

    Attributes:
        directory: its state directory.
        endpoints: the parsed endpoints.json.
        roots: root certificates by the name of their CRL.
        issuers: the issuing CAs' certificates, likewise.
    """

    directory: Path
    endpoints: Mapping[str, Any]
    roots: Mapping[str, x509.Certificate]
    issuers: Mapping[str, x509.Certificate]

    @classmethod
    def read(cls, directory: Path) -> "Deployed":
        """Read the deployment below a state directory.

        Raises:
            DeploymentError: nothing runs there, or its trust is not there.
        """
        endpoints, trust = read_endpoints(directory), directory.absolute() / "trust"
        roots = _certificates(sorted(trust.glob("root-*.pem")))
        issuers = _certificates(sorted((trust / "issuers").glob("*.pem")))
        if not roots or not issuers:
            raise DeploymentError(f"{trust} holds no root or no issuing CA: copy the deployment's whole trust/")
        return cls(directory.absolute(), endpoints, roots, issuers)

    @property
    def operator_certificate(self) -> Path:
        """The operator's chain, PEM."""
        return self.directory / "operator" / "cert.pem"

    @property
    def operator_key(self) -> Path:
        """The operator's key, plain PKCS#8 PEM."""
        return self.directory / "operator" / "key.pem"

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
                f"no CRL of {issuer.subject.rfc4514_string()}: {error}", err=True
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
        names = {certificate: name for name, certificate in {**self.roots, **self.issuers}.items()}
        async with public_client(self.endpoints["crl_base"], _FETCH_SECONDS) as http:
            answer = await http.get(f"/{names[issuer]}")
        return answer.raise_for_status().content


def trust_domain_of(certificate: Path) -> str:
    """The trust domain of an identity.

    Raises:
        DeploymentError: the file is missing, or its certificate names no SPIFFE ID.
    """
    try:
        identity = spiffe_id_of(load_chain(certificate.read_bytes())[0])
    except FileNotFoundError as error:
        raise DeploymentError(f"there is no {certificate}: give an identity by --cert and --key") from error
    except PkiError as error:
        raise DeploymentError(f"{certificate} is no certificate: {error}") from error
    if identity is None:
        raise DeploymentError(f"{certificate} names no SPIFFE ID: `ztca issue` makes identities that do")
    return identity.trust_domain


def _certificates(paths: list[Path]) -> dict[str, x509.Certificate]:
    try:
        return {path.stem: load_chain(path.read_bytes())[0] for path in paths}
    except PkiError as error:
        raise DeploymentError(f"a certificate of the deployment's trust cannot be read: {error}") from error
