"""`ztca list`, `search`, `show` and `export`: the ledger of the running CA, page by page."""

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import click

from pkicore.clock import SystemClock, unix
from pkicore.encoding import sync_directory
from pkicore.errors import MalformedError
from services.ca.cli.connection import connected
from services.ca.cli.key_file import key_hash_of
from services.ca.cli.ledger_names import check_names
from services.ca.cli.ledger_pages import certificates_of, refusals_of
from services.ca.cli.ledger_text import FORMATS, certificate_lines, entry_lines, members, refusal_lines
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.client import CaClient
from services.ca.errors import CeremonyError
from services.ca.ledger.wire import LedgerEntry, RefusalEntry

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SPAN: Final = re.compile(r"(\d{1,5})([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Moment(click.ParamType[int]):
    """A time: a day, RFC 3339, or so long from now (`12h`, `30d`, `2w`)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - what click passes
        """Unix seconds."""
        if isinstance(value, int):
            return value
        if span := _SPAN.fullmatch(value):
            return unix(SystemClock().now() + int(span[1]) * _UNITS[span[2]])
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time: give 2027-01-31, 2027-01-31T12:00:00Z, or 12h, 30d, 2w from now", param, ctx
            )
        return max(0, unix(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)))


class KeyHash(click.ParamType[str]):
    """A key, as `ztca block add` takes it."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - what click passes
        """SHA-256 of its SubjectPublicKeyInfo, in hex."""
        try:
            return key_hash_of(value).hex()
        except (OSError, MalformedError) as error:
            self.fail(str(error), param, ctx)


def filter_options(command: _Command) -> _Command:
    """The filters of a search; a certificate must meet all that are given."""
    statuses = click.Choice(["good", "expired", "revoked", "pending"])
    options = (
        click.option("--common-name", help="Common name of the subject."),
        click.option("--account", help="On whose behalf it was asked for, such as an ACME account's URL."),
        click.option(
            "--key", type=KeyHash(), help="A file with the key, its certificate or request, or its SHA-256 in hex."
        ),
        click.option("--serial", help="Serial number in hex."),
        click.option("--issuer", help="Id of the issuing CA."),
        click.option("--profile", help="Name of the profile."),
        click.option("--status", type=statuses, help="What it is now."),
        click.option("--ends-after", type=Moment(), help="Ends at that time or later: 2027-01-31, 30d."),
        click.option("--ends-before", type=Moment(), help="Ends before that time: 2027-01-31, 30d."),
    )
    for option in reversed(options):
        command = option(command)
    return command


_limit = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Rows to show at most."
)


@click.command("list")
@click.option("--refusals", is_flag=True, help="Refused requests instead of certificates.")
@filter_options
@_limit
@directory_option
@json_option
def list_command(directory: Path, refusals: bool, limit: int, as_json: bool, **filters: str | int | None) -> None:  # noqa: FBT001 - command-line flags
    """List certificates, the newest first; with filters, those that meet all of them.

    Needs a running deployment (`ztca up`) and an operator's identity.
    """
    with failing_cleanly():
        if refusals:
            _refuse_filters(filters)
            asyncio.run(_tell_refusals(directory, limit, as_json))
        else:
            asyncio.run(_tell_certificates(directory, filters, limit, as_json))


@click.command()
@click.argument("name")
@filter_options
@_limit
@directory_option
@json_option
def search(directory: Path, name: str, limit: int, as_json: bool, **filters: str | int | None) -> None:  # noqa: FBT001 - a command-line flag
    """Find certificates by NAME: a DNS name, IP address, mailbox or SPIFFE ID.

    `*.example.org` finds everything below example.org, `spiffe://DOMAIN/workload/*` everything below that path, and
    `*@example.org` every mailbox there. What has no such name is found by `ztca list` with its filters.
    """
    with failing_cleanly():
        asyncio.run(_tell_certificates(directory, filters | {"name": name}, limit, as_json))


