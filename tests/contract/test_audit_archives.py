"""Records leave the database for archives, and archives by retention: the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import update

from pkicore.audit import parse_export, verify_chain
from pkicore.audit.segments import sign_segment
from pkicore.errors import AuditError
from services.chassis.audit import audit_base, audit_head, audit_records
from services.chassis.audit.archives import bury, read_archive, read_head, segment_files
from services.chassis.audit.verification import Evidence, verify_database
from services.chassis.audit.whole import export_log
from services.chassis.database import Unit, Write
from tests.support.audit_world import AuditWorld, event
from tests.support.databases import AUDIT
from tests.support.fork_server import fork_server


@pytest.fixture
async def world(url: str, tmp_path: Path) -> AsyncIterator[AuditWorld]:
    """An empty log."""
    async with AuditWorld.open(tmp_path, url) as world:
        yield world


async def exported(world: AuditWorld) -> list[bytes]:
    """The whole log as lines."""
    evidence = Evidence((), world.key.public_key)
    return [line async for line in export_log(world.database, world.directory, evidence)]


async def test_without_a_rule_all_stays_in_the_database(world: AuditWorld) -> None:
    """Nothing is archived or removed unless a setting says so."""
    await world.record(3, days=5)
    await world.archiver().once()
    assert (await world.rows(), world.files) == (15, [])


async def test_the_older_half_leaves_when_there_are_too_many(world: AuditWorld) -> None:
    """The archive holds the very records; the chain goes on through it, and the export is the same as before."""
    await world.record(20)
    await world.checkpoint()
    before = await exported(world)
    await world.archiver(above_records=10).once()
    assert world.files == ["audit-000000000001-000000000015.jsonl.gz"]
    assert await world.rows() == 21  # rows go a pass later
    await world.archiver(above_records=10).once()
    assert await world.rows() == 6
    after = await exported(world)
    assert after[:20] == before
    assert verify_chain(parse_export(after)).sequence == 21  # type: ignore[arg-type] # no line is unfinished here
    assert await world.verified(await world.checkpoint()) == []
    held = [stored.record async for stored in audit_records(world.database)]
    assert held[0].sequence == 16
    (archived,) = [record for record in held if record.event == "audit.archived"]
    assert (archived.detail["first"], archived.detail["last"]) == (1, 15)


async def test_what_is_old_leaves_a_day_together(world: AuditWorld) -> None:
    """Records older than the rule leave once the oldest is a day older still: an archive a day, not one a minute."""
    await world.record(2, days=4)  # at days 0 to 3; it is day 4
    await world.archiver(after_days=3).once()
    assert world.files == []
    world.clock.advance(timedelta(seconds=1))
    await world.archiver(after_days=3).once()
    assert world.files == ["audit-000000000001-000000000004.jsonl.gz"]
    await world.archiver(after_days=3).once()
    assert len(world.files) == 1
    assert await world.verified() == []


async def test_archives_have_a_size(world: AuditWorld) -> None:
    """A long log leaves in several files, each chained to the one before."""
    await world.record(25)
    await world.archiver(above_records=4, most=10).once()
    ranges = [(file.first, file.last) for file in segment_files(world.directory)]
    assert ranges[:2] == [(1, 10), (11, 20)]
    assert await world.verified(await world.checkpoint()) == []


async def test_archives_that_are_too_old_are_removed_and_leave_a_tombstone(world: AuditWorld) -> None:
    """The removal is on record, and the chain verifies from the tombstone on; exports say what is no more."""
    await world.record(10, days=1)
    await world.archiver(above_records=4).once()
    await world.record(10, days=1)
    await world.archiver(above_records=4).once()
    world.clock.advance(timedelta(days=29))
    await world.archiver(retain_days=30).once()
    kept = "audit-000000000009-000000000019.jsonl.gz"
    assert world.files == ["audit-000000000001-000000000008.removed.json", kept]
    (notice,) = await world.verified(await world.checkpoint())
    assert notice.startswith("records 1 to 8 were removed on 20")
    assert notice.endswith("by the rule 'keep 30 days'")
    (removed,) = [one.record async for one in audit_records(world.database) if one.record.event == "audit.removed"]
    assert (removed.detail["first"], removed.detail["last"], removed.detail["rule"]) == (1, 8, "keep 30 days")
    lines = await exported(world)
    assert b'"segment":"tombstone"' in lines[0]
    assert b'"sequence":9' in lines[1]


async def test_a_tombstone_that_no_record_speaks_of_is_no_tombstone(world: AuditWorld) -> None:
    """Whoever has the audit key, but cannot write the log, cannot make records disappear by retention."""
    await world.record(10)
    await world.archiver(above_records=4).once()
    (file,) = segment_files(world.directory)
    forged = replace(read_head(file), kind="tombstone", rule="keep 1 days", signature=b"")
    bury(file, await sign_segment(forged, world.key))
    with pytest.raises(AuditError, match="record 8 is missing: no record says that it was removed"):
        await world.verified()


async def test_replicas_share_one_chain_while_both_archive(url: str, world: AuditWorld) -> None:
    """Two processes write and archive at once: one chain, no gap, each record in one place at least."""
    await world.record(30)
    async with AuditWorld.open(world.directory.parent, url) as other:
        other.key = world.key

        async def busy(one: AuditWorld) -> None:
            for number in range(10):
                await one.database.commit(Unit("x", audit=[event(number)]))
                await one.archiver(above_records=8, most=7).once()

        await asyncio.gather(busy(world), busy(other))
        assert await world.verified(await world.checkpoint()) == []
    whole = [line for line in await exported(world) if b"bread.sold" in line]
    assert len(whole) == 50
    assert (await audit_base(world.database)).sequence > 30


async def test_a_broken_log_is_not_archived(world: AuditWorld) -> None:
    """A record that was changed stays where it is, and no archive hides it; the database still has every row."""
    await world.record(10)
    forge = update(AUDIT.log).where(AUDIT.log.c.sequence == 3).values(actor="somebody else")
    await world.database.commit(Unit("forge", [Write(world.database.prepare(forge), {}, 1)]))
    with pytest.raises(AuditError, match="record 3 was changed"):
        await world.archiver(above_records=4).once()
    assert (await world.rows(), world.files) == (10, [])


async def test_a_base_that_no_record_speaks_of_is_a_cut_beginning(world: AuditWorld) -> None:
    """Rows that were deleted do not become archived ones because somebody writes a base."""
    await world.record(10)
    fifth = [stored async for stored in audit_records(world.database)][4]
    cut = AUDIT.log.delete().where(AUDIT.log.c.sequence <= 5)
    base = AUDIT.head.insert().values(id=2, sequence=5, hash=fifth.hash)
    writes = [Write(world.database.prepare(statement), {}) for statement in (cut, base)]
    await world.database.commit(Unit("forge", writes))
    with pytest.raises(AuditError, match="record 5 is missing: no record says that it was archived"):
        await verify_database(world.database, Evidence())
    with pytest.raises(AuditError, match="record 1 is missing: records up to 5 were archived"):
        await world.verified()


DOOMED = """
import asyncio, os, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from dataclasses import replace
from datetime import timedelta
from tests.support.audit_world import AuditWorld
from tests.support.pki import MemoryKey

