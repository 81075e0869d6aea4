"""The export of a whole log: streamed, also while the log is archived."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.audit import StoredRecord
from pkicore.audit.segments import parse_log
from pkicore.errors import AuditError
from services.chassis.audit.archives import find_archived, segment_files
from services.chassis.audit.verification import Evidence, verify_lines
from services.chassis.audit.whole import export_log
from services.chassis.database import AuditEvent, Unit
from tests.support.audit_world import AuditWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AuditWorld]:
    """An empty log."""
    async with AuditWorld.open(tmp_path) as world:
        yield world


async def test_an_export_takes_no_more_memory_than_a_piece_of_it(world: AuditWorld) -> None:
    """Five megabytes, half of them in an archive, pass through less than three."""
    for _ in range(4):
        events = [AuditEvent("x", "y", {"padding": "x" * 1000}, logged=False) for _ in range(1000)]
        await world.database.commit(Unit("x", audit=events))
    await world.archiver(above_records=3500).once()
    tracemalloc.start()
    size = 0
    async for line in export_log(world.database, world.directory, Evidence((), world.key.public_key)):
        size += len(line)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 4_500_000
    assert peak < 3_000_000


async def test_an_export_goes_on_over_what_is_archived_meanwhile(world: AuditWorld) -> None:
    """Records that leave the database while the archives are read are found in theirs."""
    await world.record(20)
    await world.archiver(above_records=10).once()
    lines = []
    async for line in export_log(world.database, world.directory, Evidence((), world.key.public_key)):
        lines.append(line)
        if len(lines) == 5:
            await world.record(20)
            for _ in range(2):
                await world.archiver(above_records=10).once()
    first, head = verify_lines(parse_log(lines), Evidence())
    assert (first, head.sequence) == (1, 42)
    segment_files(world.directory)[1].path.unlink()
    with pytest.raises(AuditError, match="record 16 is missing: records up to 36 were archived"):
        _ = [line async for line in export_log(world.database, world.directory, Evidence())]


async def test_archived_records_are_found_by_time_and_word(world: AuditWorld) -> None:
    """In the archives of that time alone; where one was removed, its tombstone is what is found."""
    await world.record(3, days=10)
    start = int(world.clock.now().timestamp()) - 10 * 86400
    await world.archiver(above_records=2, most=6).once()
    found = find_archived(world.directory, '"n":1', start + 2 * 86400, start + 3 * 86400)
    assert [(each.record.sequence, each.record.detail) for each in found.records] == [(8, {"n": 1}), (11, {"n": 1})]
    assert all(isinstance(each, StoredRecord) for each in found.records)
    assert found.removed == []
    world.clock.advance(timedelta(days=16))
    await world.archiver(retain_days=22).once()
    found = find_archived(world.directory, '"n":1', start + 2 * 86400, start + 5 * 86400)
    assert [each.record.sequence for each in found.records] == [14, 17]
    assert [(each.first, each.last) for each in found.removed] == [(7, 12)]
    assert find_archived(world.directory / "none", "x", 0, start).records == []
