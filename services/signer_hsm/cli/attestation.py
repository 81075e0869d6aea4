"""`keyctl attestation`: what vouches for how a key is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.chassis.cli.output import json_option, tell
from services.chassis.errors import DeploymentError
from services.signer_hsm.cli.connection import signer_command
from services.signer_hsm.cli.keys import Call
from services.signer_hsm.wire import AttestationAnswer, AttestationUpload, split_key_id

_MAX_FILE = 64 * 1024
_PEM = b"-----BEGIN"
_version = click.option("--version", type=click.IntRange(1), help="Which version. [default: the current one]")


@click.group()
def attestation() -> None:
    """What vouches for how a key is held."""


@attestation.command()
@click.argument("key_id", metavar="KEY")
@_version
@signer_command
@json_option
def show(key_id: str, version: int | None, call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the statement about KEY: one that was handed in and verified, else the back end's own word."""
    split_key_id(key_id)
    _tell(as_json, call(lambda signer: signer.attestation(key_id, version)))


@attestation.command()
@click.argument("key_id", metavar="KEY")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "form", default="yubihsm2", show_default=True, help="What the statement is.")
@_version
@signer_command
@json_option
def upload(
    key_id: str,
    files: tuple[Path, ...],
    form: str,
    version: int | None,
    call: Call,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Hand in a device's statement about KEY: its certificates (PEM or DER), the attestation first, then its issuers.

    signer-hsm verifies it against the roots in its setting attestation_roots, and keeps it only if it is about KEY.
    """
    split_key_id(key_id)
    chain = tuple(der for file in files for der in _certificates(file))
    _tell(as_json, call(lambda signer: signer.attest(key_id, AttestationUpload(form, chain, version))))


def _certificates(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    try:
        found = (
            x509.load_pem_x509_certificates(content) if _PEM in content else [x509.load_der_x509_certificate(content)]
        )
    except ValueError as error:
        raise DeploymentError(f"{path} holds no certificate, in PEM or DER") from error
    return [certificate.public_bytes(Encoding.DER) for certificate in found]


def _tell(as_json: bool, answer: AttestationAnswer) -> None:  # noqa: FBT001 - the flag is the command's own
    members: dict[str, Any] = orjson.loads(answer.to_json())
    verdict = "verified by signer-hsm" if answer.verified else "not verified: nothing but a word"
    lines = [f"  {name}: {value}" for name, value in answer.claims.items()]
    tell(as_json, members, f"{answer.key}/{answer.version}: {answer.format}, by {answer.by}, {verdict}", *lines)
