"""`ztca probe`: what a TLS listener shows, through our own transport."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import click

from pkicore.mtls import PUBLIC, HandshakeReport
from services.ca.cli.connection import Deployed
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError


@click.command()
@click.argument("url")
@directory_option
@click.option("--cert", type=click.Path(path_type=Path), help="PEM chain to show. [default: the operator's]")
@click.option("--key", type=click.Path(path_type=Path), help="Its private key, PKCS#8 PEM.")
@json_option
def probe(url: str, directory: Path, cert: Path | None, key: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Shake hands with URL once and say what was seen: protocol, group, peer, chain, staple, CRL.

    Exit status 0 where both ends accept, 1 where one of them refuses.
    """
    with failing_cleanly():
        if (cert is None) != (key is None):
            raise CeremonyError("--cert and --key belong together: give both or neither")
        report = asyncio.run(_probe(url, directory, cert, key))
        tell(as_json, report.to_json(), *_sentences(report))
    sys.exit(0 if report.accepted else 1)


async def _probe(url: str, directory: Path, cert: Path | None, key: Path | None) -> HandshakeReport:
    deployed = Deployed.read(directory)
    shown = cert or deployed.layout.operator_certificate, key or deployed.layout.operator_key
    client = await deployed.client(replace(PUBLIC, minimum_version="1.2"), *shown, require_staple=False)
    service = next((name for name in ("ca",) if url.startswith(deployed.endpoints.get(f"{name}_internal", "-"))), None)
    return await client.probe(url, None if service is None else deployed.service_id(service))


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
