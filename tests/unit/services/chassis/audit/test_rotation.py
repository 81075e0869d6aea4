"""Archiving where something is in its way; what it does otherwise is in tests/contract/test_audit_archives.py."""

from __future__ import annotations

import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pkicore.errors import AuditError
from services.chassis.audit.archives import segment_files, sweep
from services.chassis.database import AuditEvent, Unit
from tests.support.audit_world import AuditWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AuditWorld]:
    """An empty log."""
    async with AuditWorld.open(tmp_path) as world:
        yield world


@contextmanager
def full_disk(octets: int) -> Iterator[None]:
    """No file of this process grows beyond a size."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_keeps_the_records_in_the_database(world: AuditWorld) -> None:
    """No half archive takes up room, and with room again the records leave."""
    events = [AuditEvent("x", "y", {"noise": secrets.token_hex(5000)}, logged=False) for _ in range(40)]
    await world.database.commit(Unit("x", audit=events))
    with full_disk(65_536), pytest.raises(OSError, match="too large"):
        await world.archiver(above_records=20).once()
    assert (world.files, await world.rows()) == ([], 40)
    assert await world.verified(await world.checkpoint()) == []
    await world.archiver(above_records=20).once()
    assert world.files == ["audit-000000000001-000000000030.jsonl.gz"]


async def test_another_logs_archive_in_the_way_is_not_adopted(world: AuditWorld, tmp_path: Path) -> None:
    """Nothing is archived over it, nothing leaves, and the sentence names the file."""
    (tmp_path / "other").mkdir()
    async with AuditWorld.open(tmp_path / "other") as other:
        await other.record(3)
        await other.record(9)
        await other.archiver(above_records=10).once()
        stray = segment_files(other.directory)[0].path
    await world.record(12)
    world.directory.mkdir()
    stray.rename(world.directory / stray.name)
    with pytest.raises(AuditError, match="is not signed by the audit key"):
        await world.archiver(above_records=10).once()
    world.key = other.key
    with pytest.raises(AuditError, match="is an archive of another log"):
        await world.archiver(above_records=10).once()
    assert await world.rows() == 12


async def test_what_a_crash_left_unfinished_is_swept(world: AuditWorld) -> None:
    """After an hour; what is younger may be another replica's, and neither counts for anything."""
    world.directory.mkdir()
    old, young = world.directory / ".unfinished-old", world.directory / ".unfinished-young"
    for path in (old, young):
        path.write_bytes(b"half an archive")
    os.utime(old, (1, 1))
    assert await world.verified() == []
    assert sweep(world.directory) == [old]
    assert world.files == [young.name]
