"""AWS KMS, simulated over real HTTP on loopback; the unmodified SDK talks to it.

As the service does, it checks SigV4, the JSON protocol, its own service model (requests and replies), an IAM policy,
key states, aliases and tags. It can be told to fail: see `fail`, `delay`, `drop`, `garble`, `alter`, `kill`.
Real are the SDK, the sockets and the signatures; the rules are in aws_kms_account.py, with what is not faithful there.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Literal, Self

from tests.support.aws_iam import IamPolicy
from tests.support.aws_kms_account import ACCOUNT, Fields, KmsAccount
from tests.support.aws_model import ModelError, decoded, encoded, operations
from tests.support.aws_sigv4 import AwsError, Credentials, SignedRequest, check_signature

TARGET: Final = "TrentService."
CONTENT_TYPE: Final = "application/x-amz-json-1.1"
NEW_KEY: Final = "00000000-0000-0000-0000-000000000000"
MAX_BODY: Final = 256 * 1024
METHODS: Final = {
    "CreateKey": "create_key",
    "DescribeKey": "describe_key",
    "GetPublicKey": "get_public_key",
    "Sign": "sign",
    "EnableKey": "enable_key",
    "DisableKey": "disable_key",
    "ScheduleKeyDeletion": "schedule_key_deletion",
    "CancelKeyDeletion": "cancel_key_deletion",
    "CreateAlias": "create_alias",
    "ListAliases": "list_aliases",
    "ListKeys": "list_keys",
    "ListResourceTags": "list_resource_tags",
}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of an operation (None: of any)."""

    operation: str | None
    times: int
    seconds: float = 0.0
    error: AwsError | None = None
    headers: tuple[tuple[str, str], ...] = ()
    drop: Literal["", "before", "after"] = ""
    raw: bytes | None = None
    change: Callable[[Fields], Fields] | None = None


