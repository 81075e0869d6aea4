"""`ztca up`: every service of a deployment as a process of its own, started in order, watched, restarted, stopped.

1. one supervisor per state directory (a lock on a file, freed by the kernel whatever happens)
2. for each service: start it, wait until its listeners accept and `/readyz` says ready
3. `endpoints.json`, anew whenever a process is replaced
4. a process that ends is started again, after a wait that doubles; it keeps its ports
5. on SIGINT or SIGTERM: every process is asked to stop, then killed; `endpoints.json` goes

The kernel kills the children when the supervisor dies, so `kill -9` of it leaves nothing running.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from services.ca.deployment import free_port, is_free, recorded_settings
from services.ca.endpoints import describe, write_endpoints
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, Layout

START_SECONDS: Final = 60.0  # for a service to become ready
STOP_SECONDS: Final = 15.0  # for a service to stop by itself
_POLL: Final = 0.1
_FIRST_WAIT: Final = 0.5
_LAST_WAIT: Final = 30.0
_STEADY_SECONDS: Final = 60.0  # a process that ran this long had recovered
_LAST_LINES: Final = 15
_PR_SET_PDEATHSIG: Final = 1
_PORTS: Final = range(1, 65536)

Say = Callable[[str], None]


@dataclass
class Child:
    """One service's process and the environment it is started with."""

    service: str
    layout: Layout
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    wait: float = _FIRST_WAIT
    log_start: int = 0
    urls: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.layout.logs / f"{self.service}.log"

    @property
    def listeners_file(self) -> Path:
        """Where it says that its listeners accept."""
        return self.layout.state(self.service) / "listeners.json"

    def start(self) -> None:
        """Start the process; what an earlier one said of its listeners is forgotten."""
        self.listeners_file.unlink(missing_ok=True)
        config = self.layout.settings(self.service)
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        with self.log.open("ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [sys.executable, "-m", f"services.{self.service.replace('-', '_')}", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the supervisor alone, which stops them in order
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - three system calls, no lock, before any thread
            )
        self.started_at = time.monotonic()

    def exit_status(self) -> int | None:
        """Its exit status, None while it runs."""
        return None if self.process is None else self.process.poll()

    def complaint(self) -> str:
        """The sentence that this process ended with, or the end of its log."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            lines = log.read().decode(errors="replace").splitlines()
        if lines and lines[-1].startswith(f"{self.service}: "):
            return lines[-1]
        return "\n".join(["its log ends:", *(f"    {line}" for line in lines[-_LAST_LINES:])])

    @property
    def where(self) -> str:
        """Its URLs, for a person."""
        return ", ".join(f"{name} {url}" for name, url in self.urls.items() if name != "pid")

    def next_wait(self) -> float:
        """Seconds before it is started again: doubled each time, from the start again once it had run steadily."""
        if time.monotonic() - self.started_at > _STEADY_SECONDS:
            self.wait = _FIRST_WAIT
        wait, self.wait = self.wait, min(2 * self.wait, _LAST_WAIT)
        return wait

    async def stop(self) -> None:
        """Ask the process to stop, and kill it if it does not."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
            await asyncio.sleep(_POLL)

    def keep_ports(self) -> None:
        """A replacement takes the ports that this process had, so that its URLs go on."""
        for listener, variable in _PORT_VARIABLES[self.service].items():
            if listener in self.urls:
                self.environment[variable] = str(httpx.URL(self.urls[listener]).port)


_PORT_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {
    SIGNER: {"internal": "PQCPKI_SIGNER_HSM_PORT", "ops": "PQCPKI_SIGNER_HSM_OPS_PORT"},
    "ca": {"internal": "PQCPKI_CA_PORT", "status": "PQCPKI_CA_HTTP_PORT", "ops": "PQCPKI_CA_OPS_PORT"},
    "acme": {"public": "PQCPKI_ACME_PORT", "ops": "PQCPKI_ACME_OPS_PORT"},
}
_PORT_FIELDS: Final = {
    "PQCPKI_SIGNER_HSM_PORT": "port",
    "PQCPKI_SIGNER_HSM_OPS_PORT": "ops_port",
    "PQCPKI_CA_PORT": "port",
    "PQCPKI_CA_HTTP_PORT": "http_port",
    "PQCPKI_CA_OPS_PORT": "ops_port",
    "PQCPKI_ACME_PORT": "port",
    "PQCPKI_ACME_OPS_PORT": "ops_port",
}


