"""`ztca keys`: the issuing CAs' keys move from sealed files into a back end of signer-hsm, and back."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click

from pkicore.clock import SystemClock
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import follow_move
from services.ca.destruction import Destruction
from services.ca.layout import Layout
from services.ca.migration import KEPT_DAYS, Migration
from services.ca.signer_settings import read_backends
from services.ca.stopped import StoppedDeployment
from services.ca.supervisor import only_one


@click.group()
def keys() -> None:
    """Where the issuing CAs' keys are. The deployment must be stopped."""


@keys.command()
@directory_option
@click.option("--to", "backend", required=True, help="Name of the back end of signer-hsm that takes the keys.")
@click.option("--rehearse", is_flag=True, help="Do everything but the switch, and undo it.")
@click.option(
    "--signer-backends",
    type=PlainPath(),
    help="TOML file with the [[backends]], where the deployment has no signer-hsm yet. "
    "[default: sealed files below DIR/signer-hsm/keys]",
)
@click.option("--issuer", "issuers", multiple=True, help="Only this one; may be repeated. [default: all in files]")
@click.option("--roll", is_flag=True, help="Make new keys instead, with certificates by the roots, and retire the old.")
@click.option("--offline", type=PlainPath(), help="Where the roots' keys are. [default: DIR/offline]")
@json_option
def migrate(
    directory: Path,
    backend: str,
    rehearse: bool,  # noqa: FBT001 - a command-line flag
    signer_backends: Path | None,
    issuers: tuple[str, ...],
    roll: bool,  # noqa: FBT001 - a command-line flag
    offline: Path | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Import the issuing keys into a back end, and switch to them.

    Where the back end takes no keys in, the rehearsal says so; --roll is for that. A retired issuing CA issues nothing
    more, and its CRL and OCSP answers go on.

    The sealed files stay where they are: `ztca keys rollback` goes back to them, `ztca keys destroy-files` ends them.
    """
    with failing_cleanly(), _stopped(directory, as_json, offline) as deployment:
        backends = () if signer_backends is None else read_backends(signer_backends)
        if roll:
            rolled = asyncio.run(
                Migration(deployment).roll(backend, rehearse_only=rehearse, backends=backends, only=issuers)
            )
            ended = (
                "The rehearsal went well; nothing is changed." if rehearse else "New certificates are below new keys."
            )
            tell(as_json, {"rehearsal": rehearse, "rolled": [item.members() for item in rolled]}, ended)
            return
        moved = asyncio.run(
            Migration(deployment).migrate(backend, rehearse_only=rehearse, backends=backends, only=issuers)
        )
        done = "The rehearsal went well; nothing is changed." if rehearse else "The CA signs through signer-hsm now."
        value = {"rehearsal": rehearse, "keys": [item.members() for item in moved]}
        tell(as_json, value, *(f"{item.issuer}: {item.before} -> {item.after}" for item in moved if not rehearse), done)


@keys.command()
@directory_option
@json_option
def rollback(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Put the sealed files of migrated keys in force again."""
    with failing_cleanly(), _stopped(directory, as_json) as deployment:
        back = asyncio.run(Migration(deployment).roll_back())
        tell(as_json, {"keys": [item.members() for item in back]}, "The CA signs with its sealed files again.")


@keys.command("destroy-files")
@directory_option
@click.option(
    "--after-days",
    type=click.IntRange(0, 3650),
    default=KEPT_DAYS,
    show_default=True,
    help="How long ago the migration must have been.",
)
@click.option("--now", is_flag=True, help="Whenever the migration was.")
@json_option
def destroy_files(directory: Path, after_days: int, now: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Overwrite and unlink the sealed files of migrated keys. There is no way back after that.

    signer-hsm must sign with each key first. The SHA-256 of each sealed file is recorded in the CA's audit log.
    """
    with failing_cleanly(), _stopped(directory, as_json) as deployment:
        gone = asyncio.run(Destruction(deployment).destroy_files(after=timedelta(days=0 if now else after_days)))
        lines = [f"{item['file']} is destroyed; sealed, it had the SHA-256 {item['sealed_sha256']}" for item in gone]
        tell(as_json, {"files": gone}, *lines)


@contextmanager
def _stopped(directory: Path, as_json: bool, offline: Path | None = None) -> Iterator[StoppedDeployment]:  # noqa: FBT001 - the flag is the command's own
    layout = Layout(directory, offline)
    with only_one(layout):
        follow_move(layout)
        yield StoppedDeployment(layout, os.environ, SystemClock(), lambda line: click.echo(line, err=as_json))
