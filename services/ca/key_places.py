"""Where a new issuing CA's key is made: a sealed file, or signer-hsm: the one that runs, or one for this alone."""

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import RemoteKey
from pkicore.mtls import INTERNAL
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, Layout
from services.ca.new_issuer import AtSigner, KeyPlace, SealedFiles
from services.ca.own_policy import OwnPolicy
from services.ca.remote_keys import RemoteKeyMaker
from services.ca.signer_settings import backend_names
from services.ca.stopped import StoppedDeployment
from services.chassis.cli.deployed import Deployed
from services.signer_hsm.client import SignerClient


@dataclass(frozen=True)
class Wanted:
    """Where somebody wants a key: at signer-hsm or not, in this back end or in the first that takes it."""

    at_signer: bool = False
    backend: str = ""

    @property
    def text(self) -> str:
        """For the audit log."""
        return self.backend or (SIGNER if self.at_signer else "file")


@dataclass(frozen=True)
class KeyPlaces:
    """Of one deployment; `runs` says whether its signer-hsm does."""

    deployment: StoppedDeployment
    runs: bool

    @asynccontextmanager
    async def open(self, wanted: Wanted, pool: Executor) -> AsyncIterator[KeyPlace]:
        """The place, for as long as the block lasts.

        Raises:
            CeremonyError: there is none.
            PkiError, ChassisError: it cannot be reached.
        """
        settings, layout = self.deployment.settings(), self.deployment.layout
        if not wanted.at_signer:
            yield SealedFiles(layout, read_passphrase(settings.passphrase_file), pool)
            return
        if SIGNER not in layout.services:
            raise CeremonyError("this deployment has no signer-hsm: `ztca keys migrate` gives it one")
        equipment = self.deployment.equipment(settings)
        backends = backend_names(equipment.backends)
        if wanted.backend and wanted.backend not in backends:
            raise CeremonyError(f"there is no back end {wanted.backend}; there are: {', '.join(backends)}")
        chosen = [wanted.backend] if wanted.backend else backends
        own = self.deployment.own_policy(equipment)
        if self.runs:
            async with running_signer(layout, settings.trust_domain) as (operator, ca):
                yield _Policed(own, AtSigner(RemoteKeyMaker(operator, chosen, pool, ca)))
        else:
            async with self.deployment.signer(equipment, pool) as client:
                yield _Policed(own, AtSigner(RemoteKeyMaker(client, chosen, pool)))


@dataclass(frozen=True)
class _Policed:
    """Says before a key is made what the deployment's key policy would not let be done with it."""

    own: OwnPolicy
    place: AtSigner

    async def find_or_make(self, name: str, algorithm: str) -> SigningKey:
        """As `KeyPlace` says."""
        self.own.require("create", name)
        key = await self.place.find_or_make(name, algorithm)
        if isinstance(key, RemoteKey):
            self.own.require_signing(name, key.payload_kind)
        return key


@asynccontextmanager
async def running_signer(layout: Layout, trust_domain: str) -> AsyncIterator[tuple[SignerClient, SignerClient]]:
    """The signer-hsm that runs, called as the operator, who makes keys, and as the CA, which signs with them.

    Raises:
        CeremonyError, DeploymentError: it does not run, or cannot be called.
    """
    deployed = Deployed.read(layout.root)
    if "signer_hsm" not in deployed.endpoints:
        raise CeremonyError(f"signer-hsm does not run: look into {layout.logs / f'{SIGNER}.log'}")
    expected, url = SpiffeId.service(trust_domain, SIGNER), str(deployed.endpoints["signer_hsm"])
    own = layout.identity("ca")
    operator = await deployed.client(INTERNAL, layout.operator_certificate, layout.operator_key, require_staple=True)
    ca = await deployed.client(INTERNAL, own / "cert.pem", own / "key.pem", require_staple=True)
    async with operator.http1(expected, url) as as_operator, ca.http1(expected, url) as as_ca:
        yield SignerClient(as_operator), SignerClient(as_ca)
