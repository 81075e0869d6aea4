"""`ztca perspective create`: what a remote perspective of the ACME server is run from, in a directory to be carried."""

import asyncio
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.encoding import write_new
from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId
from pkicore.keys.file import FileKey
from pkicore.x509.names import Names
from services.ca.cli.connection import connected
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.client.csr import make_csr
from services.ca.deployment import recorded_settings
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.ca.plain_keys import plain_pem
from services.ca.signer_settings import callers
from services.ca.toml_text import lines
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.cli.deployed import trust_domain_of
from services.chassis.errors import ForbiddenError
from services.chassis.peer import CallerPolicy
from services.chassis.settings import base_url, read_text

SERVICE: Final = "perspective"
_ALGORITHM: Final = "ml-dsa-65"
_AT_THE_CA: Final = ("POST /v1/certificates", "GET /v1/revocations")
_COPIED: Final[tuple[str, ...]] = (
    "caa_identities",
    "caa",
    "http01_port",
    "tlsalpn01_port",
    "allowed_networks",
)
"""Settings of the ACME server that a perspective must share, or it sees what nobody asked for."""


@dataclass(frozen=True)
class Asked:
    """What the operator says of a new perspective.

    Attributes:
        spiffe_id: its identity.
        place: where its directory will lie.
        address: what it binds, with `port`.
        ca_url: where it reaches the CA, and by `ca_status_url` CRLs and OCSP.
    """

    spiffe_id: SpiffeId
    place: Path
    address: str
    port: int
    ca_url: str
    ca_status_url: str


@click.group()
def perspective() -> None:
    """Places elsewhere in the network that must see an ACME challenge met, too."""


@perspective.command()
@directory_option
@click.option("--name", required=True, help="Name of the perspective, such as its city: lower case, digits, hyphens.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New directory to be carried there.")
@click.option("--place", type=click.Path(path_type=Path), help="Where the directory will lie there.  [default: --out]")
@click.option("--address", default="0.0.0.0", show_default=True, help="Address that it listens on there.")  # noqa: S104 - callers come from elsewhere, over mutual TLS
@click.option("--port", type=click.IntRange(0, 65535), default=4100, show_default=True, help="Its mTLS port.")
@click.option("--ca-url", help="Where it reaches the CA.  [default: as the ACME server does]")
@click.option("--ca-status-url", help="Where it reaches CRLs and OCSP.  [default: as the ACME server does]")
@json_option
def create(  # noqa: PLR0913 - one argument per option
    *,
    directory: Path,
    name: str,
    out: Path,
    place: Path | None,
    address: str,
    port: int,
    ca_url: str | None,
    ca_status_url: str | None,
    as_json: bool,
) -> None:
    """Make the identity, trust and settings of a remote perspective, in one directory that can be carried there.

    Needs a running deployment (`ztca up`). There, `python -m services.acme.perspective --config PLACE/perspective.toml`
    runs it; the ACME server is told of it in a table [perspectives.NAME] of its settings.
    """
    with failing_cleanly():
        if out.exists():
            raise CeremonyError(f"{out} exists; give another --out")
        layout, acme = Layout(directory.absolute()), recorded_settings(Layout(directory.absolute()), "acme")
        asked = Asked(
            _identity(trust_domain_of(layout.operator_certificate), name),
            (place or out).absolute(),
            address,
            port,
            _url("--ca-url", ca_url or str(acme.get("ca_url", ""))),
            _url("--ca-status-url", ca_status_url or str(acme.get("ca_status_url", ""))),
        )
        private_key = generate_private_key(ALGORITHMS[_ALGORITHM])
        issued = asyncio.run(_issue(directory, asked.spiffe_id, private_key))
        shared = {key: acme[key] for key in _COPIED if key in acme}
        _write(out, layout, asked, perspective_toml(asked, shared), issued.chain, private_key)
        told = {"directory": str(out), "spiffe_id": str(asked.spiffe_id), "serial": issued.serial}
        tell(as_json, told, *_next_steps(layout, asked, name, out))


