"""What an archive directory looks like after somebody, or a disk, has been at it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from pkicore.algorithms import ALGORITHMS
from pkicore.audit import MAX_LINE, Checkpoint, sign_checkpoint
from pkicore.audit.segments import bounded_lines, parse_log
from pkicore.errors import AuditError
from services.chassis.audit import audit_head
from services.chassis.audit.archives import archive_lines, read_head, segment_files
from services.chassis.audit.verification import Evidence, verify_lines
from services.chassis.audit.whole import export_log
from services.chassis.database import Unit, Write
from tests.support.audit_world import AuditWorld, rewrite
from tests.support.databases import AUDIT
from tests.support.pki import MemoryKey

Lines = list[bytes]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AuditWorld]:
    """Archives of records 1 to 10 and 11 to 20, the rest to 32 in the database, all of it under a checkpoint."""
    async with AuditWorld.open(tmp_path) as world:
        await world.record(30)
        await world.archiver(above_records=20, most=10).once()
        await world.checkpoint()
        assert [(file.first, file.last) for file in segment_files(world.directory)] == [(1, 10), (11, 20)]
        yield world


async def reason(world: AuditWorld, checkpoints: list[Checkpoint] | None = None) -> tuple[int | None, str]:
    """The first bad record, and what is said of it."""
    with pytest.raises(AuditError) as caught:
        await world.verified(await world.checkpoint() if checkpoints is None else checkpoints)
    return caught.value.sequence, str(caught.value)


def swapped(lines: Lines) -> Lines:
    """Two records change places."""
    lines[3], lines[4] = lines[4], lines[3]
    return lines


HARM: dict[str, tuple[Callable[[Lines], Lines], int | None, str]] = {
    "changed": (lambda lines: [line.replace(b'"n":4', b'"n":5') for line in lines], 5, "record 5 was changed"),
    "removed": (lambda lines: lines[:4] + lines[5:], 4, "record 4 is missing: 5 stands in its place"),
    "swapped": (swapped, 3, "record 3 is missing: 4 stands in its place"),
    "inserted": (lambda lines: [*lines[:4], lines[3], *lines[4:]], 4, "record 4 is missing: 3 stands in its place"),
    "cut": (lambda lines: lines[:-2], 9, "record 9 is missing: audit-000000000001-000000000010.jsonl.gz holds"),
    "too long": (lambda lines: [*lines, lines[-1]], 11, "record 11 is missing: 10 stands in its place"),
    "torn": (lambda lines: [*lines[:-1], lines[-1][:20]], 10, "record 10 cannot be read: audit-"),
    "no head": (lambda lines: lines[1:], 1, "is no archive"),
    "no line": (lambda _: [], 1, "it has no head"),
    "no record": (lambda lines: [*lines[:2], b"[1]\n", *lines[3:]], 2, "exactly the fields"),
    "huge": (lambda lines: [*lines[:2], b"x" * (MAX_LINE + 1) + b"\n"], 2, "longer than"),
    "two heads": (lambda lines: [*lines[:2], lines[0], *lines[2:]], 1, "holds the head of another archive"),
    "head": (lambda lines: [lines[0].replace(b'"rule":"above', b'"rule":"below'), *lines[1:]], 1, "not signed by"),
}


@pytest.mark.parametrize("kind", HARM)
async def test_a_harmed_archive_is_named(world: AuditWorld, kind: str) -> None:
    """The first bad record and what is wrong with it."""
    change, sequence, sentence = HARM[kind]
    rewrite(segment_files(world.directory)[0].path, change)
    found, text = await reason(world)
    assert sentence in text
    assert found == sequence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: data[:-4], "is cut off"),
        (lambda data: bytes([*data[:40], data[40] ^ 1, *data[41:]]), "audit-000000000001"),
        (lambda data: data + b"more", "is damaged, or not gzip'd"),
        (lambda _: b"this is no archive", "is damaged, or not gzip'd"),
        (lambda _: b"", "has no head"),
    ],
    ids=["half", "tail", "bit", "more", "text", "empty"],
)
async def test_a_damaged_file_is_named(world: AuditWorld, change: Callable[[bytes], bytes], sentence: str) -> None:
    """What gzip finds is said in a sentence with the file's name."""
    path = segment_files(world.directory)[0].path
    path.write_bytes(change(path.read_bytes()))
    assert sentence in (await reason(world))[1]


async def test_archives_that_were_mixed_up_are_told_apart(world: AuditWorld, tmp_path: Path) -> None:
    """One under another's name, one that is gone, one of another service."""
    one, two = (file.path for file in segment_files(world.directory))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    assert await reason(world) == (1, f"{one.name} is the archive of records 11 to 20, which its name does not say")
    one.unlink()
    assert await reason(world) == (1, f"record 1 is missing: {two.name} begins with 11")
    one.write_bytes(kept)
    two.unlink()
    assert await reason(world) == (11, "record 11 is missing: records up to 20 were archived")
    (tmp_path / "other").mkdir()
    async with AuditWorld.open(tmp_path / "other") as other:
        await other.record(15)
        await other.archiver(above_records=10).once()
        one.write_bytes(segment_files(other.directory)[0].path.read_bytes())
    assert (await reason(world))[0] == 1


