"""`python -m services.signer_hsm.policy`: check a policy before a service reads it, or print the schema."""

from pathlib import Path

import click
import orjson

from pkicore.clock import SystemClock
from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.policy.document import PolicyDocument
from services.signer_hsm.policy.findings import findings
from services.signer_hsm.policy.loading import format_of, read_document
from services.signer_hsm.policy.policy import Policy


@click.group()
def main() -> None:
    """The key policy of signer-hsm."""


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Print version, hash and findings of FILE (TOML, or JSON where its name ends in .json); fails if it is refused."""
    try:
        document, canonical = read_document(file.read_text(encoding="utf-8"), format_of(file))
    except (KeyPolicyError, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from error
    policy = Policy(document, canonical)
    click.echo(f"version {policy.version}\nsha256  {policy.sha256}")
    click.echo(f"{len(policy.tenants)} tenants, {len(policy.rules)} rules")
    for finding in findings(document, SystemClock().now()):
        click.echo(f"note: {finding}")


@main.command()
def schema() -> None:
    """Print the JSON Schema, as schema.json has it."""
    click.echo(orjson.dumps(PolicyDocument.schema_2020(), option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
