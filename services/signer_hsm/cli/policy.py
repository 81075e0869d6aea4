"""`keyctl policy`: a key policy before the service reads it, and the one in force."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from pkicore.clock import SystemClock
from services.chassis.cli.output import json_option, tell
from services.signer_hsm.cli.connection import failing, signer_command
from services.signer_hsm.cli.keys import Call
from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.policy.document import PolicyDocument
from services.signer_hsm.policy.findings import findings
from services.signer_hsm.policy.loading import format_of, read_document
from services.signer_hsm.policy.policy import Policy
from services.signer_hsm.wire import PolicyAnswer

_file = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def policy() -> None:
    """The key policy: who may do what with which key."""


@policy.command()
@_file
@json_option
def check(file: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Print version, hash and findings of FILE (TOML, or JSON where its name ends in .json); fails if it is refused."""
    with failing():
        document, canonical = _read(file)
        held = Policy(document, canonical)
        notes = list(findings(document, SystemClock().now()))
        value = {"version": held.version, "sha256": held.sha256, "findings": notes}
        counts = f"{len(held.tenants)} tenants, {len(held.rules)} rules"
        lines = [f"version {held.version}", f"sha256  {held.sha256}", counts, *(f"note: {note}" for note in notes)]
        tell(as_json, value, *lines)


@policy.command("hash")
@_file
@json_option
def hash_of(file: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Print the SHA-256 of FILE as audit records have it."""
    with failing():
        held = Policy(*_read(file))
        tell(as_json, {"version": held.version, "sha256": held.sha256}, held.sha256)


def _read(file: Path) -> tuple[PolicyDocument, bytes]:
    try:
        return read_document(file.read_text(encoding="utf-8"), format_of(file))
    except UnicodeDecodeError as error:
        raise KeyPolicyError(f"{file} is not a text in UTF-8") from error


@policy.command()
@signer_command
@json_option
def show(call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Print version and hash of the policy that is in force."""
    answer: PolicyAnswer = call(lambda signer: signer.policy())
    tell(as_json, orjson.loads(answer.to_json()), f"version {answer.version}", f"sha256  {answer.sha256}")


@policy.command()
def schema() -> None:
    """Print the JSON Schema of key policies."""
    click.echo(orjson.dumps(PolicyDocument.schema_2020(), option=orjson.OPT_INDENT_2).decode())
