"""The audit log as a service lives with it: records, archives, checkpoints outside the database, verification.

Records are written by `Database.commit`, in the transaction of the act they record.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock
from pkicore.keys import open_key
from pkicore.keys.passphrase import read_passphrase
from services.chassis.audit.archives import ARCHIVE_DIRECTORY
from services.chassis.audit.checkpoints import CHECKPOINTS_FILE, Checkpointer, read_checkpoints
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.audit.records import audit_base, audit_head, audit_records, export_audit
from services.chassis.audit.rotation import Archiver, ArchiveRules
from services.chassis.audit.verification import verify_audit
from services.chassis.database import AuditEvent, AuditTables, Database, audit_tables

__all__ = [
    "ARCHIVE_DIRECTORY",
    "CHECKPOINTS_FILE",
    "ArchiveRules",
    "Archiver",
    "AuditEvent",
    "AuditKeeper",
    "AuditTables",
    "Checkpointer",
    "archive_rules",
    "audit_base",
    "audit_checkpoints",
    "audit_head",
    "audit_records",
    "audit_tables",
    "export_audit",
    "read_checkpoints",
    "verify_audit",
]


class AuditSettings(Protocol):
    """The settings of a service that keeps an audit log."""

    @property
    def audit_key(self) -> str:
        """The key of the checkpoints, as `open_key` takes it."""

    @property
    def passphrase_file(self) -> Path:
        """What opens it."""

    @property
    def state_dir(self) -> Path:
        """Where CHECKPOINTS_FILE goes."""

    @property
    def audit_archive_dir(self) -> Path | None:
        """Where archives go; None: below the state directory."""

    @property
    def audit_archive_after_days(self) -> int:
        """As `ArchiveRules.after_days`."""

    @property
    def audit_archive_above_records(self) -> int:
        """As `ArchiveRules.above_records`."""

    @property
    def audit_retain_days(self) -> int:
        """As `ArchiveRules.retain_days`."""


def archive_rules(settings: AuditSettings) -> ArchiveRules:
    """What a service's settings say of archives."""
    return ArchiveRules(
        settings.audit_archive_dir or settings.state_dir / ARCHIVE_DIRECTORY,
        settings.audit_archive_after_days,
        settings.audit_archive_above_records,
        settings.audit_retain_days,
    )


class AuditKeeper:
    """What a service does about its log in the background."""

    def __init__(self, checkpointer: Checkpointer, archiver: Archiver) -> None:
        self._checkpointer = checkpointer
        self._archiver = archiver

    async def run(self) -> None:
        """Checkpoints and archives, for ever.

        Raises:
            OSError, KeyAccessError, UnavailableError: as `Checkpointer.run`.
        """
        archiving = asyncio.create_task(self._archiver.run(), name="audit-archives")
        try:
            await self._checkpointer.run()
        finally:
            archiving.cancel()
            await asyncio.wait([archiving])

    async def write(self) -> None:
        """The last checkpoint.

        Raises:
            OSError, KeyAccessError, UnavailableError: as `Checkpointer.write`.
        """
        await self._checkpointer.write()


@asynccontextmanager
async def audit_checkpoints(
    settings: AuditSettings, database: Database, clock: Clock, registry: CollectorRegistry | None = None
) -> AsyncIterator[AuditKeeper]:
    """A service's keeper of the log, to be run in the background; the last checkpoint is written at the end.

    The metrics are shown in the registry.

    Raises:
        KeyAccessError: the audit key cannot be opened.
        OSError, KeyAccessError, UnavailableError: at the end, as `Checkpointer.write`.
    """
    with ThreadPoolExecutor(1, "audit") as pool:
        path = settings.passphrase_file
        key = await open_key(settings.audit_key, secrets=lambda _uri: read_passphrase(path), pool=pool)
        metrics = AuditMetrics(registry)
        checkpointer = Checkpointer(database, key, settings.state_dir / CHECKPOINTS_FILE, clock, metrics=metrics)
        keeper = AuditKeeper(checkpointer, Archiver(database, key, archive_rules(settings), clock, metrics=metrics))
        try:
            yield keeper
        finally:
            await keeper.write()
