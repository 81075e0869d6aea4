"""A loaded PKCS#11 module. Cryptoki is one per process and shared object, so the table of loaded modules is too.

What becomes of a module is decided here alone: it is started with its locks on, shared by back ends that want it with
the same variables, started anew when its tokens have gone (handles of before are then worthless: `generation` tells),
and finalised when the last back end gives it back. While it starts, the gate keeps every other call out: handles are
small numbers that a module gives out again, and an old one could name another key.
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pkcs11
from pkcs11.exceptions import PKCS11Error

from services.signer_hsm.backends.pkcs11.cryptoki import OK, Cryptoki
from services.signer_hsm.errors import MisconfiguredError, UnavailableError

if TYPE_CHECKING:
    from pkcs11 import _pkcs11 as binding

RESTART_SECONDS: Final = 1.0
"""A module is started anew at most this often: its other tokens lose their sessions each time."""
_QUIET_SECONDS: Final = 2.0


class Gate:
    """Lets any number of calls in, or one restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep calls out, and wait for those inside.

        Raises:
            UnavailableError: a call inside does not come back.
        """
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._closed = True
            quiet = self._changed.wait_for(lambda: self._inside == 0, _QUIET_SECONDS)
        try:
            if not quiet:
                raise UnavailableError("the PKCS#11 module does not come back from a call", retry_after=RESTART_SECONDS)
            yield
        finally:
            with self._lock:
                self._closed = False
                self._changed.notify_all()


class Module:
    """One shared object in this process.

    Attributes:
        path: where it lies.
        cryptoki: its function list, for what python-pkcs11 does not call.
        gate: to be entered for each use of a session or object.
        generation: counts its starts; whatever was opened in an earlier one must not be used.
    """

    def __init__(self, path: Path, preload: Sequence[Path], environment: Mapping[str, str]) -> None:
        self.path = path
        self.environment = dict(environment)
        self.pid = os.getpid()
        self.users = 0
        self.gate = Gate()
        self.generation = 0
        self._library: binding.lib | None = None
        self._started = -RESTART_SECONDS
        self._set_environment()
        for needed in preload:
            try:
                ctypes.CDLL(str(needed), ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise MisconfiguredError(f"{needed} cannot be loaded") from error
        self.cryptoki = Cryptoki(path)

    def _set_environment(self) -> None:
        for name, value in self.environment.items():
            os.putenv(name, value)

    @property
    def library(self) -> "binding.lib":
        """The module as python-pkcs11 knows it.

        Raises:
            PKCS11Error: it has not started.
        """
        if self._library is None:
            raise PKCS11Error("not started")
        return self._library

    def start(self, seen: int) -> None:
        """Start it, or start it anew, unless somebody has since the caller saw generation `seen`.

        Raises:
            UnavailableError: it does not start, has only just been started, or is stuck in a call.
        """
        with _TABLE_LOCK:
            if self.generation != seen:
                return
            if time.monotonic() < self._started + RESTART_SECONDS:
                raise UnavailableError("the PKCS#11 module has only just been restarted", retry_after=RESTART_SECONDS)
            with self.gate.closed():
                self._started = time.monotonic()
                self.generation += 1
                self._initialize()

    def _initialize(self) -> None:
        self._set_environment()
        self.cryptoki.finalize()  # whatever it was: an error only says that it was not initialised
        try:
            self._library = pkcs11.lib(str(self.path))
        except PKCS11Error as error:
            raise UnavailableError("the PKCS#11 module does not start", retry_after=RESTART_SECONDS) from error
        self.cryptoki.finalize()  # python-pkcs11 initialised it for one thread only
        if (status := self.cryptoki.initialize()) != OK:
            raise UnavailableError(f"the PKCS#11 module does not start: {status:#x}", retry_after=RESTART_SECONDS)

    def stop(self) -> None:
        """Finalise it: every session ends and everybody is logged out.

        Raises:
            UnavailableError: it is stuck in a call; it stays as it is.
        """
        with self.gate.closed():
            self.generation += 1
            self.cryptoki.finalize()


_TABLE: Final[dict[Path, Module]] = {}
_TABLE_LOCK: Final = threading.RLock()


def acquire(path: Path, preload: Sequence[Path] = (), environment: Mapping[str, str] | None = None) -> Module:
    """The module at this path, loaded once; give it back with `release`.

    Raises:
        MisconfiguredError: it cannot be loaded, is in use with other variables, or was loaded before a fork.
    """
    with _TABLE_LOCK:
        real = path.resolve()
        module = _TABLE.get(real)
        if module is None:
            module = _TABLE[real] = Module(real, preload, environment or {})
        if module.pid != os.getpid():
            raise MisconfiguredError(f"{path} was loaded before this process was forked; load it afterwards")
        if module.environment != dict(environment or {}):
            raise MisconfiguredError(f"{path} is in use with other environment variables; one module has one set")
        module.users += 1
        return module


def release(module: Module) -> None:
    """Give a module back; the last one finalises it.

    Raises:
        UnavailableError: it is stuck in a call; it stays loaded.
    """
    with _TABLE_LOCK:
        module.users -= 1
        if module.users == 0:
            del _TABLE[module.path]
            module.stop()