class AwsKmsSimulator:
    """One endpoint of one account.

    Attributes:
        account: keys, aliases, tags.
        principals: who may sign requests, by access key id.
        policy: what they may do; None: everything.
        skew: how far the service's clock is ahead of this machine's.
        calls: the operations that were asked for and passed the checks before the policy, counted.
        broken_replies: replies of ours that the service model does not allow; must stay empty.
    """

    def __init__(self, region: str = "eu-central-1", tls: ssl.SSLContext | None = None) -> None:
        self.region = region
        self.account = KmsAccount(region, self.now)
        self.credentials = Credentials("AKIDSIMULATED0000000", "simulated/secret")
        self.principals = {self.credentials.key_id: self.credentials}
        self.policy: IamPolicy | None = None
        self.skew = timedelta(0)
        self.calls: Counter[str] = Counter()
        self.broken_replies: list[str] = []
        self.port = 0
        self._faults: list[Fault] = []
        self._tls = tls
        self._model = operations("kms")
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def now(self) -> datetime:
        """The service's clock."""
        return datetime.now(UTC) + self.skew

    def start(self) -> Self:
        """Open the socket: a free port the first time, the same one again after `kill`."""
        self._server = _Server(("127.0.0.1", self.port), self, self._tls)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def kill(self) -> None:
        """Close the socket and every connection, in mid-request too."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.end()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    # faults

    def fail(
        self,
        code: str,
        *,
        status: int = 400,
        times: int = 1,
        operation: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Answer with an error."""
        headers = (("Retry-After", str(retry_after)),) if retry_after is not None else ()
        self._faults.append(Fault(operation, times, error=AwsError(code, "as told", status), headers=headers))

    def delay(self, seconds: float, *, times: int = 1, operation: str | None = None) -> None:
        """Do what is asked, and answer late."""
        self._faults.append(Fault(operation, times, seconds=seconds))

    def drop(self, when: Literal["before", "after"], *, times: int = 1, operation: str | None = None) -> None:
        """Close the connection instead of answering, before or after doing what is asked."""
        self._faults.append(Fault(operation, times, drop=when))

    def garble(self, raw: bytes, *, times: int = 1, operation: str | None = None) -> None:
        """Do what is asked, and answer 200 with these octets."""
        self._faults.append(Fault(operation, times, raw=raw))

    def alter(self, operation: str, change: Callable[[Fields], Fields], *, times: int = 1) -> None:
        """Do what is asked, and answer something a little different."""
        self._faults.append(Fault(operation, times, change=change))

    def recover(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    # serving

    def fault_for(self, operation: str) -> Fault:
        """The fault that is due, or one that does nothing."""
        with self._lock:
            for fault in self._faults:
                if fault.operation in {None, operation} and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault(None, 0)

    def answer(self, operation: str, request: SignedRequest, fault: Fault) -> bytes:
        """The body of a good answer.

        Raises:
            AwsError: what the service answers instead.
        """
        if operation not in METHODS:
            raise AwsError("UnknownOperationException")
        principal = check_signature(request, self.principals, self.region, self.now())
        if request.headers.get("content-type") != CONTENT_TYPE:
            raise AwsError("SerializationException", "content type")
        asked = self._decoded(operation, request.body)
        with self._lock:
            self.calls[operation] += 1
            if self.policy is not None:
                self._check_policy(principal, operation, asked)
            if fault.error is not None:
                raise fault.error
            done = getattr(self.account, METHODS[operation])(asked)
        reply = self._encoded(operation, done)
        return json.dumps(fault.change(reply) if fault.change else reply).encode()

    def _decoded(self, operation: str, body: bytes) -> Fields:
        try:
            found = json.loads(body)
        except ValueError:
            raise AwsError("SerializationException", "this is not JSON") from None
        try:
            asked: Fields = decoded(self._model[operation].input_shape, found)
        except ModelError as error:
            raise AwsError("ValidationException", str(error)) from None
        return asked

    def _encoded(self, operation: str, reply: Fields) -> Any:  # noqa: ANN401 - as JSON has it
        try:
            return encoded(self._model[operation].output_shape, reply)
        except ModelError as error:
            self.broken_replies.append(f"{operation}: {error}")
            raise AwsError("InternalFailure", "the simulator is wrong", 500) from None

    def _check_policy(self, principal: str, operation: str, asked: Fields) -> None:
        assert self.policy is not None
        named = str(asked.get("TargetKeyId") or asked.get("KeyId", ""))
        key_id = self.account.aliases.get(named, named.rpartition("/")[2])
        key = self.account.keys.get(key_id)
        request_tags = {row["TagKey"]: row["TagValue"] for row in asked.get("Tags", [])}
        base = f"arn:aws:kms:{self.region}:{ACCOUNT}:"
        wanted = [(operation, key.arn if key else "*", key.tags if key else {})]
        if "AliasName" in asked:
            wanted.append((operation, f"{base}{asked['AliasName']}", {}))
        if request_tags:
            wanted.append(("TagResource", f"{base}key/{NEW_KEY}", {}))
        for act, resource, tags in wanted:
            if not self.policy.allows(f"kms:{act}", resource, resource_tags=tags, request_tags=request_tags):
                raise AwsError("AccessDeniedException", f"{principal} is not authorized to perform: kms:{act}")


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that they can be cut."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], simulator: AwsKmsSimulator, tls: ssl.SSLContext | None) -> None:
        super().__init__(address, _Handler)
        self.simulator = simulator
        self.ending = threading.Event()
        self.connections: set[socket.socket] = set()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def end(self) -> None:
        """Cut every connection and close the socket."""
        self.ending.set()
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError):  # it may have ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-request is what the tests are about; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        """One request."""
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BODY:
            self._send(413, b"", {})
            self.close_connection = True
            return
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = headers.get("x-amz-target", "")
        operation = target.removeprefix(TARGET) if target.startswith(TARGET) else ""
        self._serve(operation, SignedRequest("POST", self.path, headers, body))

    def _serve(self, operation: str, request: SignedRequest) -> None:
        simulator = self.server.simulator
        fault = simulator.fault_for(operation)
        if fault.drop == "before":
            self.close_connection = True
            return
        status, sent = 200, dict(fault.headers)
        try:
            reply = simulator.answer(operation, request, fault)
        except AwsError as error:
            status = error.status
            reply = json.dumps({"__type": error.code, "message": error.message}).encode()
        if self.server.ending.wait(fault.seconds) or fault.drop:
            self.close_connection = True
            return
        self._send(status, reply if fault.raw is None else fault.raw, sent)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Date", format_datetime(self.server.simulator.now(), usegmt=True))
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
