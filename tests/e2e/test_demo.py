from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import certbot as certbot_support
from tests.support.console import ROOT
from tests.support.deployment import STOP_SECONDS
from tests.support.fork_server import fork_server

PATIENCE_SECONDS = 240.0


def _processes_of(directory: Path) -> dict[int, str]:
    """The command lines of running processes that name what is in the directory, or have a file of it open."""
    lines = {}
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with suppress(OSError):  # it ended meanwhile
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if any(f"{directory}/" in text for text in (line, *_opened(process))):
                lines[int(process.name)] = line
    return lines


def _opened(process: Path) -> Iterator[str]:
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            yield str(descriptor.readlink())


@contextmanager
def _demo(directory: Path, log: Path, *options: str, root: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    """A demo whose state is below the directory; when it has ended, nothing of it is left."""
    with log.open("w") as output:
        demo = subprocess.Popen(
            # Whoever runs the tests in the background has SIGINT ignored, and a shell cannot take that back.
            ["env", "--default-signal=INT", "./demo.sh", *options],
            cwd=root,
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
    assert not _processes_of(directory)


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
        (up,) = [pid for pid, line in _processes_of(tmp_path).items() if "ztca up" in line]
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


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which everything is installed, and whose commands are forked."""
    clone = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    shutil.copy(ROOT / "demo.sh", clone)
    fork_server().lay_out(clone / ".venv")
    project = hashlib.sha256((clone / "pyproject.toml").read_bytes()).hexdigest()
    (clone / ".venv" / "pqcpki-stamp").unlink(missing_ok=True)
    (clone / ".venv" / "pqcpki-stamp").write_text(f"all Python {platform.python_version()} {project} {clone}")
    certbot_support.install()
    (clone / ".cache").symlink_to(certbot_support.CACHE)
    return clone


@pytest.mark.slow
def test_interrupting_a_demo_leaves_nothing_running(tmp_path: Path, clone: Path) -> None:
    """After Ctrl-C on ./demo.sh while its services come up no process and no state of it is left."""
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with _demo(tmp_path, log, root=clone) as demo:
        _wait_for("signer-hsm is up", demo, log)
        assert len(_processes_of(tmp_path)) > 2
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(STOP_SECONDS) == 130
