"""`ztca endpoints`: where a running deployment answers, for people and for scripts."""

import time
from pathlib import Path
from typing import Any

import click
import orjson

from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.errors import DeploymentError

_PAUSE = 0.1  # seconds between two looks


@click.command()
@click.argument("name", required=False)
@directory_option
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    help="Seconds to wait until everything answers.",
)
@json_option
def endpoints(name: str | None, directory: Path, wait: float, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Print the URLs and paths of a running deployment, or only the one called NAME.

    `ztca endpoints acme_directory` prints what to give to certbot's --server.
    """
    with failing_cleanly():
        found = _read(directory, wait)
        if name is not None:
            if name not in found:
                raise CeremonyError(f"there is no endpoint {name}; there are: {', '.join(found)}")
            found = {name: found[name]}
        lines = [_text(found[name])] if name else [f"{key + ':':16}{_text(value)}" for key, value in found.items()]
        tell(as_json, found, *lines)


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _read(directory: Path, wait: float) -> dict[str, Any]:
    deadline = time.monotonic() + wait
    while True:
        try:
            return read_endpoints(directory)
        except DeploymentError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
