"""One service as a process of its own: how it is started, when it is ready, what it complained of, how it stops."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from pkicore.errors import MalformedError
from pkicore.http1 import Answer, AnswerParser, request_head
from services.ca.deployment import is_free, recorded_settings
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, SIGNING, Layout

START_SECONDS: Final = 120.0  # for a service to become ready: two of processor time, which a busy machine stretches
STOP_SECONDS: Final = 15.0  # for a service to stop by itself
_POLL: Final = 0.1
_ASK_SECONDS: Final = 2.0
_MAX_ANSWER: Final = 64 * 1024
_OK: Final = 200
_FIRST_WAIT: Final = 0.5
_LAST_WAIT: Final = 30.0
_STEADY_SECONDS: Final = 60.0  # a process that ran this long had recovered
_LAST_LINES: Final = 15
_PRIVATE: Final = 0o600
_PR_SET_PDEATHSIG: Final = 1
_PORTS: Final = range(1, 65536)
_PORT_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {
    SIGNER: {"internal": "PQCPKI_SIGNER_HSM_PORT", "ops": "PQCPKI_SIGNER_HSM_OPS_PORT"},
    "ca": {"internal": "PQCPKI_CA_PORT", "status": "PQCPKI_CA_HTTP_PORT", "ops": "PQCPKI_CA_OPS_PORT"},
    "acme": {"public": "PQCPKI_ACME_PORT", "admin": "PQCPKI_ACME_ADMIN_PORT", "ops": "PQCPKI_ACME_OPS_PORT"},
    SIGNING: {"public": "PQCPKI_SIGNING_PORT", "ops": "PQCPKI_SIGNING_OPS_PORT"},
}
PORT_FIELDS: Final = {
    "PQCPKI_SIGNER_HSM_PORT": "port",
    "PQCPKI_SIGNER_HSM_OPS_PORT": "ops_port",
    "PQCPKI_CA_PORT": "port",
    "PQCPKI_CA_HTTP_PORT": "http_port",
    "PQCPKI_CA_OPS_PORT": "ops_port",
    "PQCPKI_ACME_PORT": "port",
    "PQCPKI_ACME_ADMIN_PORT": "admin_port",
    "PQCPKI_ACME_OPS_PORT": "ops_port",
    "PQCPKI_SIGNING_PORT": "port",
    "PQCPKI_SIGNING_OPS_PORT": "ops_port",
}


@dataclass
class Child:
    """One service's process and the environment it is started with.

    Attributes:
        preferred: variables of ports that it is to have only if nobody else has them; any other will do.
        urls: its listeners, once it is ready.
    """

    service: str
    layout: Layout
    environment: dict[str, str]
    preferred: set[str] = field(default_factory=set)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    wait: float = _FIRST_WAIT
    log_start: int = 0
    urls: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, service: str, environment: Mapping[str, str]) -> "Child":
        """A service of a deployment: port 0 in the environment keeps the recorded port where that is free.

        Raises:
            CeremonyError: its settings file is missing, or is not TOML.
        """
        any_port = {name for name in _PORT_VARIABLES[service].values() if environment.get(name) == "0"}
        return cls(service, layout, _with_recorded_ports(layout, service, environment, any_port), any_port)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.layout.logs / f"{self.service}.log"

    @property
    def listeners_file(self) -> Path:
        """Where it says that its listeners accept."""
        return self.layout.state(self.service) / "listeners.json"

    @property
    def where(self) -> str:
        """Its URLs, for a person."""
        return ", ".join(f"{name} {url}" for name, url in self.urls.items() if name != "pid")

    def start(self) -> None:
        """Start the process; what an earlier one said of its listeners is forgotten."""
        self.listeners_file.unlink(missing_ok=True)
        config = self.layout.settings(self.service)
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        self.log.touch(mode=_PRIVATE)
        self.log.chmod(_PRIVATE)  # an earlier version made it readable for all
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
        if not lines:
            return "its log is empty"
        if lines[-1].startswith(f"{self.service}: "):
            return lines[-1]
        return "\n".join(["its log ends:", *(f"    {line}" for line in lines[-_LAST_LINES:])])

    def gives_way(self) -> bool:
        """Whether the process ended because a port was taken that it was only to prefer; the next takes any other."""
        complaint = self.complaint()
        for name in self.preferred:
            if f"port {self.environment.get(name)} on " in complaint and "is taken" in complaint:
                self.environment[name] = "0"
                return True
        return False

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
        """A replacement takes the ports that this process had, and no others, so that its URLs go on."""
        for listener, variable in _PORT_VARIABLES[self.service].items():
            if listener in self.urls:
                self.environment[variable] = str(urlsplit(self.urls[listener]).port)
        self.preferred.clear()


async def start_child(child: Child, stop: asyncio.Event, *, patience: float = START_SECONDS) -> None:
    """Start a service and wait until it is ready, or until told to stop.

    Raises:
        CeremonyError: it ended, or was not ready in time; the sentence says what it waited for, and what to do.
    """
    child.start()
    deadline = time.monotonic() + patience
    while (missing := await missing_of(child)) is not None:
        if stop.is_set():
            return
        status = child.exit_status()
        if status is not None:
            if not child.gives_way():
                raise CeremonyError(f"{child.service} ended with status {status}; {child.complaint()}")
            child.start()
        elif time.monotonic() > deadline:
            raise CeremonyError(_not_ready(child, patience, missing))
        await asyncio.sleep(_POLL)
    child.keep_ports()


async def missing_of(child: Child) -> str | None:
    """What a process that runs still lacks to be ready, in words; None when it is, and its URLs are known then."""
    try:
        urls = orjson.loads(child.listeners_file.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return "its listeners do not accept yet"
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            answer = await plain_get(urls["ops"], "/readyz")
    except (OSError, MalformedError) as error:  # TimeoutError is an OSError
        return f"its listeners accept, but {urls['ops']}/readyz gives no answer ({str(error) or 'time-out'})"
    if answer.status_code != _OK:
        return f"{urls['ops']}/readyz says: {_reasons(answer.content)}"
    child.urls = urls
    return None


def _not_ready(child: Child, patience: float, missing: str) -> str:
    number = "" if child.process is None else f" {child.process.pid}"
    return (
        f"{child.service} was not ready in {patience:g} s: its process{number} runs, and {missing}; "
        f"{child.complaint()}\nIf this machine is busy, start it again when it is less so; what {child.service} waits "
        f"for, and every line it wrote, is in {child.log}"
    )


def _reasons(document: bytes) -> str:
    """The conditions that `/readyz` says are not met."""
    try:
        waiting = orjson.loads(document)["waiting"].items()
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return "not ready"
    return "; ".join(f"{name}: {reason}" for name, reason in waiting)


async def plain_get(base_url: str, path: str, fields: Mapping[str, str] = MappingProxyType({})) -> Answer:
    """A GET over plain HTTP, to a listener on this machine; the HTTP client takes longer to load than all else here.

    Raises:
        OSError, MalformedError: no answer, or not one of HTTP/1.1.
    """
    url = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(request_head("GET", path, {"Host": url.netloc, "Connection": "close", **fields}))
        parser = AnswerParser(_MAX_ANSWER)
        while not parser.is_complete:
            if data := await reader.read(_MAX_ANSWER):
                parser.feed(data)
            else:
                parser.end()
        return parser.answer()
    finally:
        writer.close()


def _with_recorded_ports(
    layout: Layout, service: str, environment: Mapping[str, str], any_port: set[str]
) -> dict[str, str]:
    found = dict(environment)
    recorded = recorded_settings(layout, service)
    host = str(recorded.get("host", "127.0.0.1"))
    for name in any_port:
        port = recorded.get(PORT_FIELDS[name])
        if type(port) is int and port in _PORTS and is_free(host, port):
            found[name] = str(port)
    return found


def _die_with(supervisor: int) -> Callable[[], None]:
    """What a child does before it becomes the service: die with the supervisor, and leave no keys in core dumps."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(1)

    return before_exec
