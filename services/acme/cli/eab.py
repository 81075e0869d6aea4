"""`ztca eab`: who may make ACME accounts, for which names (external account binding, RFC 8555 §7.3.4)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pkicore.clock import SystemClock, unix
from services.acme.cli.connection import connected
from services.acme.cli.output import failing_cleanly, moment
from services.acme.wire import ExternalAccountEntry, ExternalAccountRequest, NewExternalAccount, RevokedExternalAccount
from services.chassis.cli.output import directory_option, json_option, tell

_DAY = 86_400


@click.group()
def eab() -> None:
    """External accounts: who may make ACME accounts, for which names."""


@eab.command()
@directory_option
@click.option("--comment", default="", help="For people: who gets it.")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="What its accounts may order: a.example (that name), *.a.example (one label below, and the wildcard), "
    ".a.example (everything below), an IP address or a network. May be repeated; none: any name.",
)
@click.option(
    "--profile", "profiles", multiple=True, help="A profile that they may choose. May be repeated; none: any."
)
@click.option(
    "--accounts", "max_accounts", type=click.IntRange(min=1), help="Accounts that may be made with it, in all."
)
@click.option("--days", type=click.IntRange(min=1, max=36_500), help="How long accounts may be made with it.")
@json_option
def create(
    directory: Path,
    comment: str,
    names: tuple[str, ...],
    profiles: tuple[str, ...],
    max_accounts: int | None,
    days: int | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Make a key identifier and its MAC key, which is shown this once.

    Give both to the client: certbot takes them as --eab-kid and --eab-hmac-key. Needs a running deployment (`ztca up`).
    """
    not_after = None if days is None else unix(SystemClock().now()) + days * _DAY
    wanted = ExternalAccountRequest(comment, names, profiles, max_accounts, not_after)
    with failing_cleanly():
        made = asyncio.run(_create(directory, wanted))
        value = {**asdict(made.entry), "mac_key": made.mac_key}
        tell(
            as_json,
            value,
            f"key identifier: {made.entry.kid}",
            f"MAC key:        {made.mac_key}",
            f"allows:         {_allowed(made.entry)}",
            "The MAC key is stored nowhere and not shown again. For certbot:",
            f"  certbot register --eab-kid {made.entry.kid} --eab-hmac-key {made.mac_key} --server ...",
        )


async def _create(directory: Path, wanted: ExternalAccountRequest) -> NewExternalAccount:
    async with connected(directory) as acme:
        return await acme.create_external_account(wanted)


@eab.command("list")
@directory_option
@json_option
def list_keys(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the external accounts, the newest first."""
    with failing_cleanly():
        entries = asyncio.run(_list(directory))
        values: dict[str, Any] = {"external_accounts": [asdict(entry) for entry in entries]}
        tell(as_json, values, *(_line(entry) for entry in entries) if entries else ("There is no external account.",))


async def _list(directory: Path) -> list[ExternalAccountEntry]:
    async with connected(directory) as acme:
        page = await acme.external_accounts()
        entries = [*page.external_accounts]
        while page.next is not None:
            page = await acme.external_accounts(page.next)
            entries += page.external_accounts
        return entries


@eab.command()
@click.argument("kid")
@directory_option
@click.option("--deactivate-accounts", is_flag=True, help="End the accounts that were made with it, too.")
@json_option
def revoke(kid: str, directory: Path, deactivate_accounts: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Let no account be made with KID, and its accounts order nothing more; their unfinished orders end.

    Their certificates stay as they are: `ztca revoke` revokes those.
    """
    with failing_cleanly():
        done = asyncio.run(_revoke(directory, kid, deactivate_accounts=deactivate_accounts))
        ended = f"; accounts deactivated: {done.deactivated}" if deactivate_accounts else ""
        value = {**asdict(done.entry), "deactivated": done.deactivated}
        tell(as_json, value, f"The external account {kid} is revoked{ended}.")


async def _revoke(directory: Path, kid: str, *, deactivate_accounts: bool) -> RevokedExternalAccount:
    async with connected(directory) as acme:
        return await acme.revoke_external_account(kid, deactivate_accounts=deactivate_accounts)


def _line(entry: ExternalAccountEntry) -> str:
    most = "" if entry.max_accounts is None else f" of {entry.max_accounts}"
    until = "" if entry.not_after is None else f"  until {moment(entry.not_after)}"
    comment = f"  {entry.comment}" if entry.comment else ""
    return f"{entry.kid}  {entry.status:7}  accounts {entry.accounts}{most}{until}  {_allowed(entry)}{comment}"


def _allowed(entry: ExternalAccountEntry) -> str:
    names = ", ".join(entry.identifiers) or "any name"
    return f"{names}; profiles: {', '.join(entry.profiles)}" if entry.profiles else names
