"""The running ACME server, called as its operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL
from services.acme.client import AcmeAdminClient
from services.chassis.cli.deployed import Deployed, trust_domain_of
from services.chassis.errors import DeploymentError


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[AcmeAdminClient]:
    """The ACME server of a running deployment, called as its operator.

    Raises:
        DeploymentError: it does not run there.
    """
    deployed = Deployed.read(directory)
    if "acme_admin" not in deployed.endpoints:
        log = deployed.directory / "logs" / "acme.log"
        raise DeploymentError(f"the ACME server in {directory} does not run: look into {log}")
    shown = deployed.operator_certificate, deployed.operator_key
    client = await deployed.client(INTERNAL, *shown, require_staple=True)
    acme = SpiffeId.service(trust_domain_of(deployed.operator_certificate), "acme")
    async with client.http1(acme, deployed.endpoints["acme_admin"]) as http:
        yield AcmeAdminClient(http)
