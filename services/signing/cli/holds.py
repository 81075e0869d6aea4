"""`pqcsign holds`."""

from __future__ import annotations

import click

from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.cli.failures import plain
from services.signing.cli.moments import utc
from services.signing.wire.evidence import HoldAnswer, HoldRequest


@click.group()
def holds() -> None:
    """Legal holds, and what else keeps a signature longer than the tenant's [[retention]] rule.

    Needs the action hold_signatures. Without a rule nothing is removed anyway.
    """


@holds.command()
@click.argument("signature_id", metavar="ID")
@service_command
@json_option
def show(signature_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show what keeps the signature ID: archives of evidence that promised it, and a hold."""
    found = route.run(lambda service: service.keeping(signature_id))
    tell(as_json, {"id": signature_id, **found.members()}, *_lines(signature_id, found))


@holds.command()
@click.argument("signature_id", metavar="ID")
@click.option("--reason", required=True, help="Why, for the record; 500 characters at most.")
@service_command
@json_option
def create(signature_id: str, reason: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Hold the signature ID: nothing removes it until the hold is deleted."""
    route.run(lambda service: service.hold(signature_id, HoldRequest(reason)))
    tell(as_json, {"id": signature_id, "held": True}, f"{plain(signature_id)}: held")


@holds.command()
@click.argument("signature_id", metavar="ID")
@service_command
@json_option
def delete(signature_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Lift the hold on the signature ID: rules and promises alone keep it from then on."""
    route.run(lambda service: service.delete_hold(signature_id))
    tell(as_json, {"id": signature_id, "held": False}, f"{plain(signature_id)}: no longer held")


def _lines(signature_id: str, found: HoldAnswer) -> list[str]:
    lines = []
    if found.promised_until:
        lines.append(f"{signature_id}: promised by evidence until {utc(found.promised_until)}")
    if found.held_at is not None:
        lines.append(f"{signature_id}: held since {utc(found.held_at)} by {found.held_by}: {found.hold_reason}")
    return [plain(line) for line in lines] or [f"{plain(signature_id)}: neither held nor promised"]
