"""`pqcsign trusted-root`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from pkicore.encoding import write_atomically, write_new
from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.trusted_root import TrustedRoot


@click.command("trusted-root")
@click.option("--out", type=click.Path(path_type=Path), help="File to write. [default: it is printed]")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@service_command
@json_option
def trusted_root(out: Path | None, force: bool, route: Route, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Fetch the service's trusted_root.json, for pqcsign verify, cosign and sigstore-python. No credential is needed.

    Whoever verifies believes in this file, so it is fetched once, over a connection whose roots are right, and kept
    with what is verified.
    """
    content = route.run_openly(lambda service: service.trusted_root())
    TrustedRoot.parse(content)
    if out is None:
        click.echo(content.decode())
        return
    (write_atomically if force else write_new)(out, content, 0o644)
    digest = hashlib.sha256(content).hexdigest()
    tell(as_json, {"file": str(out), "sha256": digest}, f"{out}: sha256 {digest}")
