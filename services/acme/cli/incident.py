"""`ztca incident`: have clients renew certificates at once (RFC 9773), and see how far that is."""

from __future__ import annotations

import asyncio
import csv
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509

from pkicore.clock import unix
from pkicore.errors import MalformedError
from services.acme.cli.connection import connected
from services.acme.cli.output import failing_cleanly, moment
from services.acme.client import AcmeAdminClient
from services.acme.incidents.wire import (
    MAX_AT_RISK,
    MAX_SERIALS,
    AtRisk,
    IncidentEntry,
    IncidentRequest,
    Progress,
    Selected,
    Selection,
)
from services.chassis.cli.deployed import Deployed
from services.chassis.cli.output import PlainPath, directory_option, json_option, tell
from services.chassis.errors import DeploymentError

_SERIALS: Final = re.compile(r"[0-9a-fA-F:,\s]*")
_SHOWN: Final = 20  # certificates in a text for people; --json and --csv have them all


@click.group()
def incident() -> None:
    """Incidents: have clients renew certificates at once, and see how far that is."""


@incident.command("open")
@directory_option
@click.option(
    "--serials", help="These: a file with a serial number (hex) in each line, or numbers with commas between."
)
@click.option("--issuer", help="All of this issuing CA, as `ztca ca list` names it.")
@click.option("--profile", default="", help="All of this ACME profile.")
@click.option("--account", default="", help="All of this ACME account: its URL, or the id at the URL's end.")
@click.option(
    "--window", metavar="START..END", help="All issued then: 2026-11-22T10:00:00Z..2026-11-22T12:00:00Z, UTC."
)
@click.option("--reason", required=True, help="For the audit log and other operators.")
@click.option("--explanation-url", default="", help="What clients show their users.")
@click.option("--dry-run", is_flag=True, help="Open nothing: show how many there are, and which.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def open_command(  # noqa: PLR0913 - the command's options, each by its name
    *,
    directory: Path,
    serials: str | None,
    issuer: str | None,
    profile: str,
    account: str,
    window: str | None,
    reason: str,
    explanation_url: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Have clients renew certificates at once.

    Certificates that meet all of the options are concerned, as far as ACME issued them and they have not expired. The
    set is fixed now: what is issued later is not concerned. Their suggested renewal window (ARI) is past from now on
    until the incident is closed; nothing is revoked. Clients that ask every six hours see it within that time.
    """
    with failing_cleanly():
        if as_json and not (yes or dry_run or sys.stdin.isatty()):
            raise MalformedError("an incident is opened only when somebody says so: give --yes")
        begin, end = (None, None) if window is None else _window(window)
        key = "" if issuer is None else _key_of(directory, issuer)
        selection = Selection((), issuer or "", key, profile, account.rsplit("/", 1)[-1], begin, end)
        numbers = [] if serials is None else _serials(serials)
        if serials is None and not selection.described():
            raise MalformedError(
                "say which certificates: at least one of --serials, --issuer, --profile, --account, --window"
            )
        if serials is None:
            selection.check()
        asyncio.run(
            _open(
                directory,
                IncidentRequest(reason, explanation_url),
                _pieces(selection, numbers),
                dry_run=dry_run,
                ask=not yes,
                as_json=as_json,
            )
        )


async def _open(
    directory: Path, wanted: IncidentRequest, pieces: list[Selection], *, dry_run: bool, ask: bool, as_json: bool
) -> None:
    async with connected(directory) as acme:
        prepared = await acme.prepare_incident(wanted)
        is_open = False
        try:
            answers = [await acme.select_for_incident(prepared.id, piece) for piece in pieces]
            selected = Selected(sum(item.added for item in answers), sum(item.unknown for item in answers))
            if not selected.added:
                raise MalformedError(f"no certificate in force is like that{_unknown(selected)}")
            if dry_run:
                await _tell_selected(acme, prepared, selected, as_json=as_json)
                return
            if ask:
                click.echo("\n".join(await _described(acme, prepared, selected)), err=True)
                click.confirm("Have all of them renewed now?", abort=True, err=True)
            entry = await acme.open_incident(prepared.id)
            is_open = True
        finally:
            if not is_open:
                await acme.discard_incident(prepared.id)
    said = f"The incident {entry.id} is open; it concerns {_certificates(selected.added)}{_unknown(selected)}."
    tell(
        as_json,
        asdict(entry) | {"unknown": selected.unknown},
        said,
        f"`ztca incident show {entry.id}` tells how far it is.",
    )


@incident.command("list")
@directory_option
@json_option
def list_incidents(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show open and closed incidents, the newest first."""
    with failing_cleanly():
        entries = asyncio.run(_list(directory))
        value: dict[str, Any] = {"incidents": [asdict(entry) for entry in entries]}
        tell(as_json, value, *([_line(entry) for entry in entries] or ["There was no incident."]))


async def _list(directory: Path) -> list[IncidentEntry]:
    async with connected(directory) as acme:
        return [*(await acme.incidents()).incidents]


@incident.command()
@click.argument("incident_id", metavar="ID")
@directory_option
@click.option("--csv", "table", type=PlainPath(), help="Write the certificates at risk to this file.")
@json_option
def show(incident_id: str, directory: Path, table: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show how far an incident is, and which certificates nobody has replaced."""
    with failing_cleanly():
        entry, certificates = asyncio.run(_show(directory, incident_id, every=as_json or table is not None))
        if table is not None:
            _write(table, certificates)
        value = asdict(entry) | {"certificates_at_risk": [asdict(item) for item in certificates]}
        more = _more(len(certificates), 0 if entry.progress is None else entry.progress.at_risk)
        tell(as_json, value, *_told(entry), *map(_row, certificates[:_SHOWN]), *more)


async def _show(directory: Path, incident_id: str, *, every: bool) -> tuple[IncidentEntry, list[AtRisk]]:
    async with connected(directory) as acme:
        entry = await acme.incident(incident_id)
        if not every:
            return entry, [*(await acme.at_risk(entry.id, limit=_SHOWN)).certificates]
        return entry, [item async for item in _at_risk(acme, entry.id)]


@incident.command()
@click.argument("incident_id", metavar="ID")
@directory_option
@json_option
def close(incident_id: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Close an incident: suggested windows are as they would be without it."""
    with failing_cleanly():
        entry = asyncio.run(_close(directory, incident_id))
        tell(as_json, asdict(entry), f"The incident {entry.id} is closed.", *_told(entry))


async def _close(directory: Path, incident_id: str) -> IncidentEntry:
    async with connected(directory) as acme:
        return await acme.close_incident(incident_id)


async def _at_risk(acme: AcmeAdminClient, incident_id: str) -> AsyncIterator[AtRisk]:
    after: str | None = ""
    while after is not None:
        page = await acme.at_risk(incident_id, after, MAX_AT_RISK)
        for item in page.certificates:
            yield item
        after = page.next


async def _tell_selected(acme: AcmeAdminClient, prepared: IncidentEntry, selected: Selected, *, as_json: bool) -> None:
    every = [asdict(item) async for item in _at_risk(acme, prepared.id)] if as_json else []
    value = {"certificates": every, "count": selected.added, "unknown": selected.unknown, "dry_run": True}
    tell(as_json, value, *await _described(acme, prepared, selected))


async def _described(acme: AcmeAdminClient, prepared: IncidentEntry, selected: Selected) -> list[str]:
    some = (await acme.at_risk(prepared.id, limit=_SHOWN)).certificates
    return [
        *map(_row, some),
        *_more(len(some), selected.added),
        f"{_certificates(selected.added)}{_unknown(selected)}.",
    ]


def _certificates(count: int) -> str:
    return f"{count} certificate{'' if count == 1 else 's'}"


def _unknown(selected: Selected) -> str:
    return f"; serials of no certificate that ACME issued: {selected.unknown}" if selected.unknown else ""


def _pieces(selection: Selection, serials: list[str]) -> list[Selection]:
    if not serials:
        return [selection]
    starts = range(0, len(serials), MAX_SERIALS)
    return [replace(selection, serials=tuple(serials[start : start + MAX_SERIALS])) for start in starts]


def _serials(text: str) -> list[str]:
    file = Path(text)
    if file.is_file():
        content = file.read_text(encoding="utf-8")
    elif _SERIALS.fullmatch(text):
        content = text.replace(",", "\n")
    else:
        raise MalformedError(f"--serials: there is no file {text[:200]!r}, and it is no serial number (hex)")
    found = list(dict.fromkeys(line.strip() for line in content.splitlines() if line.strip()))
    if not found:
        raise MalformedError(f"--serials: there is no serial number in {text[:200]!r}")
    return found


def _window(text: str) -> tuple[int, int]:
    begin, dots, end = text.partition("..")
    if not dots:
        raise MalformedError("--window is START..END, such as 2026-11-22T10:00:00Z..2026-11-22T12:00:00Z")
    return _time(begin), _time(end)


def _time(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(f"{text[:40]!r} is no time such as 2026-11-22T10:00:00Z") from error
    return unix(found if found.tzinfo is not None else found.replace(tzinfo=UTC))


def _key_of(directory: Path, issuer: str) -> str:
    """The subject key identifier of an issuing CA, in hex."""
    issuers = Deployed.read(directory).issuers
    if issuer not in issuers:
        raise DeploymentError(f"there is no issuing CA {issuer[:80]!r}; there are: {', '.join(sorted(issuers))}")
    return issuers[issuer].extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def _told(entry: IncidentEntry) -> list[str]:
    explained = f", explained at {entry.explanation_url}" if entry.explanation_url else ""
    closed = "" if entry.closed_at is None else f", closed {moment(entry.closed_at)}"
    return [
        f"{entry.state} since {moment(entry.opened_at)} by {entry.opened_by}{closed}: {entry.reason}{explained}",
        *([] if entry.progress is None else [_counted(entry.progress)]),
    ]


def _counted(progress: Progress) -> str:
    return (
        f"{_certificates(progress.concerned)}: {progress.replaced} replaced, {progress.revoked} revoked, "
        f"{progress.expired} expired, {progress.at_risk} at risk"
    )


def _line(entry: IncidentEntry) -> str:
    return f"{entry.id}  {entry.state:6}  {moment(entry.opened_at)}  {entry.reason}"


def _row(item: AtRisk) -> str:
    contacts = ", ".join(item.contacts) or "no contact"
    return f"  {item.serial}  until {moment(item.not_after)}  {', '.join(item.names)}  {item.account}  {contacts}"


def _more(shown: int, count: int) -> list[str]:
    return [f"  and {count - min(shown, _SHOWN)} more"] if count > min(shown, _SHOWN) else []


def _write(path: Path, certificates: list[AtRisk]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(AtRisk.__slots__)
        for item in certificates:
            rows.writerow(
                [
                    item.serial,
                    " ".join(item.names),
                    item.account,
                    " ".join(item.contacts),
                    item.profile,
                    moment(item.not_after),
                ]
            )
