"""`ztca audit`: verify the hash-chained logs offline, or export one.

Exit status of `verify`: 0 every log is whole; 1 one is broken, or the call is wrong, as of every command; 2 one could
not be checked.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.audit import GENESIS, ChainHead
from pkicore.audit.segments import bounded_lines, parse_log
from pkicore.clock import SystemClock
from pkicore.errors import AuditError, PkiError
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import database_url, present_place, recorded_settings
from services.ca.errors import CaServiceError, CeremonyError
from services.ca.layout import SIGNER, Layout
from services.chassis.audit import ARCHIVE_DIRECTORY, CHECKPOINTS_FILE
from services.chassis.audit.archives import GZIP_MAGIC, archive_lines, segment_files
from services.chassis.audit.checkpoints import checkpoint_file
from services.chassis.audit.verification import (
    ArchiveWalk,
    Evidence,
    verify_database,
    verify_lines,
    verify_log,
)
from services.chassis.audit.whole import export_log
from services.chassis.database import Database, parse_url
from services.chassis.errors import ChassisError, UnavailableError
from services.chassis.paths import plain_path

_SQLITE: Final = b"SQLite format 3\0"
_BROKEN, _UNCHECKED = 1, 2
_BEGUN_BEFORE: Final = ("ca", SIGNER)  # services whose logs begin, and are signed, before their first start
_FIRST_CHECKPOINT: Final = 2.0  # seconds in which a service that runs has signed its first record
_UNCHECKABLE: Final = (CaServiceError, ChassisError, PkiError, OSError)


class _NoCheckpointError(AuditError):
    """A log has records, and nothing says how far it went."""


@dataclass
class Found:
    """What was found of one log.

    Attributes:
        log: The service, or the file.
        head: The last record, where the log is whole.
        error: What is wrong otherwise.
        notices: What else is to be said.
    """

    log: str
    head: ChainHead = GENESIS
    error: Exception | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status that it asks for."""
        if self.error is None:
            return 0
        return _BROKEN if self.is_broken or isinstance(self.error, CaServiceError) else _UNCHECKED

    @property
    def is_broken(self) -> bool:
        """Whether it was verified, and is not whole."""
        return isinstance(self.error, AuditError)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        if self.error is None:
            value = {"log": self.log, "records": self.head.sequence, "head": self.head.hash.hex(), "error": None}
        else:
            sequence = self.error.sequence if isinstance(self.error, AuditError) else None
            error = {"checked": self.is_broken, "sequence": sequence, "reason": str(self.error)}
            value = {"log": self.log, "records": None, "head": None, "error": error}
        return value | {"notices": self.notices}


@click.group()
def audit() -> None:
    """The audit logs: what was done, by whom, unbroken."""


