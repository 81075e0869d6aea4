"""A simulator of Vault and OpenBao: real HTTP on a real socket of the loopback, the state in memory.

It is no Vault: it knows what signer-hsm uses (sys/health, seal, tokens, AppRole, policies, Transit), checks what the
real one checks there, and words its refusals alike. Written from OpenBao 2.6.2; `tests/integration/test_vault_*.py` run
the same against a real server where there is one. Namespaces, audit, leases of other kinds, quotas: not here.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlsplit

from pkicore.clock import Clock
from tests.support.vault_simulator.errors import RefusalError, internal, invalid, unsupported
from tests.support.vault_simulator.faults import Fault, Faults
from tests.support.vault_simulator.policies import check
from tests.support.vault_simulator.tokens import Token, Tokens
from tests.support.vault_simulator.transit import MlDsa, TransitEngine

Edition = Literal["openbao", "openbao-2.7", "vault", "vault-enterprise"]
Standby = Literal["", "redirects", "lost", "lost-500", "performance", "recovery"]
Reply = tuple[int, dict[str, Any] | None]

_VERSIONS: Mapping[Edition, tuple[str, MlDsa]] = {
    "openbao": ("2.6.2", ""),
    "openbao-2.7": ("2.7.0", "openbao"),
    "vault": ("1.21.4", ""),
    "vault-enterprise": ("1.21.4+ent", "vault"),
}
_NAME = r"(?P<name>\w(?:[\w.-]*\w)?)"
_KEYS = re.compile(rf"keys/{_NAME}(?:/(?P<act>rotate|config|trim|import|import_version))?", re.ASCII)
_SIGN = re.compile(rf"sign/{_NAME}(?:/(?P<hash>[a-z0-9-]+))?", re.ASCII)
_ROLE = re.compile(rf"role/{_NAME}(?:/(?P<act>role-id|secret-id))?", re.ASCII)
_CAPABILITIES = {"GET": {"read"}, "LIST": {"list"}, "DELETE": {"delete"}}
_LARGEST = 32 * 1024 * 1024


class VaultSimulator:
    """The server's state and what it does with a request.

    Attributes:
        sealed: every call but health and unseal is refused with 503.
        initialised: health says 501 when false.
        standby: how the node behaves that is not the active one; empty: it is the active one.
        leader: where a standby redirects to.
        faults: on order.
        requests: method, path and headers of each request so far.
    """

    def __init__(self, clock: Clock, edition: Edition = "openbao") -> None:
        self.edition = edition
        self.version, self._mldsa = _VERSIONS[edition]
        self.sealed, self.initialised = False, True
        self.standby: Standby = ""
        self.leader = "http://127.0.0.1:1"
        self.unseal_key = secrets.token_hex(32)
        self.tokens = Tokens(clock)
        self.faults = Faults()
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.engines: dict[str, TransitEngine] = {}
        self.approles: set[str] = set()
        self.lock = threading.RLock()

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Reply:
        """What comes of a request.

        Raises:
            RefusalError: it is refused.
        """
        if len(raw) > _LARGEST:
            raise RefusalError(413, "http: request body too large")
        parts = urlsplit(target)
        path = parts.path.removeprefix("/v1/")
        with self.lock:
            self.requests.append((method, path, headers))
            if path.startswith("sys/health") and headers.get("x-vault-namespace"):
                raise RefusalError(404, "unsupported path")
            open_to_all = self._open(method, path, dict(parse_qsl(parts.query)), raw)
            if open_to_all is not None:
                return open_to_all
            if not self.initialised or self.sealed:
                raise RefusalError(503, "Vault is sealed")
            self._refuse_standby()
            body = _json(raw)
            if method in {"POST", "PUT"} and re.fullmatch(r"auth/[\w-]+/login", path):
                return 200, _envelope(auth=self.tokens.login(self._approle(path.split("/")[1]), body))
            token = self.tokens.known(headers.get("x-vault-token"))
            if "root" not in token.policies:
                wanted = _CAPABILITIES.get(method, {"create", "update"})
                check(self.tokens.rules_of(token), path, wanted, body)
            return self._routed(method, path, body, token)

    def _open(self, method: str, path: str, query: Mapping[str, str], raw: bytes) -> Reply | None:
        """What needs no token and works sealed."""
        if path == "sys/health":
            return self._health(query)
        if path == "sys/seal-status":
            return 200, self._seal_status()
        if path == "sys/unseal" and method in {"PUT", "POST"}:
            if _json(raw).get("key") != self.unseal_key:
                raise invalid("'key' must be a valid hex or base64 string, or is not the right one")
            self.sealed = False
            return 200, self._seal_status()
        return None

    def _health(self, query: Mapping[str, str]) -> Reply:
        status = int(query.get("activecode", 200))
        if not self.initialised:
            status = int(query.get("uninitcode", 501))
        elif self.sealed:
            status = int(query.get("sealedcode", 503))
        elif self.standby == "recovery":
            status = int(query.get("drsecondarycode", 472))
        elif self.standby == "performance":
            status = status if "perfstandbyok" in query else int(query.get("performancestandbycode", 473))
        elif self.standby:
            status = status if "standbyok" in query else int(query.get("standbycode", 429))
        enterprise = {} if self.edition.startswith("openbao") else {"enterprise": "+ent" in self.version}
        return status, {
            "initialized": self.initialised,
            "sealed": self.sealed,
            "standby": bool(self.standby) or self.sealed,
            "server_time_utc": int(time.time()),
            "version": self.version,
            **enterprise,
        }

    def _seal_status(self) -> dict[str, Any]:
        known = {"type": "shamir", "initialized": self.initialised, "sealed": self.sealed, "version": self.version}
        return {**known, "t": 1, "n": 1, "progress": 0, "nonce": ""}

    def _refuse_standby(self) -> None:
        if self.standby == "redirects":
            raise RefusalError(307)
        if self.standby == "lost":
            raise RefusalError(503, "no active Vault instance found")
        if self.standby == "lost-500":
            raise internal("local node not active but active cluster node not found")
        if self.standby == "recovery":
            raise RefusalError(503, "path disabled in replication DR secondary mode")

    def _routed(self, method: str, path: str, body: Mapping[str, Any], token: Token) -> Reply:
        mount, _, rest = path.partition("/")
        if mount in self.engines:
            return self._transit(self.engines[mount], method, rest, body)
        if mount == "auth" and rest.startswith("token/"):
            return self._token(method, rest.removeprefix("token/"), body, token)
        if mount == "auth":
            at, _, inner = rest.partition("/")
            return self._approle_call(method, self._approle(at), inner, body)
        if mount == "sys":
            return self._sys(method, rest, body)
        raise RefusalError(404, f'no handler for route "{path}". route entry not found.')

    def _approle(self, mount: str) -> str:
        if mount not in self.approles:
            raise RefusalError(404, f'no handler for route "auth/{mount}/login". route entry not found.')
        return mount

    def _token(self, method: str, path: str, body: Mapping[str, Any], token: Token) -> Reply:
        if (method, path) == ("GET", "lookup-self"):
            return 200, _envelope(self.tokens.lookup(token))
        if path == "renew-self" and method != "GET":
            auth, warnings = self.tokens.renew(token)
            return 200, _envelope(auth=auth, warnings=warnings)
        if path == "revoke" and method != "GET":
            self.tokens.revoke(str(body.get("token")))
            return 204, None
        if path == "create" and method != "GET":
            return 200, _envelope(auth=self.tokens.create(body))
        raise unsupported()

    def _approle_call(self, method: str, mount: str, path: str, body: Mapping[str, Any]) -> Reply:
        found = _ROLE.fullmatch(path)
        if found is None:
            raise RefusalError(404, "unsupported path")
        name, act = found["name"], found["act"]
        if (method, act) == ("GET", "role-id"):
            return 200, _envelope({"role_id": self.tokens.role(mount, name).role_id})
        if method in {"POST", "PUT"} and act == "secret-id":
            return 200, _envelope(self.tokens.new_secret_id(mount, name))
        if method in {"POST", "PUT"} and act is None:
            self.tokens.write_role(mount, name, body)
            return 204, None
        if method == "DELETE" and act is None:
            self.tokens.roles.pop((mount, name), None)
            return 204, None
        raise unsupported()

    def _sys(self, method: str, path: str, body: Mapping[str, Any]) -> Reply:
        kind, _, name = path.partition("/")
        if method == "GET":
            raise unsupported()
        if kind == "seal":
            self.sealed = True
        elif kind == "mounts":
            self.engines[name] = TransitEngine(self._mldsa)
        elif kind == "auth":
            self.approles.add(name)
        elif path.startswith("policies/acl/"):
            self.tokens.write_policy(path.removeprefix("policies/acl/"), body)
        elif path.startswith("leases/revoke-prefix/auth/"):
            self.tokens.revoke_of(path.split("/")[3])
        else:
            raise unsupported()
        return 204, None

    def _transit(self, engine: TransitEngine, method: str, path: str, body: Mapping[str, Any]) -> Reply:
        if (method, path) == ("GET", "wrapping_key"):
            return 200, _envelope({"public_key": engine.wrapping_key()})
        if found := _SIGN.fullmatch(path):
            return self._sign(engine, method, found, body)
        found = _KEYS.fullmatch(path)
        if found is None:
            raise RefusalError(404, "1 error occurred:\n\t* unsupported path\n\n")
        name, act = found["name"], found["act"]
        if method == "GET" and act is None:
            return 200, _envelope(engine.show(name))
        if method == "DELETE" and act is None:
            engine.delete(name)
            return 204, None
        if method not in {"POST", "PUT"}:
            raise unsupported()
        return self._change(engine, name, act, body)

    @staticmethod
    def _change(engine: TransitEngine, name: str, act: str | None, body: Mapping[str, Any]) -> Reply:
        if act is None:
            return 200, _envelope(engine.create(name, body))
        if act in {"import", "import_version"}:
            (engine.import_key if act == "import" else engine.import_version)(name, body)
            return 204, None
        acts: Mapping[str, Callable[[], dict[str, Any]]] = {
            "rotate": lambda: engine.rotate(name),
            "config": lambda: engine.configure(name, body),
            "trim": lambda: engine.trim(name, body),
        }
        return 200, _envelope(acts[act]())

    @staticmethod
    def _sign(engine: TransitEngine, method: str, found: re.Match[str], body: Mapping[str, Any]) -> Reply:
        if method not in {"POST", "PUT"}:
            raise unsupported()
        of_path = {"hash_algorithm": found["hash"]} if found["hash"] else {}
        return 200, _envelope(engine.sign(found["name"], {**body, **of_path}))


def _json(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise invalid("failed to parse JSON input: invalid character") from error
    if not isinstance(body, dict):
        raise invalid("failed to parse JSON input: json: cannot unmarshal into a map")
    return body


def _envelope(
    data: dict[str, Any] | None = None, *, auth: dict[str, Any] | None = None, warnings: list[str] | None = None
) -> dict[str, Any]:
    return {
        "request_id": str(uuid.uuid4()),
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": data,
        "wrap_info": None,
        "warnings": warnings or None,
        "auth": auth,
    }


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    vault: ClassVar[VaultSimulator]

    def handle_one_request(self) -> None:
        """A client that goes away is no event."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(min(length, _LARGEST + 1))
        fault = self.vault.faults.take(self.command, urlsplit(self.path).path.removeprefix("/v1/"))
        if fault is not None:
            time.sleep(fault.delay)
            if fault.hang_up == "before":
                self._hang_up()
                return
            if fault.status:
                self._send(fault.status, fault.body, fault.headers, fault.drip)
                return
        self._reply(raw, fault)

    def _reply(self, raw: bytes, fault: Fault | None) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            status, body = self.vault.answer(self.command, self.path, headers, raw)
        except RefusalError as refusal:
            status, body = refusal.status, {"errors": refusal.errors}
        if fault is not None and fault.hang_up == "after":
            self._hang_up()
            return
        if fault is not None and fault.change is not None and body is not None:
            fault.change(body)
        more = {"Location": f"{self.vault.leader}{self.path}"} if status == 307 else {}
        encoded = b"" if body is None or status == 307 else json.dumps(body).encode()
        self._send(status, encoded, {"Content-Type": "application/json", **more}, fault.drip if fault else 0.0)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], drip: float) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for octet in body if drip else b"":
            self.wfile.write(bytes([octet]))
            self.wfile.flush()
            time.sleep(drip)
        if not drip:
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = _handle  # noqa: N815 - the base class' names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Nothing to standard error."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - as the base class has it
        super().__init__(*args)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Remember the connection, so that none outlives the server."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Forget it again."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close what clients keep open, as a process that ends does."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in mid-handshake is no event."""


@contextmanager
def serving(vault: VaultSimulator, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The simulator on a port of the loopback; gives its address."""
    handler = type("Handler", (_Handler,), {"vault": vault})
    with _Server(("127.0.0.1", port), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.hang_up()
