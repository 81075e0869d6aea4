"""A disk that is full under the CA or the signing service: nothing is signed that is not on record, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.chassis.audit import audit_records, verify_audit
from services.chassis.database import Database
from tests.support.audited_services import SERVICES
from tests.support.clock import ManualClock
from tests.support.console import ROOT
from tests.support.fork_server import fork_server

PROGRAM = "tests.support.full_disk_service"
SMALL = "6m"  # a file system of so many octets
_SCRIPT = 'mount -t tmpfs -o size="$1" none "$2" || exit 99; out="$3"; shift 3; "$@"; cp -a "$0"/*.sqlite3* "$out"'


def run(directory: Path, kind: str, name: str) -> dict[str, Any]:
    """Have a process of its own meet the full disk; it dies by SIGKILL. A small file system is seen by itself alone."""
    arguments = [str(directory), kind, name]
    kept = directory.parent / "kept"
    kept.mkdir()
    if kind == "fill":
        inside = ["sh", "-c", _SCRIPT, str(directory), SMALL, str(directory), str(kept)]
        command = ["unshare", "-r", "-m", *inside, sys.executable, "-m", PROGRAM, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    else:
        done = fork_server().run(PROGRAM, arguments, os.environ, timeout=180, check=False)
    if kind == "fill" and (done.returncode == 99 or "unshare" in done.stderr):
        pytest.skip(f"not run: no small file system can be mounted here ({done.stderr.strip()[:200]})")
    for path in kept.iterdir():
        shutil.move(path, directory)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"seen"')] or [done.stderr]
    told: dict[str, Any] = json.loads(line)
    return told


@pytest.mark.parametrize(("name", "kind"), [("ca", "limit"), ("ca", "fill"), ("signing", "fill")])
async def test_no_signature_without_its_record(tmp_path: Path, name: str, kind: str) -> None:
    """Full: 503, typed, and no signature beyond the decisions on record; with room again the next is answered."""
    directory = tmp_path / "state"
    directory.mkdir()
    told = run(directory, kind, name)
    seen, room_again = told["seen"], told["room_again"]
    refused = [answer for answer in seen if answer["status"] >= 400]
    assert {(answer["status"], answer["problem"]) for answer in refused} == {(503, "urn:pqcpki:problem:unavailable")}
    each = seen[0]["signed"]
    assert each > 0
    assert all(answer["signed"] <= each * answer["recorded"] for answer in seen)
    assert all(answer["recorded"] == 1 for answer in seen if answer["status"] < 400)
    assert sum(answer["signed"] == 0 for answer in refused) > 0
    assert len(refused) == 8
    assert seen[room_again]["status"] < 300
    (path,) = directory.glob("*.sqlite3")
    database = await Database.open(f"sqlite:///{path}", clock=ManualClock())
    stored = [each.record async for each in audit_records(database)]
    await verify_audit(database, (), None)
    await database.close()
    decisions = sum(record.event == SERVICES[name].decision for record in stored)
    assert decisions >= sum(answer["recorded"] for answer in seen)
