"""`pqcsign api-keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pkicore.encoding import write_new
from services.chassis.cli.output import json_option, tell
from services.signing.callers.scopes import ACTIONS
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import refuse_existing
from services.signing.cli.failures import plain
from services.signing.cli.moments import utc
from services.signing.wire import FORMATS, ApiKeyAnswer, NewApiKeyRequest

_DAY: Final = 86_400


@click.group("api-keys")
def api_keys() -> None:
    """API keys of your tenant. A key does what its policy allows and its scopes leave, until its end."""


@api_keys.command()
@click.option("--action", "actions", multiple=True, required=True, type=click.Choice(ACTIONS), help="What it is for.")
@click.option("--key", "keys", metavar="NAME", multiple=True, help="Keys that it may sign with; NAME* for several.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Formats that it may sign in.")
@click.option("--days", type=click.IntRange(1, 366), default=90, show_default=True, help="How long it is good.")
@click.option("--out", type=click.Path(path_type=Path), help="New file for the key, for you alone. [default: printed]")
@service_command
@json_option
def create(
    actions: tuple[str, ...],
    keys: tuple[str, ...],
    formats: tuple[str, ...],
    days: int,
    out: Path | None,
    route: Route,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Make an API key. It is shown this once, and the service keeps its hash alone.

    For `pqcsign sign` the action sign is enough: a key reads what it has signed itself.
    """
    if out is not None:  # it is shown once, so where it goes must be free before it is made
        refuse_existing(out, "give --out another name")
    narrowed = {"actions": actions, "keys": keys, "formats": formats}
    scopes = {name: list(dict.fromkeys(values)) for name, values in narrowed.items() if values}
    request = NewApiKeyRequest(scopes, days * _DAY)
    made = route.run(lambda service: service.create_api_key(request))
    if out is None:
        tell(as_json, {"key": made.key, **made.described.members()}, made.key)
        return
    write_new(out, f"{made.key}\n".encode(), 0o600)
    tell(as_json, {"file": str(out), **made.described.members()}, f"{out}: {_line(made.described)}")


@api_keys.command("list")
@service_command
@json_option
def list_keys(route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List the tenant's API keys, without their secrets."""
    found = route.run(lambda service: service.api_keys())
    lines = [_line(key) for key in found.keys] or ["There is none."]
    tell(as_json, {"keys": [key.members() for key in found.keys]}, *lines)


@api_keys.command()
@click.argument("key_id", metavar="ID")
@service_command
@json_option
def revoke(key_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Have the API key ID be good for nothing, at once and for ever."""
    route.run(lambda service: service.revoke_api_key(key_id))
    tell(as_json, {"id": key_id, "revoked": True}, f"{plain(key_id)}: revoked")


def _line(key: ApiKeyAnswer) -> str:
    if key.revoked_at is not None:
        state = f"revoked {utc(key.revoked_at)}"
    else:
        used = "never used" if key.last_used_at is None else f"last used {utc(key.last_used_at)}"
        state = f"until {utc(key.expires_at)}, {used}"
    scopes = "; ".join(f"{name} {', '.join(values)}" for name, values in key.scopes.items())
    return plain(f"{key.id}: {state}; {scopes}")
