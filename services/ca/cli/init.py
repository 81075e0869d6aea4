"""`ztca init`: the ceremony."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pkicore.clock import SystemClock
from pkicore.identity import SpiffeId
from services.ca.ceremony import CeremonyResult, hold_ceremony
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import Deployment, choose_ports
from services.ca.errors import CeremonyError
from services.ca.layout import FAMILIES, NEEDED_FAMILIES, SIGNER, SIGNING, Layout
from services.ca.settings import base_url
from services.ca.signer_settings import file_backend, read_backends, require_files

_HOST = "127.0.0.1"
_PORT = click.IntRange(0, 65535)


@click.command()
@directory_option
@click.option("--trust-domain", default="pqcpki.internal", show_default=True, help="SPIFFE trust domain.")
@click.option("--name", default="pqcpki", show_default=True, help="Begins the names of roots and issuing CAs.")
@click.option(
    "--passphrase-file",
    type=PlainPath(),
    help="File (mode 0600) with the passphrase of the key files; the services read it at each start. "
    "Without it a random one is made below DIR/secrets.",
)
@click.option("--offline", type=PlainPath(), help="Where the roots' keys go. [default: DIR/offline]")
@click.option(
    "--families",
    default=",".join(NEEDED_FAMILIES),
    show_default=True,
    help=f"Those that get a root and an issuing CA, of {','.join(FAMILIES)}; ecdsa and mldsa are needed. RSA keys take "
    "seconds. Others can be added later: ztca ca prepare-root.",
)
@click.option(
    "--rsa-bits",
    type=click.Choice(["2048", "3072", "4096"]),
    help="Of the RSA issuing CA's key; the root's has 4096. 2048 signs quickest, and is not advised beyond 2030. "
    "[default: 3072]",
)
@click.option("--ca-port", "ca", type=_PORT, default=5000, show_default=True, envvar="PQCPKI_CA_PORT")
@click.option("--ca-http-port", "ca_http", type=_PORT, default=5080, show_default=True, envvar="PQCPKI_CA_HTTP_PORT")
@click.option("--ca-ops-port", "ca_ops", type=_PORT, default=5090, show_default=True, envvar="PQCPKI_CA_OPS_PORT")
@click.option("--acme-port", "acme", type=_PORT, default=4000, show_default=True, envvar="PQCPKI_ACME_PORT")
@click.option(
    "--acme-admin-port", "acme_admin", type=_PORT, default=4001, show_default=True, envvar="PQCPKI_ACME_ADMIN_PORT"
)
@click.option("--acme-ops-port", "acme_ops", type=_PORT, default=4090, show_default=True, envvar="PQCPKI_ACME_OPS_PORT")
@click.option("--signer-port", "signer", type=_PORT, default=6000, show_default=True, envvar="PQCPKI_SIGNER_HSM_PORT")
@click.option(
    "--signer-ops-port", "signer_ops", type=_PORT, default=6090, show_default=True, envvar="PQCPKI_SIGNER_HSM_OPS_PORT"
)
@click.option("--signing-port", "signing", type=_PORT, default=7000, show_default=True, envvar="PQCPKI_SIGNING_PORT")
@click.option(
    "--signing-ops-port", "signing_ops", type=_PORT, default=7090, show_default=True, envvar="PQCPKI_SIGNING_OPS_PORT"
)
@click.option(
    "--keys",
    type=click.Choice(["file", "signer-hsm"]),
    help="Who holds the issuing CAs' keys: the CA itself, in sealed files, or signer-hsm. "
    "[default: file; with --signing signer-hsm]",
)
@click.option(
    "--signing",
    "with_signing",
    is_flag=True,
    help="With a signing service, and a first tenant with keys for artefacts; its keys are at signer-hsm.",
)
@click.option(
    "--signer-backends",
    type=PlainPath(),
    help="TOML file with the [[backends]] of signer-hsm, the preferred one first; they are copied into its settings. "
    "[default: sealed files below DIR/signer-hsm/keys]",
)
@click.option(
    "--responder-keys",
    type=click.Choice(["file", "signer-hsm"]),
    default="file",
    show_default=True,
    help="Who holds the OCSP responders' keys. Local ones keep answering while signer-hsm is away.",
)
@click.option(
    "--signer-database-url",
    envvar="PQCPKI_SIGNER_HSM_DATABASE_URL",
    show_envvar=True,
    help="Of signer-hsm, as --ca-database-url.",
)
@click.option(
    "--ca-database-url",
    envvar="PQCPKI_CA_DATABASE_URL",
    show_envvar=True,
    help="postgresql://user@host/name, an empty database; a password belongs in the file that PGPASSFILE names. "
    "[default: SQLite below DIR]",
)
@click.option("--acme-database-url", envvar="PQCPKI_ACME_DATABASE_URL", show_envvar=True, help="Likewise.")
@click.option("--signing-database-url", envvar="PQCPKI_SIGNING_DATABASE_URL", show_envvar=True, help="Likewise.")
@click.option(
    "--status-url",
    envvar="PQCPKI_CA_STATUS_URL",
    show_envvar=True,
    default="",
    help="http://host[:port] under which verifiers reach CRLs and OCSP; stands in every certificate. "
    "[default: the listener's own address]",
)
@json_option
def init(  # noqa: PLR0913, PLR0917 - one argument for each option
    directory: Path,
    trust_domain: str,
    name: str,
    passphrase_file: Path | None,
    offline: Path | None,
    ca_database_url: str | None,
    acme_database_url: str | None,
    signer_database_url: str | None,
    signing_database_url: str | None,
    keys: str | None,
    with_signing: bool,  # noqa: FBT001 - a command-line flag
    signer_backends: Path | None,
    responder_keys: str,
    status_url: str,
    families: str,
    rsa_bits: str | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
    **ports: int,
) -> None:
    """Make a new PKI below DIR: roots, issuing CAs, identities, settings.

    Refuses to touch a directory that exists. A port that is taken, or 0, is replaced by a free one.
    """
    with failing_cleanly():
        SpiffeId(trust_domain, "/service/ca")  # refuses a trust domain that no identity can have
        layout = Layout(directory, offline)
        urls = {"ca": ca_database_url, "acme": acme_database_url, SIGNER: signer_database_url}
        urls[SIGNING] = signing_database_url
        holder = keys or (SIGNER if with_signing else "file")
        deployment = Deployment(
            name,
            trust_domain,
            _HOST,
            choose_ports(_HOST, ports),
            {service: url for service, url in urls.items() if url},
            _checked(status_url),
            backends=_backends(holder, signer_backends, responder_keys, layout, passphrase_file),
            remote_responders=responder_keys == SIGNER,
            signing=with_signing,
            families=(wanted := _families(families)),
            issuing_algorithms=_algorithms(rsa_bits, wanted),
        )
        made = asyncio.run(
            hold_ceremony(
                layout,
                deployment,
                passphrase_file=passphrase_file,
                clock=SystemClock(),
                progress=lambda line: click.echo(line, err=as_json),
                environment=os.environ,  # only passed on, to the signer-hsm of the ceremony
            )
        )
        tell(
            as_json, _described(made, layout), f"The PKI is in {layout.root}. Start it with: ztca up --dir {directory}"
        )


def _families(text: str) -> tuple[str, ...]:
    wanted = [name.strip() for name in text.split(",")]
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown:
        raise CeremonyError(f"--families: {unknown[0]!r} is none; there are {', '.join(FAMILIES)}")
    return tuple(family for family in FAMILIES if family in wanted)


def _algorithms(rsa_bits: str | None, families: tuple[str, ...]) -> Mapping[str, str]:
    if rsa_bits is None:
        return {}
    if "rsa" not in families:
        raise CeremonyError("--rsa-bits goes with the family rsa: --families ecdsa,rsa,mldsa")
    return {"rsa": f"rsa-{rsa_bits}"}


def _described(made: CeremonyResult, layout: Layout) -> dict[str, Any]:
    return {
        "state_dir": str(layout.root),
        "trust_domain": made.deployment.trust_domain,
        "roots": dict(made.roots),
        "offline": str(layout.offline),
        "keys": dict(made.deployment.issuing_keys),
        "trust_bundle": str(layout.trust_bundle),
    }


def _backends(
    keys: str, file: Path | None, responder_keys: str, layout: Layout, passphrase_file: Path | None
) -> tuple[Mapping[str, Any], ...]:
    if keys != SIGNER:
        if file is not None or responder_keys == SIGNER:
            raise CeremonyError("--signer-backends and --responder-keys signer-hsm go with --keys signer-hsm")
        return ()
    passphrase = passphrase_file or layout.passphrase
    if file is None:
        return (file_backend(layout.signer_keys, passphrase),)
    backends = read_backends(file)
    require_files(backends, layout.root, passphrase, is_made=passphrase_file is None)
    return backends


def _checked(status_url: str) -> str:
    try:
        return base_url(status_url)
    except ValueError as error:
        raise CeremonyError(f"--status-url {error}") from error
