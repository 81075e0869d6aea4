"""`pqcsign webhooks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from pkicore.encoding import write_new
from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import refuse_existing
from services.signing.cli.failures import plain
from services.signing.cli.moments import utc
from services.signing.wire.webhooks import (
    DELIVERY_STATES,
    EVENT_TYPES,
    DeliveryAnswer,
    NewWebhookAnswer,
    NewWebhookRequest,
    WebhookAnswer,
)

_ANY: Final = "all"
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="New file for the secret, for you alone. [default: printed]"
)


@click.group()
def webhooks() -> None:
    """Receivers of your tenant's events, and what became of what was sent to them.

    Needs the action manage_webhooks. Messages are signed as Standard Webhooks 1.0 has it, with the receiver's secret.
    """


@webhooks.command()
@click.argument("receiver", metavar="RECEIVER")
@click.option("--event", "events", multiple=True, type=click.Choice(EVENT_TYPES), help="[default: all of them]")
@_OUT
@service_command
@json_option
def create(
    receiver: str,
    events: tuple[str, ...],
    out: Path | None,
    route: Route,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Have RECEIVER, an https URL, told of events. Its secret is shown this once."""
    _check_out(out)
    request = NewWebhookRequest(receiver, tuple(dict.fromkeys(events)) or EVENT_TYPES)
    _show_secret(route.run(lambda service: service.create_webhook(request)), out, as_json=as_json)


@webhooks.command("list")
@service_command
@json_option
def list_webhooks(route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List the tenant's receivers, without their secrets."""
    found = route.run(lambda service: service.webhooks()).webhooks
    tell(as_json, {"webhooks": [one.members() for one in found]}, *(map(_line, found) if found else ["There is none."]))


@webhooks.command()
@click.argument("webhook_id", metavar="ID")
@_OUT
@service_command
@json_option
def rotate(webhook_id: str, out: Path | None, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Give the receiver ID a new secret; messages are signed with the former one, too, for a day."""
    _check_out(out)
    _show_secret(route.run(lambda service: service.rotate_webhook(webhook_id)), out, as_json=as_json)


@webhooks.command()
@click.argument("webhook_id", metavar="ID")
@service_command
@json_option
def delete(webhook_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Forget the receiver ID, and what is on its way to it."""
    route.run(lambda service: service.delete_webhook(webhook_id))
    tell(as_json, {"id": webhook_id, "deleted": True}, f"{plain(webhook_id)}: deleted")


@webhooks.command()
@click.option(
    "--state",
    type=click.Choice([*DELIVERY_STATES, _ANY]),
    default="dead",
    show_default=True,
    help="Those that are so.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
@service_command
@json_option
def deliveries(state: str, limit: int, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List what was sent to receivers: dead letters, unless --state says otherwise.

    A dead letter had its last attempt; `pqcsign webhooks redeliver WEBHOOK EVENT` sends it again.
    """
    found = route.run(lambda service: service.deliveries(None if state == _ANY else state, limit))
    none = "There is none." if state == _ANY else f"There is none that is {state}."
    lines = [_delivery_line(one) for one in found] or [none]
    tell(as_json, {"deliveries": [one.members() for one in found]}, *lines)


@webhooks.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@click.argument("event_id", metavar="EVENT")
@service_command
@json_option
def redeliver(webhook_id: str, event_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Send EVENT to the receiver WEBHOOK again, which is dead or was delivered."""
    route.run(lambda service: service.redeliver(webhook_id, event_id))
    value = {"webhook": webhook_id, "event": event_id, "state": "pending"}
    tell(as_json, value, f"{plain(event_id)}: on its way to {plain(webhook_id)} again")


def _check_out(out: Path | None) -> None:
    """A secret is shown once: where it goes must be free before it is made."""
    if out is not None:
        refuse_existing(out, "give --out another name")


def _show_secret(made: NewWebhookAnswer, out: Path | None, *, as_json: bool) -> None:
    value: dict[str, Any] = made.described.members()
    if out is None:
        click.echo(_line(made.described), err=True)
        tell(as_json, {"secret": made.secret, **value}, made.secret)
        return
    write_new(out, f"{made.secret}\n".encode(), 0o600)
    tell(as_json, {"file": str(out), **value}, f"{out}: the secret of {_line(made.described)}")


def _line(webhook: WebhookAnswer) -> str:
    return plain(f"{webhook.id}: {webhook.url}, {webhook.state}, of {', '.join(webhook.events)}")


def _delivery_line(one: DeliveryAnswer) -> str:
    last = ", ".join(str(part) for part in (one.last_status, one.last_error) if part is not None)
    due = f", next {utc(one.due_at)}" if one.state == "pending" else ""
    said = f"; last: {last}" if last else ""
    head = f"{one.webhook} {one.event}: {one.type} of {utc(one.created_at)}"
    return plain(f"{head}, {one.state} after {one.attempts} attempts{due}{said}")
