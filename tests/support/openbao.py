"""A Vault or OpenBao to test against: a real one where there is one, and the simulator always.

Real: `PQCPKI_TEST_VAULT_ADDR` and `PQCPKI_TEST_VAULT_TOKEN` (a throw-away server: tests make and delete mounts, roles
and keys), else `bao` or `vault` on PATH, started in development mode on a free port of the loopback and ended by its
process id. The simulator takes the same administration calls over the same HTTP, so that one set-up serves both.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.signer_hsm.backends.settings import VaultSettings
from tests.support.vault_simulator.server import VaultSimulator

POLICIES = Path(__file__).parents[2] / "deploy" / "vault" / "policies"
_START_SECONDS = 20.0
_NO_ROOTS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # plain HTTP here; loading roots would take 100 ms a call


class AdminError(Exception):
    """The server refuses what a test's set-up asks for."""


@dataclass
class VaultServer:
    """A server and the right to do anything there.

    Attributes:
        address: http://host:port.
        root_token: of the administrator.
        unseal_key: None where the test must not seal.
        simulator: None where the server is real.
        process: None where somebody else has started it.
        mount: where this test's Transit engine is.
        approle: where its AppRole method is.
        namespace: in which both are.
    """

    address: str
    root_token: str
    unseal_key: str | None = None
    simulator: VaultSimulator | None = None
    process: int | None = None
    mount: str = field(default_factory=lambda: f"transit-{secrets.token_hex(4)}")
    approle: str = field(default_factory=lambda: f"approle-{secrets.token_hex(4)}")
    namespace: str = ""

    @property
    def real(self) -> bool:
        """Whether this is no simulator."""
        return self.simulator is None

    def admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call as the administrator.

        Raises:
            AdminError: any status but 2xx.
        """
        answer = self.raw(method, path, body, token=self.root_token)
        if not answer.is_success:
            raise AdminError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return dict(answer.json()) if answer.content else {}

    def raw(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        """One call, whatever comes of it."""
        headers = {"X-Vault-Token": token} if token else {}
        if self.namespace and not path.startswith(("sys/health", "sys/seal", "sys/unseal")):
            headers["X-Vault-Namespace"] = self.namespace
        with httpx.Client(trust_env=False, timeout=10, verify=_NO_ROOTS) as client:
            return client.request(method, f"{self.address}/v1/{path}", json=body, headers=headers)

    def seal(self) -> None:
        """Seal the server."""
        self.admin("PUT", "sys/seal", {})

    def unseal(self) -> None:
        """Unseal it, and wait until it is active again."""
        answer = self.raw("PUT", "sys/unseal", {"key": self.unseal_key})
        if answer.status_code != httpx.codes.OK:
            raise AdminError(f"unseal: {answer.status_code}")
        self.wait(httpx.codes.OK)

    def wait(self, status: int) -> None:
        """Until sys/health says so."""
        until_answering(lambda: self.raw("GET", "sys/health").status_code == status)


def until_answering(fact: Callable[[], bool]) -> None:
    """Wait for a server to come up, or to another state.

    Raises:
        AdminError: it takes too long.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if fact():
                return
        time.sleep(0.05)
    raise AdminError("the server does not come up")


@dataclass
class Role:
    """The AppRole of the service under test, and its files."""

    server: VaultServer
    directory: Path
    name: str
    role_id_file: Path
    secret_id_file: Path

    def new_secret_id(self) -> str:
        """A fresh secret id, written to the file."""
        path = f"auth/{self.server.approle}/role/{self.name}/secret-id"
        secret_id = str(self.server.admin("POST", path, {})["data"]["secret_id"])
        write_secret(self.secret_id_file, secret_id)
        return secret_id

    def revoke(self) -> None:
        """Take the role away, and the tokens that it gave."""
        self.server.admin("DELETE", f"auth/{self.server.approle}/role/{self.name}")
        self.server.admin("PUT", f"sys/leases/revoke-prefix/auth/{self.server.approle}/login", {})

    def settings(self, **changes: Any) -> VaultSettings:  # noqa: ANN401 - fields of the settings
        """The settings of a back end that uses this role."""
        values: dict[str, Any] = {
            "name": "vault",
            "type": "vault",
            "address": self.server.address,
            "allow_plain_http": True,
            "namespace": self.server.namespace,
            "mount": self.server.mount,
            "approle_mount": self.server.approle,
            "role_id_file": self.role_id_file,
            "secret_id_file": self.secret_id_file,
        }
        return VaultSettings(**{**values, **changes})


