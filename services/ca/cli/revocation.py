"""`ztca revoke`, `ztca hold`, `ztca release`: one certificate, or every one of a key, identity, account or period."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.clock import unix
from pkicore.errors import MalformedError
from pkicore.x509.certificate import load_chain
from services.ca.cli.connection import connected
from services.ca.cli.key_file import key_hash_of
from services.ca.cli.ledger_names import check_names
from services.ca.cli.ledger_text import certificate_lines
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.client import CaClient
from services.ca.errors import CeremonyError
from services.ca.selection import Position, SelectionRequest, Selector
from services.ca.wire import RevocationAnswer, RevocationRequest, format_serial

_SHOWN: Final = 20  # serials of many in a text for people; --json has them all
_OTHERS: Final = {"certificatehold": "hold", "6": "hold", "removefromcrl": "release", "8": "release"}
_DONE: Final = {"certificateHold": "held", "removeFromCRL": "released"}


@dataclass(frozen=True)
class _Choice:
    """What the options select: one certificate, or many; and how to go about it."""

    directory: Path
    serial: str | None
    certificate: bytes | None
    selector: Selector | None
    dry_run: bool
    yes: bool
    as_json: bool


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """The options that select certificates, given to the command as one `_Choice`."""
    options = (
        directory_option,
        click.option("--serial", help="Serial number in hex; case, colons and leading zeros do not matter."),
        click.option("--certificate", type=PlainPath(), help="The certificate itself, PEM."),
        click.option("--key", help="All of a key: a file with it, its certificate or request, or its SHA-256 in hex."),
        click.option("--spiffe-id", help="All with exactly this SPIFFE ID."),
        click.option("--account", help="All of this account: the URL of an ACME account."),
        click.option(
            "--issued-between", nargs=2, metavar="FROM TO", help="All issued then: 2026-11-22T10:00:00Z, UTC."
        ),
        click.option("--issuer", help="Of many, only those of this issuing CA."),
        click.option("--profile", help="Of many, only those of this profile."),
        click.option("--dry-run", is_flag=True, help="Change nothing: show how many there are, and which."),
        click.option("--yes", is_flag=True, help="Do not ask before many are changed."),
        json_option,
    )

    @wraps(command)
    def chosen(*, reason: str = "", **given: Any) -> None:  # noqa: ANN401 - click's values, by option
        with failing_cleanly():
            choice = _choice(**given)
            command(choice, reason) if reason else command(choice)

    for option in reversed(options):
        chosen = option(chosen)
    return chosen


@click.command()
@click.option(
    "--reason",
    default="unspecified",
    show_default=True,
    help="Name or number of RFC 5280 §5.3.1, such as keyCompromise or superseded; a wrong one is answered with all.",
)
@_choosing
def revoke(choice: _Choice, reason: str) -> None:
    """Revoke certificates, for good.

    Needs a running deployment (`ztca up`). `openssl x509 -noout -serial -in FILE` prints the number of a certificate.
    Many are revoked in pieces; if that is interrupted, the same command goes on where it ended.
    """
    named = _OTHERS.get(reason.lower())
    if named is not None:
        raise CeremonyError(f"{reason} is no reason to revoke for good: `ztca {named}` does that")
    _carry_out(choice, reason)


@click.command()
@_choosing
def hold(choice: _Choice) -> None:
    """Hold certificates: revoked until they are released, or revoked for good."""
    _carry_out(choice, "certificateHold")


@click.command()
@_choosing
def release(choice: _Choice) -> None:
    """Release certificates that are held; nothing else can be undone."""
    _carry_out(choice, "removeFromCRL")


def _choice(  # noqa: PLR0913 - the command's options, each by its name
    *,
    directory: Path,
    serial: str | None,
    certificate: Path | None,
    key: str | None,
    spiffe_id: str | None,
    account: str | None,
    issued_between: tuple[str, str] | None,
    issuer: str | None,
    profile: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> _Choice:
    many = {"key": key, "spiffe_id": spiffe_id, "account": account, "issued_between": issued_between}
    one = {"serial": serial, "certificate": certificate}
    if sum(value is not None for value in (one | many).values()) != 1:
        raise CeremonyError(
            "give exactly one of --serial, --certificate, --key, --spiffe-id, --account and --issued-between"
        )
    selector = None
    if serial is None and certificate is None:
        begin, end = map(_time, issued_between) if issued_between is not None else (None, None)
        digest = None if key is None else key_hash_of(key)
        selector = Selector(digest, spiffe_id, account, begin, end, issuer, profile)
        selector.check()
    elif issuer is not None or profile is not None:
        raise CeremonyError("--issuer and --profile narrow down many certificates; this is one")
    der = None if certificate is None else load_chain(_read(certificate))[0].public_bytes(Encoding.DER)
    return _Choice(directory, serial, der, selector, dry_run, yes, as_json)


def _carry_out(choice: _Choice, reason: str) -> None:
    if choice.selector is not None:
        asyncio.run(_many(choice, choice.selector, reason))
        return
    if choice.dry_run:
        asyncio.run(_show_one(choice))
        return
    answer = asyncio.run(_one(choice, reason))
    value = {"serial": answer.serial, "revoked_at": answer.revoked_at, "reason": answer.reason}
    done = _DONE.get(answer.reason, f"revoked ({answer.reason})")
    tell(choice.as_json, value, f"Certificate {answer.serial} is {done}. CRL and OCSP say so now.")


async def _one(choice: _Choice, reason: str) -> RevocationAnswer:
    async with connected(choice.directory) as ca:
        return await ca.revoke(RevocationRequest(reason, serial=choice.serial, certificate=choice.certificate))


async def _show_one(choice: _Choice) -> None:
    der = choice.certificate
    serial = format_serial(x509.load_der_x509_certificate(der).serial_number) if der is not None else choice.serial
    async with connected(choice.directory) as ca:
        status = await ca.certificate(serial or "")
    value = {"serials": [status.serial], "count": 1, "dry_run": True}
    tell(choice.as_json, value, f"{status.serial} ({status.profile}, {status.issuer}) is {status.status}.")


async def _many(choice: _Choice, selector: Selector, reason: str) -> None:
    if choice.as_json and not (choice.yes or choice.dry_run or sys.stdin.isatty()):
        raise CeremonyError("many certificates are changed only when somebody says so: give --yes")
    async with connected(choice.directory) as ca:
        await check_names(ca, choice.directory, issuer=selector.issuer, profile=selector.profile)
        if choice.dry_run or not choice.yes:
            found = await _in_pieces(ca, selector, reason, dry_run=True)
            lines = await _described(ca, found)
            if choice.dry_run:
                _tell_many(choice, found, lines, "would be")
                return
            click.echo("\n".join([*lines, f"{len(found)} certificates."]), err=True)
            click.confirm("Go on?", abort=True, err=True)
        done = await _in_pieces(ca, selector, reason, dry_run=False)
        _tell_many(choice, done, _and_more([format_serial(serial) for serial in done[:_SHOWN]], done), "are")


async def _described(ca: CaClient, serials: list[int]) -> list[str]:
    """The first ones with status, end, profile, issuer and names."""
    rows = [await ca.ledger_entry(format_serial(serial)) for serial in serials[:_SHOWN]]
    return _and_more(certificate_lines(rows) if rows else [], serials)


def _and_more(shown: list[str], serials: list[int]) -> list[str]:
    return [*shown, f"and {len(serials) - _SHOWN} more"] if len(serials) > _SHOWN else shown


async def _in_pieces(ca: CaClient, selector: Selector, reason: str, *, dry_run: bool) -> list[int]:
    serials: list[int] = []
    after: Position | None = Position()
    while after is not None:
        piece = await ca.revoke_selected(SelectionRequest(selector, reason, after, dry_run))
        serials += piece.serials
        after = piece.after
    return serials


def _tell_many(choice: _Choice, serials: list[int], shown: list[str], are: str) -> None:
    names = [format_serial(serial) for serial in serials]
    value = {"serials": names, "count": len(names), "dry_run": choice.dry_run}
    tell(choice.as_json, value, *shown, f"{len(names)} certificates {are} changed.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CeremonyError(f"{path} cannot be read: {error.strerror}") from error


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(f"{text[:40]!r} is no time such as 2026-11-22T10:00:00Z") from error
    return unix(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