url, directory, step, retain, seconds = sys.argv[1:]

def observe(done):
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    path = Path(directory)
    async with AuditWorld.open(path, url) as world:
        world.key = MemoryKey(load_pem_private_key((path / "key.pem").read_bytes(), None))
        world.clock.advance(timedelta(days=int(seconds)))
        rules = {"retain_days": 30} if int(retain) else {"above_records": 10, "most": 12}
        await world.archiver(**rules, observer=observe).once()

asyncio.run(main())
"""
_STEPS = ["written", "named", "recorded", "purged", "removal-recorded", "buried"]


@pytest.mark.parametrize("step", _STEPS)
async def test_sigkill_at_any_step_loses_nothing(url: str, world: AuditWorld, step: str) -> None:
    """The log verifies after the crash as it is, every record is in one place at least, and the next pass goes on."""
    (world.directory.parent / "key.pem").write_bytes(pem(world))
    await world.record(40)
    if step in ("purged", *_STEPS[4:]):
        await world.archiver(above_records=10, most=12).once()
    retain = step in _STEPS[4:]
    days = 60 if retain else 0
    before = (await audit_head(world.database)).sequence
    arguments = [DOOMED, url, str(world.directory.parent), step, str(int(retain)), str(days)]
    done = fork_server().run("-c", arguments, os.environ, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    notices = await world.verified()
    assert (await audit_head(world.database)).sequence >= before
    if not retain:
        assert notices == []
        assert sum(b"bread.sold" in line for line in await exported(world)) == 40
    world.clock.advance(timedelta(days=days))
    for _ in range(2):
        await world.archiver(above_records=0 if retain else 10, retain_days=30 if retain else 0, most=12).once()
    assert all("removed on" in notice for notice in await world.verified(await world.checkpoint()))
    if not retain:
        assert await world.rows() < 20
        archived = sum(sum(1 for _ in read_archive(file)) for file in segment_files(world.directory))
        assert archived == (await audit_base(world.database)).sequence


def pem(world: AuditWorld) -> bytes:
    """The audit key for another process."""
    return world.key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