def write_secret(path: Path, text: str) -> None:
    """Write a file that nobody else may read."""
    path.write_text(text + "\n", "ascii")
    path.chmod(0o600)


def policy(name: str, server: VaultServer) -> str:
    """A policy as it is shipped, for this server's mounts."""
    text = (POLICIES / f"{name}.hcl").read_text("ascii")
    return text.replace('path "transit/', f'path "{server.mount}/').replace(
        '"auth/approle/', f'"auth/{server.approle}/'
    )


def provision(
    server: VaultServer,
    directory: Path,
    policies: tuple[str, ...] = ("signer-hsm-sign", "signer-hsm-keys", "signer-hsm-import"),
    **role: Any,  # noqa: ANN401 - fields of the role
) -> Role:
    """The mounts, the shipped policies and one AppRole, over HTTP as an administrator would."""
    server.admin("POST", f"sys/mounts/{server.mount}", {"type": "transit"})
    server.admin("POST", f"sys/auth/{server.approle}", {"type": "approle"})
    names = [f"{name}-{server.mount}" for name in policies]
    for name, written in zip(policies, names, strict=True):
        server.admin("PUT", f"sys/policies/acl/{written}", {"policy": policy(name, server)})
    body = {"token_policies": names, "token_no_default_policy": True, "token_ttl": "1h", "token_max_ttl": "24h", **role}
    server.admin("POST", f"auth/{server.approle}/role/signer-hsm", body)
    found = server.admin("GET", f"auth/{server.approle}/role/signer-hsm/role-id")
    made = Role(server, directory, "signer-hsm", directory / "role-id", directory / "secret-id")
    made.role_id_file.write_text(str(found["data"]["role_id"]), "ascii")
    made.new_secret_id()
    return made


def real_server_missing() -> str:
    """Why there is no real server here; empty where there is one."""
    if os.environ.get("PQCPKI_TEST_VAULT_ADDR") or binary():
        return ""
    return "no real Vault or OpenBao: neither bao nor vault on PATH, nor PQCPKI_TEST_VAULT_ADDR"


@contextmanager
def real_server(directory: Path) -> Iterator[VaultServer]:
    """The real server that the environment names, or one of our own.

    Raises:
        AdminError: there is none.
    """
    address = os.environ.get("PQCPKI_TEST_VAULT_ADDR")
    if address:
        server = VaultServer(address.rstrip("/"), os.environ.get("PQCPKI_TEST_VAULT_TOKEN", ""))
        try:
            yield server
        finally:
            server.admin("DELETE", f"sys/mounts/{server.mount}")
            server.admin("DELETE", f"sys/auth/{server.approle}")
        return
    program = binary()
    if program is None:
        raise AdminError(real_server_missing())
    with _started(program, directory) as server:
        yield server


@contextmanager
def _started(binary: str, directory: Path) -> Iterator[VaultServer]:
    directory.mkdir(parents=True, exist_ok=True)
    root, port, log = secrets.token_hex(16), free_port(), directory / "server.log"
    listener = f"-dev-listen-address=127.0.0.1:{port}"
    command = [binary, "server", "-dev", f"-dev-root-token-id={root}", listener, "-dev-no-store-token"]
    environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "SKIP_SETCAP": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=directory)
    server = VaultServer(f"http://127.0.0.1:{port}", root, process=process.pid)
    try:
        server.wait(httpx.codes.OK)
        server.unseal_key = _unseal_key(log)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)  # a test may have stopped it
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unseal_key(log: Path) -> str:
    """What the server in development mode prints a little after it has begun to answer."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        found = re.search(r"Unseal Key: (\S+)\n", log.read_text("utf-8"))
        if found:
            return found[1]
        time.sleep(0.02)
    raise AdminError("the server has not printed its unseal key")


def binary() -> str | None:
    """The program of a real server, if there is one."""
    return shutil.which("bao") or shutil.which("vault")


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
