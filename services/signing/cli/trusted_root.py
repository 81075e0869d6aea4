"""`pqcsign trusted-root`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import click

from pkicore.encoding import write_atomically, write_new
from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import refuse_existing
from services.signing.cli.failures import FILES, CommandError
from services.signing.client import SigningClient
from services.signing.trusted_root import TrustedRoot
from services.signing.trusted_root import client_trust_config as joined_trust_config

_ADVICE: Final = "--force writes over it, and another name leaves it as it is"


@click.command("trusted-root")
@click.option("--out", type=click.Path(path_type=Path), help="File to write. [default: it is printed]")
@click.option(
    "--client-trust-config",
    type=click.Path(path_type=Path),
    help="File for `sigstore --trust-config`: the same, and where signing clients go.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@service_command
@json_option
def trusted_root(
    out: Path | None,
    client_trust_config: Path | None,
    force: bool,  # noqa: FBT001 - a command-line flag
    route: Route,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Fetch the service's trusted_root.json, for pqcsign verify, cosign and sigstore-python. No credential is needed.

    Whoever verifies believes in this file, so it is fetched once, over a connection whose roots are right, and kept
    with what is verified.
    """
    paths = [path for path in (out, client_trust_config) if path is not None]
    if not force:
        for path in paths:
            refuse_existing(path, _ADVICE)
    found = route.run_openly(lambda service: _fetched(service, with_config=client_trust_config is not None))
    TrustedRoot.parse(found.trusted_root)
    if not paths:
        click.echo(found.trusted_root.decode())
    if out is not None:
        _write(out, found.trusted_root, force=force, as_json=as_json)
    if client_trust_config is not None:
        content = joined_trust_config(found.trusted_root, found.signing_config)
        _write(client_trust_config, content, force=force, as_json=as_json)


class _Found(NamedTuple):
    trusted_root: bytes
    signing_config: bytes


async def _fetched(service: SigningClient, *, with_config: bool) -> _Found:
    return _Found(await service.trusted_root(), await service.signing_config() if with_config else b"")


def _write(path: Path, content: bytes, *, force: bool, as_json: bool) -> None:
    try:
        (write_atomically if force else write_new)(path, content, 0o644)
    except FileExistsError as error:  # somebody was quicker
        raise CommandError(f"{path} is there already", FILES, _ADVICE) from error
    digest = hashlib.sha256(content).hexdigest()
    tell(as_json, {"file": str(path), "sha256": digest}, f"{path}: sha256 {digest}")
