import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.console import ROOT
from tests.support.deployment import STOP_SECONDS


def _processes_with(marker: str) -> list[str]:
    """The command lines of running processes that name the marker."""
    lines = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # the process ended meanwhile
            continue
        if marker.encode() in command:
            lines.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return lines


@pytest.mark.slow
def test_the_demo_tells_its_whole_story(tmp_path: Path) -> None:
    """./demo.sh ends with exit 0, shows issuance, revocation and a signed release, and leaves nothing behind."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(
        ["./demo.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    for expected in (
        "Cert Status: good",
        "Cert Status: revoked",
        "OCSP Response Status: successful",
        "certificate revoked",
        "X25519MLKEM768",
        "https://cyclonedx.org/bom: ml-dsa-65 key",
        "Verified OK",
        "Verification: OK",
        "is the root of the checkpoint: localhost, 5 entries",
        "the Statement is about other artefacts",
        "Verification failure",
    ):
        assert expected in result.stdout, f"{expected!r} is not in\n{result.stdout}"
    assert not list(tmp_path.iterdir())
    assert not _processes_with(str(tmp_path))


@pytest.mark.slow
def test_interrupting_a_staying_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """After Ctrl-C on ./demo.sh --stay no process and no state of it is left."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            # Whoever runs the tests in the background has SIGINT ignored, and a shell cannot take that back.
            ["env", "--default-signal=INT", "./demo.sh", "--stay"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while "Staying up" not in log.read_text():
            assert demo.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(STOP_SECONDS) == 130
    assert not list(tmp_path.iterdir())
    assert not _processes_with(str(tmp_path))
