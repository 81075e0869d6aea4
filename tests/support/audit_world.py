"""An audit log with archives, in a database of either engine, and ways to harm it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.audit import Checkpoint
from services.chassis.audit import Archiver, ArchiveRules, Checkpointer, read_checkpoints
from services.chassis.audit.verification import Evidence, verify_log
from services.chassis.database import AuditEvent, Database, Unit
from tests.support.clock import ManualClock
from tests.support.databases import AUDIT, create_schema, opened
from tests.support.pki import MemoryKey


def event(number: int) -> AuditEvent:
    """An event of the bakery."""
    return AuditEvent("bread.sold", "baker", {"n": number})


@dataclass
class AuditWorld:
    """A log whose archives are in `directory`."""

    database: Database
    clock: ManualClock
    key: MemoryKey
    directory: Path
    checkpoints_file: Path

    @classmethod
    @asynccontextmanager
    async def open(cls, tmp_path: Path, url: str | None = None) -> AsyncIterator[AuditWorld]:
        """An empty log; in a SQLite file where no database with the schema is given."""
        if url is None:
            url = f"sqlite:///{tmp_path}/audit.sqlite3"
            await create_schema(url)
        clock = ManualClock()
        async with opened(url, clock) as database:
            key = MemoryKey(generate_private_key(ALGORITHMS["ed25519"]))
            yield cls(database, clock, key, tmp_path / "audit-archive", tmp_path / "checkpoints.jsonl")

    async def record(self, count: int, days: int = 0) -> None:
        """So many events, a day after each where days are to go by."""
        for _ in range(days or 1):
            await self.database.commit(Unit("x", audit=[event(number) for number in range(count)]))
            self.clock.advance(timedelta(days=1 if days else 0))

    def archiver(
        self,
        after_days: int = 0,
        above_records: int = 0,
        retain_days: int = 0,
        observer: Callable[[str], None] = lambda _: None,
        most: int = 100_000,
    ) -> Archiver:
        """One with these rules."""
        rules = ArchiveRules(self.directory, after_days, above_records, retain_days)
        return Archiver(self.database, self.key, rules, self.clock, observer=observer, most=most)

    async def checkpoint(self) -> list[Checkpoint]:
        """One more; all of them."""
        await Checkpointer(self.database, self.key, self.checkpoints_file, self.clock).write()
        return read_checkpoints(self.checkpoints_file)

    async def verified(self, checkpoints: Sequence[Checkpoint] = ()) -> list[str]:
        """What is said of the log, which is whole."""
        evidence = Evidence(checkpoints, self.key.public_key)
        await verify_log(self.database, self.directory, evidence)
        return evidence.notices

    async def rows(self) -> int:
        """How many records are in the database."""
        row = await self.database.fetch_one(
            self.database.prepare(select(func.count().label("n")).select_from(AUDIT.log))
        )
        assert row is not None
        return int(row["n"])

    @property
    def files(self) -> list[str]:
        """The files of the archive directory."""
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of an archive."""
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(change(lines))))
