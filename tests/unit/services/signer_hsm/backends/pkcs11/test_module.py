import ctypes.util
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from services.signer_hsm.backends.pkcs11 import module
from services.signer_hsm.errors import MisconfiguredError, UnavailableError
from tests.support.backend_world import WorldMissingError
from tests.support.softhsm import SoftHsm, new_softhsm

REPOSITORY = Path(module.__file__).parents[4]


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    """A token of its own."""
    try:
        return new_softhsm(tmp_path)
    except WorldMissingError as error:
        pytest.skip(f"not run: {error}")


def test_a_closed_gate_waits_for_those_inside() -> None:
    """A restart begins when the last call has left, and calls begin when the restart has ended."""
    gate, order = module.Gate(), []
    inside, leave = threading.Event(), threading.Event()

    def call() -> None:
        with gate:
            inside.set()
            leave.wait(5)
            order.append("call left")

    def restart() -> None:
        with gate.closed():
            order.append("restart begins")
            time.sleep(0.05)
            order.append("restart ends")

    def late_call() -> None:
        with gate:
            order.append("late call")

    first = threading.Thread(target=call)
    first.start()
    assert inside.wait(5)
    second = threading.Thread(target=restart)
    second.start()
    time.sleep(0.3)
    third = threading.Thread(target=late_call)
    third.start()
    time.sleep(0.05)
    assert order == []
    leave.set()
    for thread in (first, second, third):
        thread.join(5)
    assert order == ["call left", "restart begins", "restart ends", "late call"]


def test_a_call_that_never_leaves_keeps_the_module_as_it_is() -> None:
    """With a call stuck inside there is no restart: UnavailableError, and the gate is open for others again."""
    gate, leave = module.Gate(), threading.Event()
    inside = threading.Event()

    def stuck() -> None:
        with gate:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=stuck)
    thread.start()
    assert inside.wait(5)
    with pytest.raises(UnavailableError, match="does not come back"), gate.closed():
        pytest.fail("the gate was said to be closed")
    with gate:
        pass
    leave.set()
    thread.join(5)
    with gate.closed():
        pass


def test_a_failure_inside_opens_the_gate_again() -> None:
    """A restart that fails does not keep everybody out."""
    gate = module.Gate()
    with pytest.raises(RuntimeError), gate.closed():
        raise RuntimeError
    with gate:
        pass


def test_what_is_no_module(tmp_path: Path) -> None:
    """A missing file, a text and a library without C_GetFunctionList are named, and leave nothing behind."""
    text = tmp_path / "module.so"
    text.write_text("not a library")
    libraries = [Path("/no/such.so"), text]
    if name := ctypes.util.find_library("m"):
        libraries.append(Path(name))
    for path in libraries:
        with pytest.raises(MisconfiguredError, match="cannot be loaded as a PKCS#11 module"):
            module.acquire(path)


def test_one_module_per_process(hsm: SoftHsm) -> None:
    """The same file is the same module, by whatever path; with other variables it is refused."""
    link = hsm.home / "link.so"
    link.symlink_to(hsm.module)
    first = module.acquire(hsm.module, environment=hsm.environment)
    second = module.acquire(link, environment=hsm.environment)
    try:
        assert first is second
        with pytest.raises(MisconfiguredError, match="other environment variables"):
            module.acquire(hsm.module, environment={})
    finally:
        module.release(second)
        module.release(first)
    again = module.acquire(hsm.module, environment=hsm.environment)
    assert again is not first
    module.release(again)


def test_a_start_is_counted_and_not_repeated(hsm: SoftHsm) -> None:
    """Who has seen an older generation finds the work done; who has seen this one is told to wait a second."""
    loaded = module.acquire(hsm.module, environment=hsm.environment)
    try:
        loaded.start(0)
        assert loaded.generation == 1
        loaded.start(0)
        assert loaded.generation == 1
        with pytest.raises(UnavailableError, match="only just") as refusal:
            loaded.start(1)
        assert refusal.value.retry_after == module.RESTART_SECONDS
    finally:
        module.release(loaded)


FORK = """
import os, sys
from pathlib import Path
from services.signer_hsm.backends.pkcs11 import module
from services.signer_hsm.errors import MisconfiguredError
loaded = module.acquire(Path(sys.argv[1]))
if child := os.fork():
    os.waitpid(child, 0)
else:
    try:
        module.acquire(Path(sys.argv[1]))
    except MisconfiguredError as error:
        print(error, flush=True)
    os._exit(0)
"""


def test_a_module_of_before_a_fork_is_refused(hsm: SoftHsm) -> None:
    """A child process does not use what its parent has loaded."""
    done = subprocess.run(
        (sys.executable, "-c", FORK, hsm.module),
        env={**hsm.environment, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "before this process was forked" in done.stdout
