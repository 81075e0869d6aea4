"""A deployment under test: `ztca init`, `ztca up`, and around them the simulated outside world, each a real process.

Everything is on loopback, on free ports, below one directory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.fork_server import Forked, fork_server

ZTCA = Path(sys.executable).with_name("ztca")
DNS_SERVER = Path(__file__).with_name("dns_server.py")
START_SECONDS = 120.0
STOP_SECONDS = 90.0  # the supervisor kills a service after fifteen, and there are four
FREE_PORTS = (
    "SIGNER_HSM_PORT",
    "SIGNER_HSM_OPS_PORT",
    "CA_PORT",
    "CA_HTTP_PORT",
    "CA_OPS_PORT",
    "ACME_PORT",
    "ACME_ADMIN_PORT",
    "ACME_OPS_PORT",
    "SIGNING_PORT",
    "SIGNING_OPS_PORT",
)


def free_port() -> int:
    """A port number that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_running(pid: int) -> bool:
    """Whether a process of that number runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class DnsProcess:
    """The DNS simulator as a process; its records are a file that hook scripts may write too."""

    def __init__(self, records_file: Path, records: Mapping[str, Any]) -> None:
        self.records_file = records_file
        self.write(records)
        command = [sys.executable, str(DNS_SERVER), "--port", "0", "--records", str(records_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def address(self) -> str:
        """`host:port` of the simulator."""
        return f"127.0.0.1:{self.port}"

    def write(self, records: Mapping[str, Any]) -> None:
        """Replace all records."""
        temporary = self.records_file.with_suffix(".new")
        temporary.write_text(json.dumps(records))
        temporary.replace(self.records_file)

    def set(self, name: str, **entry: Any) -> None:  # noqa: ANN401 -- the keys and values of the records file
        """Set what one name answers."""
        self.write({**json.loads(self.records_file.read_text()), name: entry})

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate(timeout=STOP_SECONDS)


class Deployment:
    """A running deployment.

    Attributes:
        directory: its state directory.
        endpoints: the parsed endpoints.json.
        dns: the DNS simulator that validation asks.
        http01_port: where validation expects web servers.
        tlsalpn01_port: where it expects TLS servers.
    """

    def __init__(self, directory: Path, dns: DnsProcess, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.dns = dns
        self.http01_port = free_port()
        self.tlsalpn01_port = free_port()
        self.environment = {**os.environ, **self._settings(), **(environment or {})}
        self.endpoints: dict[str, Any] = {}
        self._up: Forked | None = None

    def _settings(self) -> dict[str, str]:
        return {
            **{f"PQCPKI_{name}": "0" for name in FREE_PORTS},
            "PQCPKI_ACME_RESOLVER": self.dns.address,
            "PQCPKI_ACME_HTTP01_PORT": str(self.http01_port),
            "PQCPKI_ACME_TLSALPN01_PORT": str(self.tlsalpn01_port),
            "PQCPKI_ACME_ALLOWED_NETWORKS": "127.0.0.0/8",
        }

    def ztca(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `ztca` command to its end."""
        return fork_server().run("ztca", arguments, self.environment, timeout=120, check=check)

    def ztca_killed(self, when_it_says: str, *arguments: str) -> None:
        """Run a `ztca` command until it says this, and end it by SIGKILL."""
        reader, writer = os.pipe()
        with open(reader) as said, open(writer, "wb") as output:  # noqa: PTH123 - descriptors
            running = fork_server().start("ztca", arguments, self.environment, output, output)
            output.close()
            try:
                assert any(when_it_says in line for line in said)
            finally:
                running.kill()
                running.wait()

    def init(self, *options: str) -> Self:
        """Hold the ceremony."""
        self.ztca("init", "--dir", str(self.directory), *options)
        return self

    def up(self) -> Self:
        """Start the services and wait until every one answers.

        Raises:
            RuntimeError: they did not come up; the message holds their output.
        """
        published = self.directory / "endpoints.json"
        published.unlink(missing_ok=True)
        log = self.directory / "up.log"
        with log.open("wb") as output:
            self._up = fork_server().start(
                "ztca", ("up", "--dir", str(self.directory)), self.environment, output, output
            )
        deadline = time.monotonic() + START_SECONDS
        while not published.exists():
            if self._up.poll() is not None or time.monotonic() > deadline:
                self._up.kill()
                raise RuntimeError(f"the services did not come up:\n{log.read_text()}")
            time.sleep(0.05)
        self.endpoints = json.loads(published.read_text())
        return self

    @property
    def pids(self) -> dict[str, int]:
        """Service -> process number, as published."""
        pids: dict[str, int] = self.endpoints["pids"]
        return pids

    def stop(self) -> list[str]:
        """Stop as an operator does, by SIGTERM.

        Returns:
            What is wrong after that: processes left running, a bad exit code.
        """
        if self._up is None:
            return []
        self._up.send_signal(signal.SIGTERM)
        try:
            code = self._up.wait(STOP_SECONDS)
        except TimeoutError:
            self._up.kill()
            return [f"ztca up did not end within {STOP_SECONDS:g} seconds of SIGTERM"]
        wrong = [f"{name} (process {pid}) still runs" for name, pid in self.pids.items() if is_running(pid)]
        return wrong + ([f"ztca up ended with code {code}"] if code else [])