@click.command()
@click.argument("serial")
@click.option("--pem", is_flag=True, help="Print the certificate, too.")
@directory_option
@json_option
def show(directory: Path, serial: str, pem: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Show all that the ledger has of the certificate SERIAL: who asked, how it was validated, what became of it."""
    with failing_cleanly():
        entry = asyncio.run(_entry(directory, serial))
        lines = entry_lines(entry)
        if pem and entry.certificate is not None:
            lines.append(entry.certificate.rstrip())
        tell(as_json, members(entry), *lines)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="Of the file. [default: csv where its name ends so, otherwise json]",
)
@click.option("--out", type=PlainPath(), required=True, help="File to write; replaced whole where it is there.")
@click.option("--refusals", is_flag=True, help="Refused requests instead of certificates.")
@click.option("--name", help="As NAME of `ztca search`.")
@filter_options
@directory_option
@json_option
def export(
    directory: Path,
    form: str | None,
    out: Path,
    refusals: bool,  # noqa: FBT001 - a command-line flag
    as_json: bool,  # noqa: FBT001 - a command-line flag
    **filters: str | int | None,
) -> None:
    """Write the ledger, or what meets the filters, to a file: JSON Lines or CSV, one row per certificate.

    It is read page by page, so that it may be of any size. What is issued meanwhile is not in it.
    """
    with failing_cleanly():
        if refusals:
            _refuse_filters(filters)
        if not out.parent.is_dir():
            raise CeremonyError(f"there is no directory {out.parent}: make it first")
        form = form or ("csv" if out.suffix == ".csv" else "json")
        written = asyncio.run(_export(directory, form, out, None if refusals else filters))
        tell(as_json, {"rows": written, "file": str(out)}, f"{written} rows are in {out}.")


def _refuse_filters(filters: Mapping[str, object]) -> None:
    given = [name for name, value in filters.items() if value is not None]
    if given:
        raise CeremonyError(f"refusals are not filtered by {given[0].replace('_', '-')}: leave that out, or --refusals")


async def _tell_certificates(
    directory: Path,
    filters: Mapping[str, str | int | None],
    limit: int,
    as_json: bool,  # noqa: FBT001 - the command's own flag
) -> None:
    async with connected(directory) as ca:
        await _check(ca, directory, filters)
        rows = [row async for row in certificates_of(ca, filters, limit)]
    more = len(rows) > limit
    lines = certificate_lines(rows[:limit]) if rows else ["No certificate meets that."]
    if more:
        lines.append(f"There are more: --limit {2 * limit}, or `ztca export`.")
    tell(as_json, {"certificates": [members(row) for row in rows[:limit]], "more": more}, *lines)


async def _check(ca: CaClient, directory: Path, filters: Mapping[str, str | int | None]) -> None:
    issuer, profile = (None if (name := filters.get(kind)) is None else str(name) for kind in ("issuer", "profile"))
    await check_names(ca, directory, issuer=issuer, profile=profile)


async def _tell_refusals(directory: Path, limit: int, as_json: bool) -> None:  # noqa: FBT001 - the command's own flag
    async with connected(directory) as ca:
        rows = [row async for row in refusals_of(ca, limit)]
    more = len(rows) > limit
    lines = refusal_lines(rows[:limit]) if rows else ["Nothing was refused."]
    tell(as_json, {"refusals": [members(row) for row in rows[:limit]], "more": more}, *lines)


async def _entry(directory: Path, serial: str) -> LedgerEntry:
    async with connected(directory) as ca:
        return await ca.ledger_entry(serial)


async def _export(directory: Path, form: str, out: Path, filters: Mapping[str, str | int | None] | None) -> int:
    begin, line = FORMATS[form]
    kind = RefusalEntry if filters is None else LedgerEntry
    async with connected(directory) as ca:
        await _check(ca, directory, filters or {})
        rows = refusals_of(ca) if filters is None else certificates_of(ca, filters)
        with _replaced(out) as file:
            file.write(begin(kind))
            written = 0
            async for row in rows:
                file.write(line(row))
                written += 1
    return written


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of this one when it is whole and on the disk; its owner's alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
