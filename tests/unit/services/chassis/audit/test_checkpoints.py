import asyncio
import resource
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import delete, update

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import AuditError
from pkicore.keys.file import create_file_key
from services.chassis.audit import (
    CHECKPOINTS_FILE,
    Archiver,
    ArchiveRules,
    AuditKeeper,
    Checkpointer,
    audit_checkpoints,
    audit_head,
    audit_records,
    read_checkpoints,
    verify_audit,
)
from services.chassis.audit.checkpoints import checkpoint_file
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.database import AuditEvent, Database, Unit, Write
from tests.support.clock import ManualClock
from tests.support.databases import AUDIT, create_schema, opened
from tests.support.pki import MemoryKey

KEY = MemoryKey(generate_private_key(ALGORITHMS["ml-dsa-44"]))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh SQLite database."""
    url = f"sqlite:///{tmp_path}/audit.sqlite3"
    await create_schema(url)
    async with opened(url, ManualClock()) as database:
        yield database


@pytest.fixture
def checkpointer(database: Database, tmp_path: Path) -> Checkpointer:
    """Writes `tmp_path/checkpoints.jsonl`."""
    return Checkpointer(database, KEY, tmp_path / "checkpoints.jsonl", ManualClock())


async def record(database: Database, count: int = 1) -> None:
    """Some events."""
    await database.commit(Unit("x", audit=[AuditEvent("bread.sold", "baker", {"n": n}) for n in range(count)]))


async def test_a_checkpoint_is_written_where_the_chain_has_grown(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """An empty or unchanged log makes no line; a grown one makes one, signed, in a file of the owner's alone."""
    path = tmp_path / "checkpoints.jsonl"
    await checkpointer.write()
    assert read_checkpoints(path) == []
    for expected in ([3], [3], [3, 4]):
        if expected != [3] or not path.exists():
            await record(database, 3 if expected == [3] else 1)
        await checkpointer.write()
        assert [checkpoint.sequence for checkpoint in read_checkpoints(path)] == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await verify_audit(database, read_checkpoints(path), KEY.public_key)


@dataclass(frozen=True)
class Settings:
    """The settings of a service that keeps an audit log."""

    state_dir: Path
    passphrase_file: Path
    audit_key: str
    audit_archive_dir: Path | None = None
    audit_archive_after_days: int = 0
    audit_archive_above_records: int = 0
    audit_retain_days: int = 0


async def test_a_service_that_ends_leaves_a_last_checkpoint(database: Database, tmp_path: Path) -> None:
    """The key of the settings signs what was recorded since the last one, even where the service ends with an error."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(b"secret")
    passphrase.chmod(0o600)
    public_key = create_file_key(tmp_path / "audit.key", ALGORITHMS["ecdsa-p256"], b"secret")
    settings = Settings(tmp_path, passphrase, f"file:{tmp_path / 'audit.key'}")

    async def service() -> None:
        async with audit_checkpoints(settings, database, ManualClock()):
            await record(database, 2)
            raise RuntimeError("the oven is cold")

    with pytest.raises(RuntimeError, match="oven"):
        await service()
    checkpoints = read_checkpoints(tmp_path / CHECKPOINTS_FILE)
    assert [checkpoint.sequence for checkpoint in checkpoints] == [2]
    await verify_audit(database, checkpoints, public_key)


async def test_the_background_task_writes_until_it_is_stopped(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """The first checkpoint comes at once."""
    await record(database)
    task = asyncio.create_task(checkpointer.run())
    async with asyncio.timeout(5):
        while not read_checkpoints(tmp_path / "checkpoints.jsonl"):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_tail_cut_together_with_its_head_is_found_by_the_checkpoint(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """Whoever owns the database can cut chain and head; the file outside still tells."""
    await record(database, 2)
    early = await audit_head(database)
    await record(database, 3)
    await checkpointer.write()
    cut = database.prepare(delete(AUDIT.log).where(AUDIT.log.c.sequence > 2))
    head = database.prepare(update(AUDIT.head).values(sequence=2, hash=early.hash))
    await database.commit(Unit("forge", [Write(cut, {}, 3), Write(head, {}, 1)]))
    assert (await verify_audit(database, (), None)).sequence == 2
    with pytest.raises(AuditError, match="record 3 is missing") as caught:
        await verify_audit(database, read_checkpoints(tmp_path / "checkpoints.jsonl"), KEY.public_key)
    assert caught.value.sequence == 3


async def test_checkpoints_of_another_key_or_without_a_key_are_refused(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """Verification never takes a checkpoint on trust."""
    await record(database)
    await checkpointer.write()
    checkpoints = read_checkpoints(tmp_path / "checkpoints.jsonl")
    other = generate_private_key(ALGORITHMS["ml-dsa-44"]).public_key()
    for key, sentence in ((other, "not signed by the audit key"), (None, "no public key")):
        with pytest.raises(AuditError, match=sentence):
            await verify_audit(database, checkpoints, key)


async def test_half_a_line_of_a_crash_is_passed_over_and_then_removed(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """The next checkpoint stands on a line of its own."""
    path = tmp_path / "checkpoints.jsonl"
    await record(database)
    await checkpointer.write()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    assert len(read_checkpoints(path)) == 1
    await record(database)
    await checkpointer.write()
    assert [checkpoint.sequence for checkpoint in read_checkpoints(path)] == [1, 2]


async def test_a_detail_that_is_no_json_any_more_is_named(database: Database) -> None:
    """Tampering with the stored text is reported as a changed record."""
    await record(database, 2)
    forge = database.prepare(update(AUDIT.log).where(AUDIT.log.c.sequence == 2).values(detail="{"))
    await database.commit(Unit("forge", [Write(forge, {}, 1)]))
    with pytest.raises(AuditError, match="record 2 was changed") as caught:
        await verify_audit(database, (), None)
    assert caught.value.sequence == 2


async def test_a_torn_checkpoint_is_said(
    database: Database, checkpointer: Checkpointer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers hear how much was cut off; whoever removes it logs that."""
    path = tmp_path / "checkpoints.jsonl"
    await record(database)
    await checkpointer.write()
    path.write_bytes(path.read_bytes() + b'{"at":18')
    assert checkpoint_file(path).unfinished == 8
    await record(database)
    await checkpointer.write()
    assert "an unfinished audit checkpoint was removed" in capsys.readouterr().out
    assert checkpoint_file(path).unfinished == 0


