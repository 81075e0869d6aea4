"""Commands and services as processes of their own that need not load their modules: forked from one that has.

Importing is most of what a short command costs, and of what a service's start does. What runs here is the same program
in a real process, with its own environment, descriptors, signals and exit status, and the services of `ztca` are its
own children (`tests.support.forked_services`); the README's commands and the demo are started as usual. Shells find the
commands in `commands`.

All processes of a test run share one: the first that needs it starts it. Run as a program, this module is the process
that forks. Its standard input is a named pipe that everybody keeps open who may need it, and it ends with the last.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
RUN = "TESTS_RUN"  # the variable by which processes know that they belong to one test run
SOCKET = "socket"
NEEDED = "needed"
COMMANDS = {"ztca": "services.ca.cli", "keyctl": "services.signer_hsm.cli", "pqcsign": "services.signing.cli"}
PRELOADED = (
    "anyio._backends._asyncio",  # of httpx, at its first request
    "services.chassis.migrations.upgrade",
    "services.acme.app",
    "services.ca.app",
    "services.ca.cold_start",
    "services.ca.supervisor",
    "services.ca.warm_start",
    "services.signer_hsm.admin",
    "services.signer_hsm.app",
    "services.signing.app",
)
_LAUNCHER = """#!{python} -SE
import sys
sys.path.insert(0, {root!r})
from tests.support.fork_server import become
become({path!r}, {name!r})
"""
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

    def kill(self) -> None:
        """Give it no chance, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that has loaded everything, and forks."""

    def __init__(self, directory: Path) -> None:
        """The one of this directory, started if there is none."""
        self._directory = directory
        self._path = str(directory / SOCKET)
        self._process: subprocess.Popen[bytes] | None = None
        with _locked(directory):
            self._needing = self._join() or self._start()

    @property
    def commands(self) -> Path:
        """A directory with `ztca`, `keyctl` and `pqcsign` for shells; forked processes do their work."""
        return self._directory / "bin"

    def _join(self) -> int | None:
        """An end of the pipe, None where nobody listens at the other."""
        try:
            return os.open(self._directory / NEEDED, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENXIO}:
                return None
            raise

    def _start(self) -> int:
        """An end of the pipe, now that somebody listens."""
        for left in self._directory.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.commands.mkdir()
        for name in COMMANDS:
            file = self.commands / name
            file.write_text(_LAUNCHER.format(python=sys.executable, root=str(ROOT), path=self._path, name=name))
            file.chmod(0o700)
        os.mkfifo(self._directory / NEEDED)
        listening = os.open(self._directory / NEEDED, os.O_RDONLY | os.O_NONBLOCK)
        needing = self._join()
        assert needing is not None
        command = [sys.executable, "-m", "tests.support.fork_server", self._path]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=listening, stdout=subprocess.PIPE)
        os.close(listening)
        assert self._process.stdout is not None
        with self._process.stdout as told:
            assert told.readline() == b"ready\n"
        return needing

    def lay_out(self, environment: Path) -> None:
        """Make a virtual environment like this one, but with these commands."""
        (environment / "bin").mkdir(parents=True)
        here = Path(sys.prefix)
        for path in (*(path for path in here.iterdir() if path.name != "bin"), *(here / "bin").iterdir()):
            ours = self.commands / path.name if path.name in COMMANDS else path
            (environment / path.relative_to(here)).symlink_to(ours)

    def start(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
    ) -> Forked:
        """Start one of the commands, a module as by `python -m`, or as `-c` the code of the first word."""
        with Path(os.devnull).open("rb") as null:
            return _forked(self._path, program, arguments, environment, (null, stdout, stderr))

    def run(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float, check: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, as `subprocess.run`."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            forked = self.start(program, arguments, environment, stdout, stderr)
            try:
                status = forked.wait(timeout)
            except TimeoutError:
                forked.kill()
                forked.wait()
                raise
            for output in (stdout, stderr):
                output.seek(0)
            done = subprocess.CompletedProcess([program, *arguments], status, stdout.read(), stderr.read())
        if check:
            done.check_returncode()
        return done

    def stop(self) -> None:
        """Need it no longer; it ends unless others do, and what it has forked runs on."""
        os.close(self._needing)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # others do
                self._process.wait(1)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory is there, and nobody else begins or ends in it meanwhile."""
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # gone again
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), directory.stat()):
                    yield
                    return
            finally:
                os.close(descriptor)


def _forked(
    path: str, program: str, arguments: Sequence[str], environment: Mapping[str, str], standard: Sequence[IO[Any]]
) -> Forked:
    """Ask for a process that has our directory, file mode mask and three of our descriptors."""
    os.umask(mask := os.umask(0o077))
    here = {"directory": os.getcwd(), "mask": mask}  # noqa: PTH109 - a word on the wire
    request = {"program": program, "arguments": list(arguments), "environment": dict(environment), **here}
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(START_SECONDS)
    connection.connect(path)
    document = json.dumps(request).encode()
    socket.send_fds(connection, [len(document).to_bytes(4, "big")], [one.fileno() for one in standard])
    connection.sendall(document)
    return Forked(connection)


def become(path: str, name: str) -> None:
    """Be a command: a forked process does it, gets our signals, and we end as it does."""
    forked = _forked(path, name, sys.argv[1:], os.environ, (sys.stdin, sys.stdout, sys.stderr))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: forked.send_signal(received))
    status = forked.wait()
    raise SystemExit(status if status >= 0 else 128 - status)


@functools.cache
def fork_server() -> ForkServer:
    """The server of this test run, started when it is first needed."""
    run = os.environ.setdefault(RUN, os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(16))
    server = ForkServer(Path(tempfile.gettempdir(), f"fork-{run}"))
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
            if sys.stdin in ready and self._is_needed_no_more():
                return None
            if self._listener in ready and (request := self._fork()) is not None:
                return request

    def _is_needed_no_more(self) -> bool:
        """Whether the last has gone, and nobody has come since; then nobody finds this one any more."""
        directory = Path(self._listener.getsockname()).parent
        with _locked(directory):
            last = bool(select.select([sys.stdin], [], [], 0)[0])
            if last:
                shutil.rmtree(directory)
        return last

    def _fork(self) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
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
        for descriptor, standard in zip(descriptors, range(3), strict=True):
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
    os.umask(request["mask"])
    program = request["program"]
    sys.argv = [program, *request["arguments"]]
    if program == "ztca":
        from tests.support import forked_services  # not for the launchers either

        forked_services.install()
    if program in COMMANDS:
        importlib.import_module(COMMANDS[program]).main(prog_name=program)
    elif program == "-c":
        exec(sys.argv.pop(1), {"__name__": "__main__"})  # noqa: S102 - a test's own code, as the interpreter does
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def main() -> None:
    """Load everything, then fork."""
    from tests.support import quick_scrypt  # not for the launchers, which load as little as they can

    quick_scrypt.install()
    packages = [importlib.import_module(package) for package in COMMANDS.values()]
    commands = [
        one.name for package in packages for one in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    for module in (*PRELOADED, *commands):
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