def perspective_toml(asked: Asked, shared: Mapping[str, object]) -> str:
    """The settings of a perspective; `shared` are those that it has from the ACME server."""
    place = asked.place
    settings = {
        "trust_domain": asked.spiffe_id.trust_domain,
        "host": asked.address,
        "port": asked.port,
        "state_dir": place / "state",
        "policy_file": place / "policy.toml",
        "ca_url": asked.ca_url,
        "ca_status_url": asked.ca_status_url,
        "trust_bundle": place / "trust" / "roots.pem",
        "issuers_directory": place / "trust" / "issuers",
        "tls_certificate": place / "tls" / "cert.pem",
        "tls_key": place / "tls" / "key.pem",
        **shared,
    }
    return "# A remote perspective. The environment (PQCPKI_PERSPECTIVE_<FIELD>) wins.\n" + lines(settings)


def _identity(trust_domain: str, name: str) -> SpiffeId:
    if not name.replace("-", "").isalnum() or not name.isascii() or name != name.lower():
        raise CeremonyError("--name is of lower-case letters, digits and hyphens")
    try:
        return SpiffeId.service(trust_domain, f"{SERVICE}-{name}")
    except IdentityError as error:
        raise CeremonyError(f"--name: {error}") from error


def _url(option: str, text: str) -> str:
    try:
        return base_url(text)
    except ValueError as error:
        raise CeremonyError(f"{option}: {error}") from error


async def _issue(directory: Path, identity: SpiffeId, private_key: PrivateKey) -> IssuedCertificate:
    with ThreadPoolExecutor(1) as pool:
        csr = await make_csr(FileKey("new", private_key, pool), names=Names.build(uri=[str(identity)]))
    wanted = CertificateRequest(csr, "service", (Identifier("uri", str(identity)),), f"ztca-{secrets.token_hex(16)}")
    async with connected(directory) as ca:
        return await ca.issue(wanted)


def _write(out: Path, layout: Layout, asked: Asked, settings: str, chain: str, private_key: PrivateKey) -> None:
    """The directory; nobody else may read it, as it has a key."""
    policy = callers(asked.spiffe_id.trust_domain, SERVICE, {"/service/acme": ("POST /v1/validations",)})
    out.mkdir(parents=True, mode=0o700)
    for name in ("tls", "trust", "state"):
        (out / name).mkdir(mode=0o700)
    write_new(out / "tls" / "key.pem", plain_pem(private_key), 0o600)
    write_new(out / "tls" / "cert.pem", chain.encode(), 0o644)
    shutil.copy(layout.trust_bundle, out / "trust" / "roots.pem")
    shutil.copytree(layout.issuers, out / "trust" / "issuers")
    write_new(out / "policy.toml", f"# Who may ask this perspective.\n{policy}".encode(), 0o600)
    write_new(out / "perspective.toml", settings.encode(), 0o600)


def _next_steps(layout: Layout, asked: Asked, name: str, out: Path) -> list[str]:
    """What is left to do, as the command says it."""
    sentences = [
        f"{out} has the identity {asked.spiffe_id}, trust and settings; carry it to {asked.place}, and run there",
        f"    python -m services.acme.perspective --config {asked.place / 'perspective.toml'}",
        f"Then tell the ACME server, in {layout.settings('acme')}, and restart it:",
        f"    [perspectives.{name}]",
        f'    url = "https://ITS-ADDRESS:{asked.port or "ITS-PORT"}"',
        "It asks the resolver of its own place: `resolver` and `resolvers` in its settings name another.",
    ]
    if not asked.port:
        sentences.append(f"Port 0 takes a free one at each start: {asked.place / 'state' / 'listeners.json'} has it.")
    if not _may_call_the_ca(layout, asked):
        entry = callers(asked.spiffe_id.trust_domain, "ca", {asked.spiffe_id.path: _AT_THE_CA})
        sentences.append(
            f"The CA must let it renew its certificate: add to {layout.policy}, and restart the CA:{entry}"
        )
    return sentences


def _may_call_the_ca(layout: Layout, asked: Asked) -> bool:
    policy = CallerPolicy.load(read_text(layout.policy))
    try:
        for method, _, path in (endpoint.partition(" ") for endpoint in _AT_THE_CA):
            policy.authorize(asked, "ca", method, path)
    except ForbiddenError:
        return False
    return True