def _die_with(supervisor: int) -> Callable[[], None]:
    """What a child does before it becomes the service: die with the supervisor, and leave no keys in core dumps."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(1)

    return before_exec


class Supervisor:
    """Runs the services of one deployment.

    Args:
        layout: The deployment.
        environment: For the children, as the supervisor was started with.
        say: Prints a line for a person.
        services: Which, in the order of their start; those with a settings file if not given.
    """

    def __init__(
        self, layout: Layout, environment: Mapping[str, str], say: Say, services: Sequence[str] | None = None
    ) -> None:
        self._layout = layout
        self._say = say
        self._children = [
            Child(service, layout, child_environment(layout, service, environment))
            for service in (layout.services if services is None else services)
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, then watch until `stop` is set.

        Raises:
            CeremonyError: a service did not become ready; the sentence holds the end of its log.
        """
        try:
            for child in self._children:
                await self._start(child, stop)
                if stop.is_set():
                    return
                self._say(f"{child.service} is up: {child.where}")
            self._publish()
            self._say(f"Everything is up; endpoints are in {self._layout.endpoints}")
            async with asyncio.TaskGroup() as minders:
                for child in self._children:
                    minders.create_task(self._mind(child, stop))
        finally:
            self._layout.endpoints.unlink(missing_ok=True)
            await self._stop_all()

    async def _start(self, child: Child, stop: asyncio.Event) -> None:
        self._pass_on_urls(child)
        await start_child(child, stop)

    async def _mind(self, child: Child, stop: asyncio.Event) -> None:
        """Replace the process whenever it ends."""
        while not await _stopped(stop, _POLL):
            status = child.exit_status()
            if status is None:
                continue
            wait = child.next_wait()
            self._say(f"{child.service} ended with status {status}; starting it again in {wait:g} s (see {child.log})")
            if await _stopped(stop, wait):
                return
            try:
                await self._start(child, stop)
            except CeremonyError as error:
                self._say(str(error))
                await child.stop()
            else:
                self._publish()
                self._say(f"{child.service} is up again: {child.where}")

    def _pass_on_urls(self, child: Child) -> None:
        """Each service finds the others where they are, even if that port was not the recorded one."""
        known = {other.service: other.urls for other in self._children}
        if child.service == SIGNER:
            self._say_where_the_ca_will_be(child)
        if child.service == "ca" and known.get(SIGNER):
            child.environment["PQCPKI_CA_SIGNER_URL"] = known[SIGNER]["internal"]
        if child.service == "acme" and known.get("ca"):
            child.environment.setdefault("PQCPKI_ACME_CA_URL", known["ca"]["internal"])
            child.environment.setdefault("PQCPKI_ACME_CA_STATUS_URL", known["ca"]["status"])

    def _say_where_the_ca_will_be(self, signer: Child) -> None:
        """signer-hsm starts before the CA, whose status it follows; so the CA's ports are settled now."""
        for ca in (child for child in self._children if child.service == "ca"):
            recorded = recorded_settings(self._layout, "ca")
            host = str(recorded.get("host", "127.0.0.1"))
            ports = {}
            for variable in ("PQCPKI_CA_PORT", "PQCPKI_CA_HTTP_PORT"):
                wanted = int(ca.environment.get(variable) or recorded.get(_PORT_FIELDS[variable]) or 0)
                ports[variable] = ca.environment[variable] = str(wanted or free_port(host))
            signer.environment["PQCPKI_SIGNER_HSM_CA_URL"] = f"https://localhost:{ports['PQCPKI_CA_PORT']}"
            signer.environment["PQCPKI_SIGNER_HSM_CA_STATUS_URL"] = f"http://{host}:{ports['PQCPKI_CA_HTTP_PORT']}"

    def _publish(self) -> None:
        write_endpoints(self._layout, describe(self._layout, {child.service: child.urls for child in self._children}))

    async def _stop_all(self) -> None:
        for child in reversed(self._children):
            if child.exit_status() is None and child.process is not None:
                await child.stop()
                self._say(f"{child.service} has stopped")


async def start_child(child: Child, stop: asyncio.Event) -> None:
    """Start a service and wait until it is ready, or until told to stop.

    Raises:
        CeremonyError: it ended, or was not ready in time; the sentence holds the end of its log.
    """
    child.start()
    deadline = time.monotonic() + START_SECONDS
    while not await is_ready(child):
        if stop.is_set():
            return
        status = child.exit_status()
        if status is not None:
            raise CeremonyError(f"{child.service} ended with status {status}; {child.complaint()}")
        if time.monotonic() > deadline:
            raise CeremonyError(f"{child.service} was not ready in {START_SECONDS:g} s; {child.complaint()}")
        await asyncio.sleep(_POLL)
    child.keep_ports()


async def is_ready(child: Child) -> bool:
    """Whether its listeners accept and it says that it is ready; its URLs are known then."""
    try:
        urls = orjson.loads(child.listeners_file.read_bytes())
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            answer = await http.get(f"{urls['ops']}/readyz")
    except (OSError, httpx.HTTPError, orjson.JSONDecodeError):
        return False
    if not answer.is_success:
        return False
    child.urls = urls
    return True


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for so long, or until told to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


def child_environment(layout: Layout, service: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service's process: port 0 keeps the recorded port where that is free."""
    found = dict(environment)
    recorded = recorded_settings(layout, service)
    for variable in _PORT_VARIABLES[service].values():
        port = recorded.get(_PORT_FIELDS[variable])
        if found.get(variable) != "0" or type(port) is not int or port not in _PORTS:
            continue
        if is_free(str(recorded.get("host", "127.0.0.1")), port):
            found[variable] = str(port)
    return found


@contextlib.contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the deployment's lock.

    Raises:
        CeremonyError: another `ztca up` holds it, or there is no deployment.
    """
    if not layout.config.is_dir():
        raise CeremonyError(f"there is no PKI in {layout.root}: make one with `ztca init --dir {layout.root}`")
    descriptor = os.open(layout.root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CeremonyError(f"another `ztca up` runs in {layout.root}: stop that one first") from error
        yield
    finally:
        os.close(descriptor)
