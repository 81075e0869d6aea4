"""`keyctl approvals`: agreeing to what others are about to do with a key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click
import orjson

from services.chassis.cli.output import json_option, tell
from services.signer_hsm.cli.connection import signer_command
from services.signer_hsm.cli.keys import Call
from services.signer_hsm.policy import LIFE_CYCLE
from services.signer_hsm.wire import ApprovalAnswer, ApprovalList, ApprovalRequest, checked_tenant, split_key_id


@click.group()
def approvals() -> None:
    """Approvals of life-cycle acts, each good once."""


@approvals.command("list")
@click.option("--tenant", required=True, help="Whose keys.")
@signer_command
@json_option
def list_approvals(tenant: str, call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List the approvals of a tenant that are still good, and that you might have given."""
    checked_tenant(tenant)
    found: Sequence[ApprovalAnswer] = call(lambda signer: signer.approvals(tenant))
    lines = [_line(approval) for approval in found] or ["There is none."]
    tell(as_json, orjson.loads(ApprovalList(tuple(found)).to_json()), *lines)


@approvals.command()
@click.argument("act", type=click.Choice(sorted(LIFE_CYCLE)))
@click.argument("key_id", metavar="KEY")
@click.option("--version", type=click.IntRange(1), help="Which version is meant. [default: the current one]")
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="What the act will be asked with: algorithm and backend for create; for import public_key_sha256 as well.",
)
@signer_command
@json_option
def approve(
    act: str,
    key_id: str,
    version: int | None,
    parameters: tuple[str, ...],
    call: Call,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Agree to ACT on KEY, once. It is bound to exactly this act, key, version and parameters."""
    split_key_id(key_id)
    request = ApprovalRequest(act, key_id, version, dict(map(_pair, parameters)))
    given: ApprovalAnswer = call(lambda signer: signer.approve(request))
    tell(as_json, orjson.loads(given.to_json()), _line(given))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError("--parameter is NAME=VALUE, as in algorithm=ecdsa-p256")
    return name, value


def _who(approver: str) -> str:
    """The approver for people: the members of its JSON without their names."""
    try:
        return " ".join(map(str, orjson.loads(approver).values()))
    except (orjson.JSONDecodeError, AttributeError):
        return approver


def _line(approval: ApprovalAnswer) -> str:
    version = "" if approval.version is None else f"/{approval.version}"
    until = datetime.fromtimestamp(approval.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{approval.act} {approval.key}{version}: approved by {_who(approval.approver)}, good until {until}"