async def test_a_file_of_checkpoints_stays_small(database: Database, tmp_path: Path) -> None:
    """Beyond its size the last of each day and the newest 64 are kept, and the log verifies against them."""
    path, clock = tmp_path / "checkpoints.jsonl", ManualClock()
    small = Checkpointer(database, MemoryKey.generate("ed25519"), path, clock, full=60_000)
    for _ in range(250):
        await record(database)
        await small.write()
        clock.advance(timedelta(hours=2))
    kept = read_checkpoints(path)
    assert path.stat().st_size < 62_000
    assert [checkpoint.sequence for checkpoint in kept][-64:] == [*range(187, 251)]
    days = [checkpoint.at // 86400 for checkpoint in kept]
    assert sorted(set(days)) == [*range(min(days), max(days) + 1)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_full_disk_leaves_no_half_checkpoint(
    database: Database, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    """Where the file cannot grow, it stays as it was, and the next write goes on."""
    path = tmp_path / "checkpoints.jsonl"
    await record(database)
    await checkpointer.write()
    whole = path.read_bytes()
    await record(database)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            await checkpointer.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == whole
    await checkpointer.write()
    assert [checkpoint.sequence for checkpoint in read_checkpoints(path)] == [1, 2]


async def test_what_keeps_archives_from_being_written_does_not_keep_checkpoints(
    database: Database, checkpointer: Checkpointer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that cannot be made is logged, the service goes on, and no record leaves the database."""
    in_the_way = tmp_path / "audit-archive"
    in_the_way.write_text("no directory")
    await record(database, 9)
    registry = CollectorRegistry()
    metrics = AuditMetrics(registry)
    archiver = Archiver(database, KEY, ArchiveRules(in_the_way, above_records=3), ManualClock(), metrics=metrics)
    task = asyncio.create_task(AuditKeeper(checkpointer, archiver).run())
    logged = ""
    async with asyncio.timeout(20):
        while "the audit log is not archived" not in logged or not read_checkpoints(tmp_path / "checkpoints.jsonl"):
            await asyncio.sleep(0.01)
            logged += capsys.readouterr().out
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "audit-archive" in logged
    assert registry.get_sample_value("pqcpki_audit_archiving_failing") == 1
    assert (await verify_audit(database, (), None)).sequence == 9
    assert len([each async for each in audit_records(database)]) == 9


async def test_metrics_say_that_the_log_is_signed_and_archived(database: Database, tmp_path: Path) -> None:
    """The time of the last checkpoint, also where there was nothing to sign; how many records no archive has."""
    registry, clock = CollectorRegistry(), ManualClock()
    metrics = AuditMetrics(registry)
    checkpointer = Checkpointer(database, KEY, tmp_path / "checkpoints.jsonl", clock, metrics=metrics)
    rules = ArchiveRules(tmp_path / "archive", above_records=4)
    await record(database, 9)
    keeper = asyncio.create_task(
        AuditKeeper(checkpointer, Archiver(database, KEY, rules, clock, metrics=metrics)).run()
    )
    async with asyncio.timeout(20):
        while not registry.get_sample_value("pqcpki_audit_records"):  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.01)
    keeper.cancel()
    await asyncio.wait([keeper])
    assert registry.get_sample_value("pqcpki_audit_records") == 3, (
        "nine, half of four of them kept, and one of archiving"
    )
    assert registry.get_sample_value("pqcpki_audit_archiving_failing") == 0
    clock.advance(timedelta(minutes=1))
    await checkpointer.write()
    at = registry.get_sample_value("pqcpki_audit_checkpointed_timestamp_seconds")
    assert at == clock.now().timestamp()
