"""`ztca audit`: verify the hash-chained logs offline, or export one."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.audit import GENESIS, ChainHead, ChainVerifier, Checkpoint, TruncatedLine, parse_export
from pkicore.clock import SystemClock
from pkicore.errors import AuditError
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import database_url, present_place, recorded_settings
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.audit import CHECKPOINTS_FILE, export_audit, read_checkpoints, verify_audit
from services.chassis.database import Database, parse_url
from services.chassis.paths import plain_path

_SQLITE = b"SQLite format 3\0"


@click.group()
def audit() -> None:
    """The audit logs: what was done, by whom, unbroken."""


@audit.command()
@click.argument("path", type=PlainPath())
@json_option
def verify(path: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Verify PATH: a state directory (every log of it, with its checkpoints), a JSONL export or a database file.

    Of a state directory, each log is read where the service's settings say: another file, or PostgreSQL.
    """
    with failing_cleanly():
        found = _verify(path)
        value = {"logs": [{"log": name, "records": head.sequence, "head": head.hash.hex()} for name, head in found]}
        tell(as_json, value, *(f"{name}: {head.sequence} records, unbroken." for name, head in found))


@audit.command()
@directory_option
@click.option("--service", default="ca", show_default=True, help="Whose log.")
def export(directory: Path, service: str) -> None:
    """Write a service's log to standard output, one JSON line per record."""
    with failing_cleanly():
        databases = _databases(Layout(directory))
        if service not in databases:
            raise CeremonyError(
                f"there is no audit log of {service!r} in {directory}; there are: {', '.join(databases)}"
            )
        asyncio.run(_export(databases[service]))


async def _export(url: str) -> None:
    database = await Database.open(url, clock=SystemClock())
    try:
        async for line in export_audit(database):
            sys.stdout.buffer.write(line)
    finally:
        await database.close()


def _verify(path: Path) -> list[tuple[str, ChainHead]]:
    if path.is_dir():
        return _verify_directory(Layout(path))
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
    except FileNotFoundError as error:
        raise CeremonyError(f"there is no {path}: give a state directory, a JSONL export or a database") from error
    if start == _SQLITE:
        return [(path.name, asyncio.run(_verify_database(_sqlite_url(path), [], None)))]
    return [(path.name, _verify_export(path))]


def _verify_directory(layout: Layout) -> list[tuple[str, ChainHead]]:
    found, databases = [], _databases(layout)
    for service in layout.services:
        if service not in databases and _checkpoints(layout, service).exists():
            raise AuditError(f"{service}: its log has checkpoints, and its database is gone: restore it from a backup")
    for service, url in databases.items():
        key_file = layout.audit_public_key(service)
        try:
            checkpoints = read_checkpoints(_checkpoints(layout, service))
            public_key = _public_key(key_file) if key_file.exists() else None
            head = asyncio.run(_verify_database(url, checkpoints, public_key))
        except AuditError as error:
            raise AuditError(f"{service}: {error}", error.sequence) from error
        found.append((service, head))
    return found


def _databases(layout: Layout) -> dict[str, str]:
    """The URL of each database that is there: where a service's settings say, else, without settings, in its place."""
    services = layout.services
    found = {path.parent.name: _sqlite_url(path) for path in layout.root.glob("*/*.sqlite3")}
    found = {service: url for service, url in found.items() if service not in services}
    found |= {service: url for service in services if (url := _database(layout, service)) is not None}
    if not found:
        raise CeremonyError(f"there is no audit log below {layout.root}")
    return dict(sorted(found.items()))


def _database(layout: Layout, service: str) -> str | None:
    """None where the file is not there, as before a service's first start."""
    # The services' own settings read the environment; here it only tells where theirs is.
    url = database_url(layout, service, os.environ)
    parsed = parse_url(url)
    if parsed.drivername != "sqlite":
        return url
    path = present_place(layout, service, plain_path(Path(str(parsed.database))))
    return _sqlite_url(path) if path.exists() else None


def _checkpoints(layout: Layout, service: str) -> Path:
    """The checkpoints of a service's log, below its state directory."""
    state = layout.state(service)
    if service in layout.services:
        state = present_place(layout, service, Path(recorded_settings(layout, service).get("state_dir", state)))
    return state / CHECKPOINTS_FILE


def _sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


async def _verify_database(url: str, checkpoints: list[Checkpoint], public_key: PublicKey | None) -> ChainHead:
    database = await Database.open(url, clock=SystemClock())
    try:
        return await verify_audit(database, checkpoints, public_key)
    finally:
        await database.close()


def _verify_export(path: Path) -> ChainHead:
    verifier = ChainVerifier(())
    with path.open("rb") as lines:
        for item in parse_export(lines):
            if isinstance(item, TruncatedLine):
                raise AuditError(f"line {item.number} is cut off after {item.size} bytes")
            verifier.take(item)
    head = verifier.finish()
    if head == GENESIS:
        raise AuditError(f"{path} holds no record: an export of a log has at least one")
    return head


def _public_key(path: Path) -> PublicKey:
    try:
        loaded: Any = load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise CeremonyError(f"{path} holds no public key in PEM: restore it from a backup") from error
    return known_public_key(loaded)
