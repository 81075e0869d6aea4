"""`ztca probe`: what a TLS listener shows, through our own transport."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.identity import SpiffeId
from pkicore.mtls import PUBLIC, HandshakeReport, TlsClient, load_credentials
from services.ca.cli.connection import service_id
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER
from services.chassis.cli.deployed import Deployed

_INTERNAL: Final = {"ca_internal": "ca", "signer_hsm": SIGNER}


@click.command()
@click.argument("url")
@directory_option
@click.option("--trust", type=click.Path(path_type=Path), help="Roots to verify with, PEM. [default: the deployment's]")
@click.option("--peer", help="SPIFFE ID that the server must have. [default: the host of URL is checked]")
@click.option("--cert", type=click.Path(path_type=Path), help="PEM chain to show. [default: the operator's]")
@click.option("--key", type=click.Path(path_type=Path), help="Its private key, PKCS#8 PEM.")
@json_option
@click.pass_context
def probe(
    context: click.Context,
    url: str,
    directory: Path,
    trust: Path | None,
    peer: str | None,
    cert: Path | None,
    key: Path | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Shake hands with URL once and say what was seen: protocol, group, peer, chain, staple, CRL.

    Inside a deployment its roots, CRLs and operator count. With --trust a server anywhere is held against those roots,
    without CRLs. With neither, it is described and not verified.

    Exit status 0 where both ends accept, 1 where one of them refuses or nothing was verified.
    """
    with failing_cleanly():
        if (cert is None) != (key is None):
            raise CeremonyError("--cert and --key belong together: give both or neither")
        expected = None if peer is None else SpiffeId.parse(peer)
        identity = None if cert is None or key is None else (cert, key)
        given = context.get_parameter_source("directory") is not ParameterSource.DEFAULT
        if trust is not None or not (given or directory.exists()):
            report = asyncio.run(_stranger(trust, identity).probe(url, expected))
        else:
            report = asyncio.run(_probe(url, directory, identity, expected))
        tell(as_json, report.to_json(), *_sentences(report))
    sys.exit(0 if report.accepted else 1)


def _stranger(trust: Path | None, identity: tuple[Path, Path] | None) -> TlsClient:
    """A client that knows no deployment."""
    return TlsClient(
        credentials=None if identity is None else load_credentials(*identity),
        rules=replace(PUBLIC, check_crl=False),
        trust=() if trust is None else _anchors(trust),
        crls=None,
        clock=SystemClock(),
        require_staple=False,
    )


def _anchors(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except ValueError as error:
        raise CeremonyError(f"{path} has no certificates in PEM") from error


async def _probe(
    url: str, directory: Path, identity: tuple[Path, Path] | None, expected: SpiffeId | None
) -> HandshakeReport:
    deployed = Deployed.read(directory)
    shown = identity or (deployed.operator_certificate, deployed.operator_key)
    client = await deployed.client(PUBLIC, *shown, require_staple=False)
    return await client.probe(url, expected or _service_at(deployed, url))


def _service_at(deployed: Deployed, url: str) -> SpiffeId | None:
    """Whom the deployment has at a URL, where it is one of the listeners between services."""
    for endpoint, service in _INTERNAL.items():
        if url.startswith(deployed.endpoints.get(endpoint, "-")):
            return service_id(deployed, service)
    return None


def _sentences(report: HandshakeReport) -> list[str]:
    lines = {
        "Verdict": report.verdict,
        "Protocol": f"{report.protocol}, {report.cipher}" if report.protocol else None,
        "Key exchange": report.group,
        "Peer": ", ".join(report.peer_names) or None,
        "Certificate": f"serial {report.serial}, {report.key_algorithm} key, signed with {report.signature_algorithm}"
        if report.serial
        else None,
        "Chain": " <- ".join(report.chain) or None,
        "Expires": report.expires,
        "OCSP staple": report.staple or None,
        "CRL": report.crl or None,
    }
    return [f"{name + ':':14}{value}" for name, value in lines.items() if value]
