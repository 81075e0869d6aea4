"""A disk that is full under signer-hsm: what was answered is on record, what is not on record was not signed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pkicore.audit import verify_chain
from services.chassis.audit import audit_records
from services.chassis.database import Database
from tests.support.clock import ManualClock
from tests.support.console import ROOT
from tests.support.fork_server import fork_server

SMALL = "3m"  # a file system of so many octets


def run(directory: Path, kind: str) -> dict[str, Any]:
    """Have a process of its own meet the full disk; it dies by SIGKILL. A small file system is seen by itself alone."""
    program, arguments = "tests.support.full_disk_signer", [str(directory), kind]
    kept = directory.parent / "kept"
    if kind == "fill":
        python = [sys.executable, "-m", program, *arguments]
        script = (
            'mount -t tmpfs -o size="$1" none "$2" || exit 99; out="$3"; shift 3; "$@"; cp -a "$0"/s.sqlite3* "$out"'
        )
        kept.mkdir()
        command = ["unshare", "-r", "-m", "sh", "-c", script, str(directory), SMALL, str(directory), str(kept), *python]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode == 99 or "unshare" in done.stderr:
            pytest.skip(f"not run: no small file system can be mounted here ({done.stderr.strip()[:200]})")
        for path in kept.iterdir():
            shutil.move(path, directory)
    else:
        done = fork_server().run(program, arguments, os.environ, timeout=180, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"seen"')] or [done.stderr]
    told: dict[str, Any] = json.loads(line)
    return told


@pytest.mark.parametrize("kind", ["limit", "fill"])
async def test_every_answer_is_on_record_and_nothing_else_is_signed(tmp_path: Path, kind: str) -> None:
    """Full: 503, typed, nothing signed, not ready; with room again it goes on by itself. The log outlasts SIGKILL."""
    directory = tmp_path / "state"
    directory.mkdir()
    told = run(directory, kind)
    database = await Database.open(f"sqlite:///{directory}/s.sqlite3", clock=ManualClock())
    stored = [each async for each in audit_records(database)]
    await database.close()
    verify_chain(stored)
    recorded = {sha256 for each in stored for sha256 in each.record.detail.get("payload_sha256", ())}

    answered = [item for item in told["seen"] if item["status"] == 200]
    refused = [item for item in told["seen"] if item["status"] != 200]
    assert len(answered) > 16
    assert {item["payload_sha256"] for item in answered} <= recorded
    assert {item["payload"] for item in answered} <= set(told["signed"])
    assert {(item["status"], item["problem"]) for item in refused} == {(503, "urn:pqcpki:problem:unavailable")}
    assert told["ready"] == [True, True, True]
    assert told["seen"][told["room_again"] :][-1]["status"] == 200
    unrecorded = {item["payload"] for item in refused if item["payload_sha256"] not in recorded}
    assert unrecorded
    assert unrecorded.isdisjoint(told["signed"])
