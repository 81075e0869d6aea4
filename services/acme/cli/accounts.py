"""`ztca acme accounts`: who has an account, what its holder agreed to, and its end."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click

from services.acme.cli.connection import connected
from services.acme.cli.output import failing_cleanly, moment
from services.acme.client import AcmeRefusedError
from services.acme.wire import MAX_PAGE, AccountEntry, AccountPage, AccountQuery
from services.chassis.cli.output import directory_option, json_option, tell

_IDS: Final = {"ignore_unknown_options": True}  # an id may begin with a hyphen


@click.group()
def accounts() -> None:
    """ACME accounts."""


@accounts.command("list")
@directory_option
@click.option("--contact", default="", help="A part of a contact, such as ops@example.com, in any case.")
@click.option("--thumbprint", default="", help="Of the account's key (RFC 7638).")
@click.option("--eab-kid", default="", help="The external account that it is bound to.")
@click.option("--status", type=click.Choice(["valid", "deactivated"]), help="In this state.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Accounts at most.")
@click.option("--cursor", default="", help="Where to go on: what --json of the page before has as next.")
@json_option
def list_accounts(
    directory: Path,
    contact: str,
    thumbprint: str,
    eab_kid: str,
    status: str | None,
    limit: int,
    cursor: str,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Find accounts that have all of what is given, the newest first."""
    query = AccountQuery(contact, thumbprint, eab_kid, status or "", cursor, min(limit, MAX_PAGE))
    with failing_cleanly():
        page = asyncio.run(_list(directory, query, limit))
        value: dict[str, Any] = {"accounts": [asdict(entry) for entry in page.accounts], "next": page.next}
        more = [] if page.next is None else [f"There are more: --cursor {page.next}"]
        tell(as_json, value, *([_line(entry) for entry in page.accounts] or ["No account is like that."]), *more)


async def _list(directory: Path, query: AccountQuery, limit: int) -> AccountPage:
    async with connected(directory) as acme:
        found: list[AccountEntry] = []
        while True:
            page = await acme.accounts(replace(query, limit=min(MAX_PAGE, limit - len(found))))
            found += page.accounts
            if page.next is None or len(found) >= limit:
                return AccountPage(found, page.next)
            query = replace(query, cursor=page.next)


@accounts.command(context_settings=_IDS)
@click.argument("account")
@directory_option
@json_option
def show(account: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show ACCOUNT, by its URL or the id at the URL's end."""
    with failing_cleanly():
        entry = asyncio.run(_show(directory, _id(account)))
        tell(as_json, asdict(entry), *_told(entry))


async def _show(directory: Path, account_id: str) -> AccountEntry:
    async with connected(directory) as acme:
        return await acme.account(account_id)


@accounts.command(context_settings=_IDS)
@click.argument("found", metavar="ACCOUNT...", nargs=-1, required=True)
@click.option("--terms", required=True, help="URL of the terms that they agreed to: those in force.")
@directory_option
@json_option
def agree(found: tuple[str, ...], terms: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Record that the holders of each ACCOUNT agreed to terms of service that have changed.

    For clients that cannot say it, such as certbot. You answer for it that their users agreed: the audit log names
    you and the terms. Repeating it is harmless.
    """
    with failing_cleanly():
        entries = asyncio.run(_agree(directory, [_id(account) for account in found], terms))
        sentences = [f"The account {entry.url} has agreed to {terms}." for entry in entries]
        tell(as_json, {"accounts": [asdict(entry) for entry in entries]}, *sentences)


async def _agree(directory: Path, account_ids: list[str], terms: str) -> list[AccountEntry]:
    async with connected(directory) as acme:
        entries = []
        for account_id in dict.fromkeys(account_ids):
            try:
                entries.append(await acme.agree_for_account(account_id, terms))
            except AcmeRefusedError as error:
                raise type(error)(error.kind, error.status, f"{account_id}: {error}") from error
        return entries


@accounts.command(context_settings=_IDS)
@click.argument("account")
@directory_option
@json_option
def deactivate(account: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """End ACCOUNT, for good; its unfinished orders end, its certificates stay as they are."""
    with failing_cleanly():
        entry = asyncio.run(_deactivate(directory, _id(account)))
        tell(as_json, asdict(entry), f"The account {entry.url} is deactivated.")


async def _deactivate(directory: Path, account_id: str) -> AccountEntry:
    async with connected(directory) as acme:
        return await acme.deactivate_account(account_id)


def _id(account: str) -> str:
    return account.rsplit("/", 1)[-1]


def _line(entry: AccountEntry) -> str:
    bound = f"  {entry.eab_kid}" if entry.eab_kid else ""
    contacts = ", ".join(entry.contacts) or "-"
    return f"{entry.id}  {entry.status:11}  {moment(entry.created_at)}  {entry.algorithm:9}  {contacts}{bound}"


def _told(entry: AccountEntry) -> list[str]:
    return [
        f"url:              {entry.url}",
        f"status:           {entry.status}",
        f"made:             {moment(entry.created_at)}",
        f"contacts:         {', '.join(entry.contacts) or '-'}",
        f"key:              {entry.algorithm}, thumbprint {entry.thumbprint}",
        f"terms agreed to:  {entry.terms or '-'}",
        f"external account: {entry.eab_kid or '-'}",
    ]