@audit.command()
@click.argument("path", type=PlainPath())
@click.option("--key", type=PlainPath(), help="Public audit key, PEM; of a state directory it is DIR/trust/audit's.")
@click.option("--checkpoints", type=PlainPath(), help="Checkpoints of a log that is given as a file.")
@json_option
def verify(path: Path, key: Path | None, checkpoints: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Verify PATH: a state directory, a database, an export, an archive, or a directory of archives.

    Of a state directory every log is verified, from its archives on, with its checkpoints, where the service's
    settings say that it is: another file, or PostgreSQL.

    Exit status: 0 all is whole; 1 a log is broken (the first bad record is named), or PATH or an option is wrong;
    2 a log could not be checked.
    """
    found = list(_verify(path, key, checkpoints))
    for one in found:
        if one.error is not None:
            click.echo(f"ztca: {one.log}: {one.error}", err=True)
    status = min((one.status for one in found if one.status), default=0)
    value = {"intact": status == 0, "logs": [one.as_json() for one in found]}
    tell(as_json, value, *(sentence for one in found if one.error is None for sentence in _sentences(one)))
    sys.exit(status)


def _sentences(found: Found) -> Iterator[str]:
    yield f"{found.log}: {found.head.sequence} records, unbroken."
    for notice in found.notices:
        yield f"  {notice}."


@audit.command()
@directory_option
@click.option("--service", default="ca", show_default=True, help="Whose log.")
def export(directory: Path, service: str) -> None:
    """Write a service's log to standard output, archives first, one JSON line per record."""
    with failing_cleanly():
        layout = Layout(directory)
        databases = _databases(layout)
        if not databases:
            raise _no_log(layout)
        if service not in databases:
            raise CeremonyError(
                f"there is no audit log of {service!r} in {directory}; there are: {', '.join(databases)}"
            )
        evidence = Evidence((), _trusted_key(layout, service))
        asyncio.run(_export(databases[service], _archives(layout, service), evidence))
        for notice in evidence.notices:
            click.echo(f"ztca: {notice}", err=True)


async def _export(url: str, archives: Path, evidence: Evidence) -> None:
    database = await Database.open(url, clock=SystemClock())
    try:
        async with aclosing(export_log(database, archives, evidence)) as lines:
            async for line in lines:
                sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    finally:
        await database.close()


def _verify(path: Path, key: Path | None, checkpoints: Path | None) -> Iterator[Found]:
    name = path.name
    try:
        if not path.exists():
            raise CeremonyError(f"there is no {path}: give a state directory, an export, an archive or a database")
        if path.is_dir() and not segment_files(path):
            yield from _verify_directory(Layout(path))
            return
        evidence = Evidence((), None if key is None else _public_key(key))
        found = Found(name, notices=evidence.notices)
        if checkpoints is not None:
            _take_checkpoints(evidence, checkpoints)
        found.head = _verify_archives(path, evidence) if path.is_dir() else _verify_file(path, evidence)
        _say_what_is_not_vouched_for(evidence, found.head)
        yield found
    except _UNCHECKABLE as error:
        yield Found(name, error=error)


def _verify_file(path: Path, evidence: Evidence) -> ChainHead:
    with path.open("rb") as file:
        start = file.read(len(_SQLITE))
    if start == _SQLITE:
        return asyncio.run(_verify_database(_sqlite_url(path), None, evidence))
    if start.startswith(GZIP_MAGIC):
        return _not_empty(path, *verify_lines(archive_lines(path), evidence))
    with path.open("rb") as file:
        return _not_empty(path, *verify_lines(parse_log(bounded_lines(file)), evidence))


def _not_empty(path: Path, first: int, head: ChainHead) -> ChainHead:
    if not first:
        raise AuditError(f"{path} holds no record: a log has at least one")
    return head


def _verify_archives(directory: Path, evidence: Evidence) -> ChainHead:
    evidence.verify_checkpoints()
    walk = ArchiveWalk(evidence)
    walk.follow(directory)
    return walk.head


def _verify_directory(layout: Layout) -> Iterator[Found]:
    databases = _databases(layout)
    absent = [_verify_absent(layout, service) for service in layout.services if service not in databases]
    if not databases and not any(found is not None and found.error for found in absent):
        raise _no_log(layout)
    yield from (found for found in absent if found is not None)
    for service, url in databases.items():
        found = _verify_service(layout, service, url)
        if isinstance(found.error, _NoCheckpointError):
            time.sleep(_FIRST_CHECKPOINT)  # it may just have begun, and be writing
            found = _verify_service(layout, service, url)
        yield found


def _verify_absent(layout: Layout, service: str) -> Found | None:
    """What has no database: none before a service's first start, but those that the ceremony begins."""
    if _checkpoints(layout, service).exists():
        gone = "its log has checkpoints, and its database is gone: restore it from a backup"
        return Found(service, error=AuditError(gone))
    if not layout.audit_public_key(service).exists():
        return None
    if service in _BEGUN_BEFORE:
        gone = (
            "its database and its checkpoints are gone, which it has had from the beginning: restore them from a backup"
        )
        return Found(service, error=AuditError(gone))
    return Found(service, notices=["it has neither a database nor checkpoints, as before its first start"])


def _verify_service(layout: Layout, service: str, url: str) -> Found:
    evidence = Evidence()
    found = Found(service, notices=evidence.notices)
    try:
        evidence.public_key = _trusted_key(layout, service)
        _take_checkpoints(evidence, _checkpoints(layout, service))
        found.head = asyncio.run(_verify_database(url, _archives(layout, service), evidence))
        if service in layout.services and evidence.public_key is not None:
            _require_checkpoint(evidence, found.head)
        _say_what_is_not_vouched_for(evidence, found.head)
    except _UNCHECKABLE as error:
        found.error = error
    return found


def _require_checkpoint(evidence: Evidence, head: ChainHead) -> None:
    """A service that can sign has signed, a second after its first record."""
    if head.sequence and not evidence.checkpoints:
        raise _NoCheckpointError(
            f"it has {head.sequence} records, and no checkpoint in {CHECKPOINTS_FILE}, so records may be missing at "
            "the end: restore that file, or start the service, if it was killed in its first second; a database alone "
            "is verified by its own path"
        )


def _take_checkpoints(evidence: Evidence, path: Path) -> None:
    evidence.checkpoints, unfinished = checkpoint_file(path)
    if unfinished:
        line = f"the last line of {path.name} is unfinished ({unfinished} octets)"
        evidence.notices.append(f"{line}: a crash cut it off, it counts for nothing")


def _say_what_is_not_vouched_for(evidence: Evidence, head: ChainHead) -> None:
    signed = max((checkpoint.sequence for checkpoint in evidence.checkpoints), default=0)
    if head.sequence and not signed:
        evidence.notices.append("there are no checkpoints: records missing at the end would not show")
    elif signed < head.sequence:
        evidence.notices.append(f"records {signed + 1} to {head.sequence} are newer than the last checkpoint")


def _databases(layout: Layout) -> dict[str, str]:
    """The URL of each database that is there: where a service's settings say, else, without settings, in its place."""
    services = layout.services
    found = {path.parent.name: _sqlite_url(path) for path in layout.root.glob("*/*.sqlite3")}
    found = {service: url for service, url in found.items() if service not in services}
    found |= {service: url for service in services if (url := _database(layout, service)) is not None}
    return dict(sorted(found.items()))


def _no_log(layout: Layout) -> CeremonyError:
    return CeremonyError(f"there is no audit log below {layout.root}")


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
    return _state(layout, service) / CHECKPOINTS_FILE


def _archives(layout: Layout, service: str) -> Path:
    """The archives of a service's log, where its settings say."""
    variable = f"PQCPKI_{service.upper().replace('-', '_')}_AUDIT_ARCHIVE_DIR"
    if named := os.environ.get(variable):
        return Path(named)
    if service in layout.services and (recorded := recorded_settings(layout, service).get("audit_archive_dir")):
        return present_place(layout, service, plain_path(Path(recorded)))
    return _state(layout, service) / ARCHIVE_DIRECTORY


def _state(layout: Layout, service: str) -> Path:
    state = layout.state(service)
    if service in layout.services:
        state = present_place(layout, service, Path(recorded_settings(layout, service).get("state_dir", state)))
    return state


def _sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


async def _verify_database(url: str, archives: Path | None, evidence: Evidence) -> ChainHead:
    with _writable(url) as place:
        database = await Database.open(place, clock=SystemClock())
        try:
            if archives is None:
                return await verify_database(database, evidence)
            return await verify_log(database, archives, evidence)
        finally:
            await database.close()


@contextmanager
def _writable(url: str) -> Iterator[str]:
    """SQLite writes beside the file that it reads: of one on a medium that is read-only, a copy is read.

    So it is of a link: a copy of a state directory is from anywhere, and no file outside of it is to be touched.
    """
    parsed = parse_url(url)
    path = Path(str(parsed.database))
    if parsed.drivername != "sqlite" or not path.exists():
        yield url
        return
    _require_sqlite(path)
    if os.access(path.parent, os.W_OK) and not path.is_symlink():
        yield url
        return
    path = path.resolve()
    with tempfile.TemporaryDirectory(prefix="ztca-audit-") as directory:
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copyfile(part, Path(directory, part.name))
        yield _sqlite_url(Path(directory, path.name))


def _require_sqlite(path: Path) -> None:
    """A database that is opened is made its owner's alone; no other file is opened as one."""
    if not path.is_file():
        raise UnavailableError(f"cannot open the database {path}: it is no plain file")
    with path.open("rb") as file:
        start = file.read(len(_SQLITE))
    if start and start != _SQLITE:  # an empty file is an empty database
        raise UnavailableError(f"cannot open the database {path}: file is not a database")


def _trusted_key(layout: Layout, service: str) -> PublicKey | None:
    path = layout.audit_public_key(service)
    return _public_key(path) if path.exists() else None


def _public_key(path: Path) -> PublicKey:
    try:
        loaded: Any = load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise CeremonyError(f"{path} holds no public key in PEM: restore it from a backup") from error
    return known_public_key(loaded)
