"""The running CA, called as its operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL
from services.ca.client import CaClient
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.cli.deployed import Deployed, trust_domain_of


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[CaClient]:
    """The CA of a running deployment, called as its operator.

    Raises:
        CeremonyError, DeploymentError: nothing runs there.
    """
    deployed = Deployed.read(directory)
    if "ca_internal" not in deployed.endpoints:
        log = Layout(deployed.directory).logs / "ca.log"
        raise CeremonyError(f"the CA in {directory} does not run: look into {log}")
    shown = deployed.operator_certificate, deployed.operator_key
    client = await deployed.client(INTERNAL, *shown, require_staple=True)
    async with client.http1(service_id(deployed, "ca"), deployed.endpoints["ca_internal"]) as http:
        yield CaClient(http)


def service_id(deployed: Deployed, service: str) -> SpiffeId:
    """The identity that a service of the deployment must have: in the trust domain of its operator."""
    return SpiffeId.service(trust_domain_of(deployed.operator_certificate), service)
