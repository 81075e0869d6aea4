"""`ztca profiles`: what the certificate profiles of a deployment say, and whether a changed file makes sense."""

from pathlib import Path
from typing import Any

import click

from pkicore.x509.profiles import Profile, load_profiles
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.layout import Layout
from services.ca.linters import open_linters
from services.chassis.settings import read_text


@click.command()
@directory_option
@click.option("--file", "changed", type=PlainPath(), help="Look at this file instead of the deployment's own.")
@json_option
def profiles(directory: Path, changed: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Check the certificate profiles and show each: how long it is valid, for which keys, and who may ask for it.

    What makes no sense is said with the names of profile and field, as the CA says it when it starts.
    """
    with failing_cleanly():
        found = load_profiles(read_text(changed or Layout(directory).profiles))
        open_linters(found.values())
        shown = {name: _described(profile) for name, profile in found.items()}
        tell(as_json, {"profiles": shown}, *(_line(name, fields) for name, fields in shown.items()))


def _described(profile: Profile) -> dict[str, Any]:
    return {
        "description": profile.description,
        "validity_seconds": int(profile.validity.total_seconds()),
        "keys": sorted(profile.keys),
        "families": {key: list(issuing) for key, issuing in sorted(profile.families.items())},
        "callers": list(profile.callers),
        "renewers": list(profile.renewers),
    }


def _line(name: str, fields: dict[str, Any]) -> str:
    callers = ", ".join(fields["callers"]) or "the ceremony alone"
    return f"{name:18}{_life(fields['validity_seconds']):>6}  {callers}"


def _life(seconds: int) -> str:
    """As the profile writes it."""
    length, unit = next(
        (length, unit) for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")) if not seconds % length
    )
    return f"{seconds // length}{unit}"
