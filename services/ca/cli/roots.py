"""`ztca ca root-crl`: the one command that opens a root's key after the ceremony."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from pkicore.clock import Clock, SystemClock, from_unix, unix
from pkicore.crl import Revocation, encode_entry
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import follow_move
from services.ca.errors import AlreadyRevokedError, CeremonyError, UnknownCertificateError
from services.ca.hierarchy import read_certificate
from services.ca.layout import FAMILIES, Layout
from services.ca.new_issuer import open_root, split_name
from services.ca.revocation import parse_reason
from services.ca.revocation_store import Revoked, StoredCrl
from services.ca.rollover import active_root
from services.ca.roots import sign_root_crl
from services.ca.settings import CaSettings
from services.ca.store import CaStore
from services.ca.wire import format_serial, parse_serial
from services.chassis.database import AuditEvent, Database
from services.chassis.settings import load_settings

_LONGEST_WAIT = 5  # seconds


@click.command("root-crl")
@directory_option
@click.option("--family", type=click.Choice(FAMILIES), help="The active root of this family.")
@click.option("--root", help="Which root: also one that is superseded or retired.")
@click.option("--offline", type=PlainPath(), help="Where the roots' keys are. [default: DIR/offline]")
@click.option("--revoke", "serial", help="Serial (hex) of an issuing CA to revoke with this CRL.")
@click.option("--reason", default="cessationOfOperation", show_default=True, help="Why it is revoked.")
@json_option
def root_crl(
    directory: Path,
    family: str | None,
    root: str | None,
    offline: Path | None,
    serial: str | None,
    reason: str,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Sign the next CRL of a root, valid for a year; a running CA publishes it within half a minute.

    Opens the root's key. With --revoke, an issuing CA is put on it first.
    """
    with failing_cleanly():
        layout = Layout(directory, offline)
        if not layout.root.is_dir():
            raise CeremonyError(f"there is no PKI in {layout.root}: give its --dir")
        follow_move(layout)
        if (family is None) == (root is None):
            raise CeremonyError("say which root: --family, or --root")
        signed = asyncio.run(renew_crl(layout, root or "", family or "", serial, reason, SystemClock()))
        value = {"issuer": signed.issuer, "number": signed.number, "next_update": signed.next_update}
        told = [f"CRL {signed.number} of {signed.issuer} is signed."]
        told += [] if serial is None else _what_now(layout, parse_serial(serial))
        tell(as_json, value, *told)


def _what_now(layout: Layout, serial: int) -> list[str]:
    """What is to be done about an issuing CA that was active, and is revoked."""
    settings = load_settings(CaSettings, layout.settings("ca"))
    active = [item for item in settings.issuers if item.state == "active"]
    return [
        f"{item.id} is revoked, and issues nothing any more: `ztca ca prepare --family {item.family}` and `ztca ca "
        "activate` another in its place"
        for item in active
        if read_certificate(item.certificate).serial_number == serial
    ]


async def renew_crl(layout: Layout, root: str, family: str, serial: str | None, reason: str, clock: Clock) -> StoredCrl:
    """Sign the next CRL of a root, by its id or as the active one of a family; of what is to be revoked, if anything.

    Raises:
        CeremonyError: there is no such root, or the newest CRL is of a time that is yet to come.
        UnknownCertificateError, AlreadyRevokedError: nothing is signed.
        PkiError, ChassisError: repeat it; what is revoked is revoked.
    """
    settings = load_settings(CaSettings, layout.config / "ca.toml")
    name = root or active_root(settings, family).id
    if name not in {item.id for item in settings.roots}:
        raise CeremonyError(f"there is no root {name}; there are: {', '.join(item.id for item in settings.roots)}")
    with ThreadPoolExecutor(1) as pool:
        opened = await open_root(layout, settings, name, split_name(name)[0].removeprefix("root-"), pool)
        database = await Database.open(settings.database_url, clock=clock)
        try:
            store = CaStore(database)
            previous = await store.crl(name)
            await _wait_for_turn(previous, clock)
            if serial is not None:
                await revoke_by_root(store, name, parse_serial(serial), parse_reason(reason), clock)
            entries = await store.final_entries(name)
            signed, event = await sign_root_crl(name, opened.issuer.certificate, opened.key, previous, entries, clock)
            await store.store_crl(signed, event)
        finally:
            await database.close()
    return signed


async def _wait_for_turn(previous: StoredCrl | None, clock: Clock) -> None:
    """A CRL is of a later second than the one before it."""
    wait = 0 if previous is None else previous.this_update + 1 - unix(clock.now())
    if previous is not None and wait > _LONGEST_WAIT:
        raise CeremonyError(
            f"CRL {previous.number} of {previous.issuer} is of {from_unix(previous.this_update):%F %T} UTC, which is "
            "yet to come: set this machine's clock right"
        )
    await asyncio.sleep(max(wait, 0))


async def revoke_by_root(store: CaStore, root: str, serial: int, reason: str, clock: Clock) -> None:
    """Put what a root has issued on its next CRL.

    Raises:
        UnknownCertificateError: the root did not issue it.
        AlreadyRevokedError: it is on its CRL.
        DatabaseError: it is not on record.
    """
    issued = await store.candidate(serial)
    if issued is None or issued.issuer != root:
        raise UnknownCertificateError(f"{root} did not issue {format_serial(serial)}")
    if issued.sequence:
        raise AlreadyRevokedError(f"{format_serial(serial)} was revoked before; leave --revoke out")
    now = clock.now()
    entry = encode_entry(Revocation(serial, now, reason))
    revoked = Revoked(0, serial, root, unix(now), reason, issued.not_after, entry)
    detail = {"serial": format_serial(serial), "issuer": root, "reason": reason}
    event = AuditEvent("certificate.revoked", "ceremony", detail)
    await store.record(issued, revoked, event, block_key=reason == "keyCompromise")