async def test_a_forged_checkpoint_is_refused(world: AuditWorld) -> None:
    """Of another key, of another chain, changed, or of the true key over records that are not there."""
    true = (await world.checkpoint())[-1]
    other = MemoryKey.generate("ed25519")
    assert world.key.algorithm == ALGORITHMS["ed25519"]
    head = await audit_head(world.database)
    stranger = await sign_checkpoint(head, other, 1)
    assert "not signed by the audit key" in (await reason(world, [stranger]))[1]
    assert "not signed by the audit key" in (await reason(world, [replace(true, sequence=31)]))[1]
    early = await sign_checkpoint(head._replace(sequence=5), world.key, 1)
    assert await reason(world, [early]) == (5, "record 5 is not the one that its checkpoint signed")
    late = await sign_checkpoint(head._replace(sequence=50), world.key, 1)
    assert await reason(world, [late]) == (33, "record 33 is missing: a checkpoint says the log went on to 50")


@pytest.mark.parametrize(
    ("column", "value"), [("detail", "[]"), ("detail", '{"n": 1}'), ("detail", '{"n":1,"n":1}'), ("event", "x")]
)
async def test_a_row_that_no_service_writes_is_named(world: AuditWorld, column: str, value: str) -> None:
    """Another spelling of the same values is a change too."""
    forge = update(AUDIT.log).where(AUDIT.log.c.sequence == 25).values({column: value})
    await world.database.commit(Unit("forge", [Write(world.database.prepare(forge), {}, 1)]))
    sequence, text = await reason(world)
    assert (sequence, text[:21]) == (25, "record 25 was changed")


async def test_rows_behind_the_base_do_not_count(world: AuditWorld) -> None:
    """What was archived is deleted a pass later; until then, and where only half is deleted, the log is whole."""
    half = delete(AUDIT.log).where(AUDIT.log.c.sequence <= 15)
    await world.database.commit(Unit("half", [Write(world.database.prepare(half), {}, 15)]))
    assert await world.verified(await world.checkpoint()) == []
    more = delete(AUDIT.log).where(AUDIT.log.c.sequence <= 21)
    await world.database.commit(Unit("more", [Write(world.database.prepare(more), {}, 6)]))
    assert (await reason(world))[1] == "record 21 is missing: 22 stands in its place"


async def test_archives_that_overlap_are_read_once(world: AuditWorld) -> None:
    """The file of a replica that was slower holds true records; they are verified, and exported once."""
    one = segment_files(world.directory)[0]
    lines = gzip.decompress(one.path.read_bytes()).splitlines(keepends=True)
    head = replace(read_head(one), last=7, after=bytes.fromhex(lines[8].split(b'"previous":"')[1][:64].decode()))
    signed = replace(head, signature=await world.key.sign(head.message()))
    shorter = one.path.with_name("audit-000000000001-000000000007.jsonl.gz")
    shorter.write_bytes(gzip.compress(b"".join([signed.to_line(), *lines[1:8]])))
    assert await world.verified(await world.checkpoint()) == []
    exported = [line async for line in export_log(world.database, world.directory, Evidence())]
    assert len(exported) == 32
    rewrite(shorter, lambda lines: [line.replace(b'"n":4', b'"n":5') for line in lines])
    assert (await reason(world))[0] == 5


async def test_an_export_and_a_lone_archive_verify_by_themselves(world: AuditWorld) -> None:
    """With the key their signatures too; without it, it is said that nobody looked at them."""
    evidence = Evidence(await world.checkpoint(), world.key.public_key)
    lines = [line async for line in export_log(world.database, world.directory, Evidence())]
    first, head = verify_lines(parse_log(lines), evidence)
    assert (first, head.sequence, evidence.notices) == (1, 32, [])
    path = segment_files(world.directory)[1].path
    first, head = verify_lines(archive_lines(path), evidence)
    assert (first, head.sequence) == (11, 20)
    keyless = Evidence()
    verify_lines(archive_lines(path), keyless)
    assert keyless.notices == [
        "the signature of the archive of records 11 to 20 was not verified: no public key was given"
    ]
    with pytest.raises(AuditError, match="not signed by the audit key"):
        verify_lines(archive_lines(path), Evidence((), MemoryKey.generate("ed25519").public_key))
    for broken, sequence in ((lines[4:], 1), (lines[:-1], 32), ([*lines[:3], lines[3][:9]], 4)):
        with pytest.raises(AuditError) as caught:
            verify_lines(parse_log(broken), evidence)
        assert caught.value.sequence == sequence


def test_a_huge_line_is_not_read_into_memory(tmp_path: Path) -> None:
    """A line without an end is refused after the longest that a record can have."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with path.open("rb") as file, pytest.raises(AuditError, match="line 1 is longer than"):
        list(parse_log(bounded_lines(file)))
