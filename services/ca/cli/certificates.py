"""`ztca issue` and `ztca crl publish`: what an operator asks of the running CA."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.encoding import write_new
from pkicore.identity import SpiffeId
from pkicore.keys.file import FileKey
from pkicore.x509.names import Names
from services.ca.cli.connection import connected
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.client.csr import make_csr
from services.ca.errors import CeremonyError
from services.ca.plain_keys import plain_pem
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.cli.deployed import Deployed, trust_domain_of

_IDENTITY_KEYS = ("ml-dsa-65", "ml-dsa-44", "ml-dsa-87", "ecdsa-p256", "ecdsa-p384")


@click.command()
@click.argument("name")
@directory_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New directory for cert.pem and key.pem.")
@click.option(
    "--key",
    "algorithm",
    type=click.Choice(_IDENTITY_KEYS),
    default="ml-dsa-65",
    show_default=True,
    help="Kind of the new key.",
)
@json_option
def issue(name: str, directory: Path, out: Path, algorithm: str, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Make a client identity for the workload NAME: a key, and a certificate for spiffe://DOMAIN/workload/NAME.

    Needs a running deployment (`ztca up`).
    """
    with failing_cleanly():
        if out.exists():
            raise CeremonyError(f"{out} exists; give another --out")
        identity = SpiffeId.workload(trust_domain_of(Deployed.read(directory).operator_certificate), name)
        private_key = generate_private_key(ALGORITHMS[algorithm])
        out.mkdir(parents=True, mode=0o700)  # first: a certificate whose key finds no place is of no use
        try:
            issued = asyncio.run(_issue(directory, identity, private_key))
        except BaseException:
            out.rmdir()
            raise
        write_new(out / "key.pem", plain_pem(private_key), 0o600)
        write_new(out / "cert.pem", issued.chain.encode(), 0o644)
        value = {"serial": issued.serial, "certificate": str(out / "cert.pem"), "key": str(out / "key.pem")}
        tell(as_json, value, f"{identity} has the certificate {issued.serial}, in {out}")


async def _issue(directory: Path, identity: SpiffeId, private_key: PrivateKey) -> IssuedCertificate:
    with ThreadPoolExecutor(1) as pool:
        csr = await make_csr(FileKey("new", private_key, pool), names=Names.build(uri=[str(identity)]))
    wanted = CertificateRequest(csr, "client", (Identifier("uri", str(identity)),), f"ztca-{secrets.token_hex(16)}")
    async with connected(directory) as ca:
        return await ca.issue(wanted)


@click.group()
def crl() -> None:
    """Certificate revocation lists."""


@crl.command()
@directory_option
@json_option
def publish(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Publish the CRL of every issuing CA now.

    A revocation does this by itself. Needs a running deployment (`ztca up`).
    """
    with failing_cleanly():
        numbers = asyncio.run(_publish(directory))
        tell(as_json, {"crls": numbers}, *(f"CRL {number} of {name} is published." for name, number in numbers.items()))


async def _publish(directory: Path) -> dict[str, int]:
    async with connected(directory) as ca:
        return await ca.publish_crls()
