"""`keyctl health`."""

from __future__ import annotations

import sys

import click
import orjson

from services.chassis.cli.output import json_option, tell
from services.signer_hsm.cli.connection import UNAVAILABLE, signer_command
from services.signer_hsm.cli.keys import Call
from services.signer_hsm.wire import HealthAnswer


@click.command()
@signer_command
@json_option
def health(call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Say whether the back ends of your tenants can sign; exit status 4 where one cannot."""
    answer: HealthAnswer = call(lambda signer: signer.health())
    lines = [
        f"{name}: {item.get('type')}, {'ready' if item.get('ready') else 'NOT READY'}, breaker {item.get('breaker')}"
        + "".join(f", {what} {value}" for what, value in dict(item.get("detail", {})).items() if what != "breaker")
        for name, item in answer.backends.items()
    ] or ["No rule of the key policy names you, so there is no back end to tell of."]
    lines.append(f"key policy: version {answer.policy.version}, sha256 {answer.policy.sha256}")
    tell(as_json, orjson.loads(answer.to_json()), *lines)
    if not all(item.get("ready") for item in answer.backends.values()):
        sys.exit(UNAVAILABLE)
