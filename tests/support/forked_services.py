"""The services of a `ztca` command that was forked with everything loaded: its own children as ever, but forked too.

Only the standard library is stood in for: where the supervisor asks for `python -m services.NAME ...`, its process
forks and runs that module, instead of an interpreter that would load the same again. Session, descriptors, environment,
what is done before the program begins, signals and exit status are those of a process that was started.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final, NoReturn

_REAL: Final = subprocess.Popen
_STANDARD: Final = 3
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class ForkedService:
    """As `subprocess.Popen`, as far as the supervisor needs it."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
        preexec_fn: Callable[[], None],
    ) -> None:
        python, option, module, *arguments = args
        assert (python, option, stdin, start_new_session) == (sys.executable, "-m", subprocess.DEVNULL, True)
        self.returncode: int | None = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be(module, arguments, (stdout.fileno(), stderr.fileno()), env, preexec_fn)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def install() -> None:
    """Stand in for the library in this process, not in those that it forks."""
    vars(subprocess)["Popen"] = ForkedService


def _be(
    module: str,
    arguments: Sequence[str],
    outputs: tuple[int, int],
    environment: Mapping[str, str],
    before: Callable[[], None],
) -> NoReturn:
    """Be the service; nothing of the supervisor's frames below this one goes on."""
    status: Any = 1
    try:
        gc.freeze()  # what the supervisor had open is never closed by its number, which is another's here
        _leave_supervisor(outputs)
        before()
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does with what nobody caught
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _leave_supervisor(outputs: tuple[int, int]) -> None:
    vars(subprocess)["Popen"] = _REAL
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in zip((null, *outputs), range(_STANDARD), strict=True):
        os.dup2(descriptor, standard)
    os.closerange(_STANDARD, os.sysconf("SC_OPEN_MAX"))
