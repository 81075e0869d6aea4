"""`ztca acme limits`: how often clients may do something."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from services.acme.cli.connection import connected
from services.acme.cli.output import failing_cleanly
from services.acme.rate_limits.wire import LimitEntry, LimitList
from services.chassis.cli.output import directory_option, json_option, tell


@click.group()
def limits() -> None:
    """Rate limits of ACME clients."""


@limits.command("list")
@directory_option
@json_option
def list_limits(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the limits of everybody, and who has others."""
    with failing_cleanly():
        _tell(asyncio.run(_list(directory)), as_json=as_json)


@limits.command("set")
@click.argument("subject")
@click.argument("name")
@click.argument("limit")
@directory_option
@json_option
def set_limit(subject: str, name: str, limit: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Give SUBJECT (account:ID, or eab:KID for each of its accounts) the LIMIT called NAME.

    LIMIT is BURST/PERIOD such as 300/3h, off, or usual, which takes it back.
    """
    with failing_cleanly():
        _tell(asyncio.run(_set(directory, LimitEntry(name, limit, subject))), as_json=as_json)


@limits.command()
@click.argument("subject")
@directory_option
@json_option
def reset(subject: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Let SUBJECT (account:ID, address:ADDRESS or name:NAME) begin anew, whatever it has done."""
    with failing_cleanly():
        asyncio.run(_reset(directory, subject))
        tell(as_json, {"reset": subject}, f"{subject} begins anew.")


async def _list(directory: Path) -> LimitList:
    async with connected(directory) as acme:
        return await acme.limits()


async def _set(directory: Path, wanted: LimitEntry) -> LimitList:
    async with connected(directory) as acme:
        return await acme.set_limit(wanted)


async def _reset(directory: Path, subject: str) -> None:
    async with connected(directory) as acme:
        await acme.reset_limits(subject)


def _tell(found: LimitList, *, as_json: bool) -> None:
    lines = [f"{entry.name:30}  {entry.limit:12}  {entry.subject or 'everybody'}" for entry in found.limits]
    tell(as_json, {"limits": [asdict(entry) for entry in found.limits]}, *lines)
