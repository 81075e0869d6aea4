"""Commands and services as processes of their own that need not load their modules: forked from one that has.

Importing is most of what a short command costs. What runs here is the same program in a real process, with its own
environment, descriptors, signals and exit status; `ztca up`, the README's commands and the demo are started as usual.

Run as a program, this module is the process that forks: it ends with its standard input.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.remembered_scrypt import Memory

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
ZTCA = "ztca"
PRELOADED = (
    "services.acme.app",
    "services.ca.app",
    "services.signer_hsm.admin",
    "services.signer_hsm.app",
    *(f"services.ca.cli.{name}" for name in ("audit", "certificates", "endpoints", "init", "keys", "probe", "ca")),
)
_MAX_REQUEST = 1 << 20


class Forked:
    """A process that the server has forked; as `subprocess.Popen`, as far as the tests need it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = _receive_number(connection)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended.

        Raises:
            TimeoutError: it runs on.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = _receive_number(self._connection)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The process that has loaded everything, and forks."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fork-")
        self._path = os.path.join(self._directory.name, "socket")  # noqa: PTH118 - an address, no file to work on
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", self._path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def start(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
    ) -> Forked:
        """Start `ztca`, or a module as by `python -m`."""
        request = {"program": program, "arguments": list(arguments), "environment": dict(environment)}
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(START_SECONDS)
        connection.connect(self._path)
        document = json.dumps({**request, "directory": os.getcwd()}).encode()  # noqa: PTH109 - a word on the wire
        socket.send_fds(connection, [len(document).to_bytes(4, "big")], [stdout.fileno(), stderr.fileno()])
        connection.sendall(document)
        return Forked(connection)

    def run(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float, check: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, as `subprocess.run`."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            forked = self.start(program, arguments, environment, stdout, stderr)
            try:
                status = forked.wait(timeout)
            except TimeoutError:
                forked.send_signal(signal.SIGKILL)
                forked.wait()
                raise
            for output in (stdout, stderr):
                output.seek(0)
            done = subprocess.CompletedProcess([program, *arguments], status, stdout.read(), stderr.read())
        if check:
            done.check_returncode()
        return done

    def stop(self) -> None:
        """End it, and what it has forked runs on."""
        self._process.communicate()
        self._directory.cleanup()


@functools.cache
def fork_server() -> ForkServer:
    """The server of this test process, started when it is first needed."""
    server = ForkServer()
    atexit.register(server.stop)
    return server


def _send_number(connection: socket.socket, number: int) -> None:
    connection.sendall(number.to_bytes(4, "big", signed=True))


def _receive_number(connection: socket.socket) -> int:
    return int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big", signed=True)


class _Forking:
    """The server's side: forks for each connection, and sends process number and exit status back."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._running: dict[int, socket.socket] = {}
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)

    def serve(self) -> dict[str, Any] | None:
        """Fork until standard input ends; in a forked process, what it is to do."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._listener, sys.stdin, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._report_ended()
            if sys.stdin in ready:
                return None
            if self._listener in ready and (request := self._fork()) is not None:
                return request

    def _fork(self) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
        document = bytearray()
        while len(document) < int.from_bytes(head, "big"):
            document += connection.recv(_MAX_REQUEST)
        pid = os.fork()
        if pid == 0:
            self._become_child(descriptors)
            connection.close()
            request: dict[str, Any] = json.loads(document)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        self._running[pid] = connection
        _send_number(connection, pid)
        return None

    def _become_child(self, descriptors: Sequence[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (self._listener, *self._running.values()):
            other.close()
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in zip((null, *descriptors), range(3), strict=True):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        for descriptor in (self._woken, self._waker):
            os.close(descriptor)

    def _report_ended(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._running.pop(pid)
            try:
                _send_number(connection, os.waitstatus_to_exitcode(status))
            except BrokenPipeError:
                sys.stderr.write(f"nobody waits for process {pid} any more\n")
            connection.close()


def _run(request: Mapping[str, Any]) -> None:
    """Be the program."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    program = request["program"]
    sys.argv = [program, *request["arguments"]]
    if program == ZTCA:
        importlib.import_module("services.ca.cli").main(prog_name=ZTCA)
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def main() -> None:
    """Load everything, then fork."""
    Memory(Path(sys.argv[1]).parent).install()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        request = _Forking(listener).serve()
    if request is not None:
        _run(request)


if __name__ == "__main__":
    main()
