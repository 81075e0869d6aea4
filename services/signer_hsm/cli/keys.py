"""`keyctl keys`: the life cycle of keys."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import click

from pkicore.algorithms import ALGORITHMS
from services.chassis.cli.output import json_option, tell
from services.signer_hsm.cli.connection import signer_command
from services.signer_hsm.client import SignerClient
from services.signer_hsm.wire import (
    KeyDescription,
    LifeCycleRequest,
    NewKeyRequest,
    VersionDescription,
    checked_tenant,
    split_key_id,
)

Call: TypeAlias = Callable[[Callable[[SignerClient], Awaitable[Any]]], Any]
_version = click.option("--version", type=click.IntRange(1), help="Which version. [default: the current one]")
_repeatable = click.option(
    "--idempotency-key", help="With the same one, a repetition goes on instead of doing it again. [default: random]"
)


@click.group()
def keys() -> None:
    """The keys of signer-hsm and their life cycle."""


@keys.command("list")
@click.option("--tenant", required=True, help="Whose keys.")
@signer_command
@json_option
def list_keys(tenant: str, call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List the keys of a tenant that you may list."""
    checked_tenant(tenant)
    found: list[KeyDescription] = call(lambda signer: _all(signer, tenant))
    lines = [_line(key) for key in found] or [f"There is no key of {tenant} that you may list."]
    tell(as_json, {"keys": [key.members() for key in found]}, *lines)


async def _all(signer: SignerClient, tenant: str) -> list[KeyDescription]:
    page = await signer.keys(tenant)
    found = list(page.keys)
    while page.next is not None:
        page = await signer.keys(tenant, after=page.next)
        found += page.keys
    return found


@keys.command()
@click.argument("key_id", metavar="KEY")
@signer_command
@json_option
def show(key_id: str, call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show KEY with its versions, and the evidence of how each is held."""
    split_key_id(key_id)
    key: KeyDescription = call(lambda signer: signer.key(key_id))
    tell(as_json, key.members(), _line(key), *(line for version in key.versions for line in _details(version)))


@keys.command()
@click.argument("key_id", metavar="KEY")
@click.option("--algorithm", type=click.Choice(sorted(ALGORITHMS)), required=True, help="Of the new key.")
@click.option("--backend", help="Where it is made. [default: the tenant's first back end]")
@_repeatable
@signer_command
@json_option
def create(
    key_id: str,
    algorithm: str,
    backend: str | None,
    idempotency_key: str | None,
    call: Call,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Make KEY in a back end."""
    tenant, name = split_key_id(key_id)
    wanted = NewKeyRequest(tenant, name, algorithm, _once(idempotency_key), backend)
    key: KeyDescription = call(lambda signer: signer.create(wanted))
    tell(as_json, key.members(), _line(key))


def _change(what: str, sentence: str, done: str, *, irreversible: bool = False) -> None:
    """Add a command that changes a version of a key."""

    @keys.command(what, help=sentence)
    @click.argument("key_id", metavar="KEY")
    @_version
    @_repeatable
    @signer_command
    @json_option
    def command(
        key_id: str,
        version: int | None,
        idempotency_key: str | None,
        call: Call,
        as_json: bool,  # noqa: FBT001 - a command-line flag
        yes: bool = not irreversible,  # noqa: FBT001 - a command-line flag
    ) -> None:
        split_key_id(key_id)
        if not yes:
            which = "the current version" if version is None else f"version {version}"
            click.confirm(f"Destroy {which} of {key_id}? There is no way back", abort=True, err=True)
        request = LifeCycleRequest(_once(idempotency_key), version)
        key: KeyDescription = call(lambda signer: getattr(signer, what)(key_id, request))
        tell(as_json, key.members(), done, _line(key), *(line for one in key.versions for line in _fate(one)))

    if irreversible:
        click.option("--yes", is_flag=True, help="Do not ask.")(command)


_change("rotate", "Make the next version of KEY; it signs where no version is named. The one before stays.", "Rotated.")
_change("disable", "Have a version of KEY sign no more, until it is enabled.", "Disabled.")
_change("enable", "Have a disabled version of KEY sign again.", "Enabled.")
_change("destroy", "Destroy a version of KEY for good, and show the back end's proof.", "Done.", irreversible=True)


def _once(idempotency_key: str | None) -> str:
    return idempotency_key or f"keyctl-{secrets.token_hex(16)}"


def _line(key: KeyDescription) -> str:
    return f"{key.id}: {key.algorithm}, version {key.version}, {key.state}, in {key.backend}"


def _details(version: VersionDescription) -> list[str]:
    kinds = f", takes {', '.join(version.kinds)}" if version.kinds else ""
    evidence = [f"    {name}: {value}" for name, value in version.evidence.items()]
    made = f"  version {version.version}: {version.state}, made {_day(version.created_at)}{kinds}"
    return [made, *evidence, *_fate(version)]


def _fate(version: VersionDescription) -> list[str]:
    fate = version.destruction
    if fate is None:
        return []
    end = "destroyed for good" if fate.final else "the back end can undo its destruction until"
    return [f"    version {version.version}: {end} {_day(fate.at)}; proof: {dict(fate.proof)}"]


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
