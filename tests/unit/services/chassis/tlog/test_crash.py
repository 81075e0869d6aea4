import asyncio
import base64
import json
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.tlog.checkpoint import Checkpoint, verify_checkpoint
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_consistency
from services.chassis.tlog import TileLog
from tests.support.clock import ManualClock
from tests.support.crashing_log import kept_beside
from tests.support.logs import ORIGIN, create_log_schema, opened_log
from tests.support.pki import MemoryKey

ROOT = Path(__file__).parents[5]


async def die(url: str, key_file: Path, *where: str) -> list[dict[str, Any]]:
    """What a process was promised before it was killed there."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.crashing_log",
        url,
        str(key_file),
        *where,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await program.communicate()
    assert program.returncode == -signal.SIGKILL
    return [json.loads(line) for line in output.splitlines()]


async def verify_history(log: TileLog, key: MemoryKey, promised: list[dict[str, Any]]) -> int:
    """Every promise is kept by the log as it is now; its size."""
    proof = await log.proof((await log.append(b"the next process")).index)
    now = verify_checkpoint(proof.checkpoint, ORIGIN, [log.note_key])
    entries = await log.entries(0, now.size)
    assert Frontier.empty().append([leaf_hash(entry) for entry in entries])[0].root == now.root
    for line in promised:
        if "index" in line:
            assert entries[line["index"]] == line["entry"].encode()
    notes = [base64.b64decode(line["checkpoint"]) for line in promised if "checkpoint" in line]
    checkpoints = [*(verify_checkpoint(note, ORIGIN, [log.note_key]) for note in notes), now]
    for older, newer in pairwise(checkpoints):
        await verify_continues(log, older, newer)
    assert key.public_key == log.note_key.public_key
    return now.size


async def verify_continues(log: TileLog, older: Checkpoint, newer: Checkpoint) -> None:
    """The newer tree contains the older one."""
    hashes = await log.consistency(older.size, newer.size)
    verify_consistency(older.size, newer.size, hashes, older.root, newer.root)


@pytest.mark.parametrize("label", ["one entries", "one checkpoint"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_log_killed_around_a_commit_has_no_gap_and_no_fork(tmp_path: Path, moment: str, label: str) -> None:
    """What was promised before SIGKILL is there afterwards, and every checkpoint continues the one before."""
    url, key, key_file = f"sqlite:///{tmp_path / 'log.sqlite3'}", MemoryKey.generate("ecdsa-p256"), tmp_path / "key.pem"
    key_file.write_bytes(key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    await create_log_schema(url)
    promised = await die(url, key_file, moment, label, "3")
    kept = kept_beside(key_file)
    assert kept.exists()
    async with opened_log(url, key, ManualClock(), kept=kept) as log:
        size = await verify_history(log, key, promised)
    acknowledged = sum("index" in line for line in promised)
    assert acknowledged >= 3
    assert acknowledged < size <= acknowledged + 4
