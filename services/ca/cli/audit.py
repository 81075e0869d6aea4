"""`ztca audit`: verify the hash-chained logs offline, or export one."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.audit import ChainHead, ChainVerifier, Checkpoint, TruncatedLine, parse_export
from pkicore.clock import SystemClock
from pkicore.errors import AuditError
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.audit import export_audit, read_checkpoints, verify_audit
from services.chassis.database import Database

_SQLITE = b"SQLite format 3\0"


@click.group()
def audit() -> None:
    """The audit logs: what was done, by whom, unbroken."""


@audit.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Verify PATH: a state directory (every log below it, with its checkpoints), a JSONL export or a database file."""
    with failing_cleanly():
        found = _verify(path.absolute())
        value = {"logs": [{"log": name, "records": head.sequence, "head": head.hash.hex()} for name, head in found]}
        tell(as_json, value, *(f"{name}: {head.sequence} records, unbroken." for name, head in found))


@audit.command()
@directory_option
@click.option("--service", default="ca", show_default=True, help="Whose log.")
def export(directory: Path, service: str) -> None:
    """Write a service's log to standard output, one JSON line per record."""
    with failing_cleanly():
        path = Layout(directory.absolute()).state(service) / f"{service}.sqlite3"
        if not path.is_file():
            raise CeremonyError(f"there is no database {path}")
        asyncio.run(_export(path))


async def _export(path: Path) -> None:
    database = await Database.open(f"sqlite:///{path}", clock=SystemClock())
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
        return [(path.name, asyncio.run(_verify_database(path, [], None)))]
    return [(path.name, _verify_export(path))]


def _verify_directory(layout: Layout) -> list[tuple[str, ChainHead]]:
    databases = sorted(layout.root.glob("*/*.sqlite3"))
    if not databases:
        raise CeremonyError(f"there is no audit log below {layout.root}")
    found = []
    for database in databases:
        service = database.parent.name
        key_file = layout.audit_public_key(service)
        try:
            checkpoints = read_checkpoints(database.parent / "audit-checkpoints.jsonl")
            public_key = _public_key(key_file) if key_file.exists() else None
            head = asyncio.run(_verify_database(database, checkpoints, public_key))
        except AuditError as error:
            raise AuditError(f"{service}: {error}", error.sequence) from error
        found.append((service, head))
    return found


async def _verify_database(path: Path, checkpoints: list[Checkpoint], public_key: PublicKey | None) -> ChainHead:
    database = await Database.open(f"sqlite:///{path}", clock=SystemClock())
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
    return verifier.finish()


def _public_key(path: Path) -> PublicKey:
    loaded: Any = load_pem_public_key(path.read_bytes())
    return known_public_key(loaded)
