from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.console import ROOT
from tests.support.deployment import STOP_SECONDS

PATIENCE_SECONDS = 240.0


def _processes_with(marker: str) -> dict[int, str]:
    """The command lines of running processes that name the marker."""
    lines = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # the process ended meanwhile
            continue
        if marker.encode() in command:
            lines[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return lines


@contextmanager
def _demo(directory: Path, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A demo whose state is below the directory; when it has ended, nothing of it is left."""
    with log.open("w") as output:
        demo = subprocess.Popen(
            # Whoever runs the tests in the background has SIGINT ignored, and a shell cannot take that back.
            ["env", "--default-signal=INT", "./demo.sh", *options],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(directory)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield demo
        finally:
            if demo.poll() is None:
                os.killpg(demo.pid, signal.SIGTERM)
                demo.wait(STOP_SECONDS)
    assert not list(directory.iterdir())
    assert not _processes_with(str(directory))


def _wait_for(text: str, demo: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while text not in log.read_text():
        assert demo.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.mark.slow
def test_the_demo_tells_its_whole_story_and_stays(tmp_path: Path) -> None:
    """./demo.sh shows issuance, revocation and a signed release; with --stay it ends when its services are ended."""
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with _demo(tmp_path, log, "--stay") as demo:
        _wait_for("http-01 port:", demo, log)
        with pytest.raises(subprocess.TimeoutExpired):
            demo.wait(1)
        (up,) = [pid for pid, line in _processes_with(str(tmp_path)).items() if "ztca up" in line]
        os.kill(up, signal.SIGTERM)
        assert demo.wait(STOP_SECONDS) == 0, log.read_text()
    told = log.read_text()
    for expected in (
        "Cert Status: good",
        "Cert Status: revoked",
        "OCSP Response Status: successful",
        "certificate revoked",
        "X25519MLKEM768",
        "https://cyclonedx.org/bom: ml-dsa-65 key",
        "Verified OK",
        "Verification: OK",
        "is the root of the checkpoint: localhost, ",
        "the Statement is about other artefacts",
        "Verification failure",
        "Staying up",
        "Done after",
    ):
        assert expected in told, f"{expected!r} is not in\n{told}"


@pytest.mark.slow
def test_interrupting_a_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """After Ctrl-C on ./demo.sh while its services come up no process and no state of it is left."""
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with _demo(tmp_path, log) as demo:
        _wait_for("signer-hsm is up", demo, log)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(STOP_SECONDS) == 130
