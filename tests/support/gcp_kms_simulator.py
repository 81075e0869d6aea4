"""SIMULATOR of Cloud KMS (not Google's code): a real gRPC server on loopback with the service's messages and rules.

Like the real service: messages, field rules, CRC32C, states, status codes, permissions by name, TLS, self-signed tokens
of a service account. `Faults` makes it misbehave; `Relay` stands in for the network. What it is not like:
see `gcp_kms_resources`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.cloud import kms_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tests.support.gcp_kms_resources import Code, RefusalError, Resources, require

SERVICE = "google.cloud.kms.v1.KeyManagementService"
DETAIL = "simulated secret detail"
Change = Callable[[Any], Any]


@dataclass
class Failure:
    """A status to fail with, `left` times; after `skip` others; `words` contradict it in its details."""

    code: grpc.StatusCode
    left: int
    method: str = ""
    after: bool = False
    retry_delay: float | None = None
    words: str = ""
    skip: int = 0


@dataclass
class Faults:
    """What goes wrong next.

    Attributes:
        delay: seconds before each answer.
        denied: permissions that the account does not have.
        granted: the only permissions that it has; None: all.
    """

    delay: float = 0.0
    denied: set[str] = field(default_factory=set)
    granted: frozenset[str] | None = None
    failures: list[Failure] = field(default_factory=list)
    changes: list[tuple[str, Change]] = field(default_factory=list)

    def fail_next(
        self, code: grpc.StatusCode, count: int = 1, method: str = "", *, retry_delay: float | None = None
    ) -> None:
        """Fail the next requests, of one method or any, before they do anything."""
        self.failures.append(Failure(code, count, method, retry_delay=retry_delay))

    def skip_then_fail(self, skipped: int, code: grpc.StatusCode, method: str) -> None:
        """Let some requests of the method pass, and fail the one after them."""
        self.failures.append(Failure(code, 1, method, skip=skipped))

    def lose_answer(self, method: str, code: grpc.StatusCode = Code.UNAVAILABLE) -> None:
        """Do what the next request of the method asks, and fail then."""
        self.failures.append(Failure(code, 1, method, after=True))

    def change_next(self, method: str, change: Change, count: int = 1) -> None:
        """Put the next answers of the method through a function; octets are sent as they are."""
        self.changes.extend([(method, change)] * count)

    def take(self, method: str, *, after: bool) -> Failure | None:
        """The failure that is due now, if any."""
        for failure in self.failures:
            if failure.left > 0 and failure.after == after and failure.method in {"", method}:
                if failure.skip > 0:
                    failure.skip -= 1
                    continue
                failure.left -= 1
                return failure
        return None

    def changed(self, method: str, answer: Any) -> Any:  # noqa: ANN401 - a message of any method
        """The answer, changed if that is due."""
        for at, (wanted, change) in enumerate(self.changes):
            if wanted == method:
                del self.changes[at]
                return change(answer)
        return answer


@dataclass
class ServiceAccount:
    """The only account that a simulator with TLS lets in, known by the tokens that it signs itself."""

    email: str
    public_key: rsa.RSAPublicKey

    def check(self, metadata: dict[str, str], address: str) -> None:
        """Refuse a request without a good token (RFC 7519, RS256; Google's AIP-4111)."""
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        require(scheme == "Bearer" and token.count(".") == 2, "no token", Code.UNAUTHENTICATED)
        signed, _, signature = token.rpartition(".")
        try:
            self.public_key.verify(_unbase64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise RefusalError(Code.UNAUTHENTICATED, "the token's signature") from error
        claims = json.loads(_unbase64(signed.partition(".")[2]))
        require(claims["iss"] == self.email, "iss", Code.UNAUTHENTICATED)
        require(claims["exp"] > time.time(), "the token has expired", Code.UNAUTHENTICATED)
        meant = claims.get("aud", "").startswith(f"https://{address}") or "cloudkms" in claims.get("scope", "")
        require(meant, "the token is for somebody else", Code.UNAUTHENTICATED)


class GcpKmsSimulator:
    """The server; its resources survive `kill` and `start`.

    Attributes:
        resources: rings, keys and versions.
        faults: what goes wrong next.
        requests: how many of each method have come in.
        peak: the most that were under way at once.
        port: on 127.0.0.1, the same after a restart.
    """

    def __init__(
        self, resources: Resources, tls: tuple[bytes, bytes] | None = None, account: ServiceAccount | None = None
    ) -> None:
        """Args: resources; TLS key and certificate chain as PEM; the account to let in."""
        self.resources = resources
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.peak = 0
        self._under_way = 0
        self.port = 0
        self._tls = tls
        self._account = account
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        if self._tls is None:
            self.port = self._server.add_insecure_port(self.address)
        else:
            credentials = grpc.ssl_server_credentials((self._tls,))
            self.port = self._server.add_secure_port(self.address, credentials)
        await self._server.start()

    async def kill(self) -> None:
        """Stop listening and give up what is under way, without a word."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _handlers(self) -> grpc.GenericRpcHandler:
        res = self.resources
        methods: tuple[tuple[str, str, Callable[[Any], object], Any], ...] = (
            ("CreateKeyRing", "keyRings.create", res.make_ring, kms_v1.CreateKeyRingRequest),
            ("ListKeyRings", "keyRings.list", res.list_rings, kms_v1.ListKeyRingsRequest),
            ("CreateCryptoKey", "cryptoKeys.create", res.make_key, kms_v1.CreateCryptoKeyRequest),
            ("GetCryptoKey", "cryptoKeys.get", lambda r: res.key(r.name).message, kms_v1.GetCryptoKeyRequest),
            (
                "CreateCryptoKeyVersion",
                "cryptoKeyVersions.create",
                res.make_version,
                kms_v1.CreateCryptoKeyVersionRequest,
            ),
            (
                "GetCryptoKeyVersion",
                "cryptoKeyVersions.get",
                lambda r: res.version(r.name).message,
                kms_v1.GetCryptoKeyVersionRequest,
            ),
            ("ListCryptoKeyVersions", "cryptoKeyVersions.list", res.list_versions, kms_v1.ListCryptoKeyVersionsRequest),
            (
                "UpdateCryptoKeyVersion",
                "cryptoKeyVersions.update",
                res.update_version,
                kms_v1.UpdateCryptoKeyVersionRequest,
            ),
            (
                "DestroyCryptoKeyVersion",
                "cryptoKeyVersions.destroy",
                res.destroy_version,
                kms_v1.DestroyCryptoKeyVersionRequest,
            ),
            (
                "RestoreCryptoKeyVersion",
                "cryptoKeyVersions.restore",
                res.restore_version,
                kms_v1.RestoreCryptoKeyVersionRequest,
            ),
            ("GetPublicKey", "cryptoKeyVersions.viewPublicKey", res.public_key, kms_v1.GetPublicKeyRequest),
            ("AsymmetricSign", "cryptoKeyVersions.useToSign", res.sign, kms_v1.AsymmetricSignRequest),
        )
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._method(name, f"cloudkms.{permission}", act),
                    request_deserializer=request.deserialize,
                    response_serializer=_serialized,
                )
                for name, permission, act, request in methods
            },
        )

    def _method(
        self, name: str, permission: str, act: Callable[[Any], object]
    ) -> Callable[[Any, Any], Awaitable[object]]:
        async def answer(request: Any, context: Any) -> object:  # noqa: ANN401 - what gRPC hands in
            self.requests[name] += 1
            await self._wait()
            await self._fail(context, self.faults.take(name, after=False))
            try:
                if self._account is not None:
                    self._account.check(dict(context.invocation_metadata()), "127.0.0.1")
                self._permit(permission)
                result = act(request)
            except RefusalError as refusal:
                await context.abort(refusal.code, refusal.message)
                raise  # not reached: abort raises
            await self._fail(context, self.faults.take(name, after=True))
            return self.faults.changed(name, result)

        return answer

    async def _wait(self) -> None:
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            await asyncio.sleep(self.faults.delay)
        finally:
            self._under_way -= 1

    def _permit(self, permission: str) -> None:
        faults = self.faults
        allowed = permission not in faults.denied and (faults.granted is None or permission in faults.granted)
        require(allowed, f"Permission '{permission}' denied on resource (or it may not exist).", Code.PERMISSION_DENIED)

    @staticmethod
    async def _fail(context: Any, failure: Failure | None) -> None:  # noqa: ANN401 - what gRPC hands in
        if failure is None:
            return
        trailer: tuple[tuple[str, bytes], ...] = ()
        if failure.retry_delay is not None:
            detail = AnyMessage()
            detail.Pack(RetryInfo(retry_delay=Duration(nanos=int(failure.retry_delay * 1e9))))
            status = Status(code=failure.code.value[0], message=failure.words or DETAIL, details=[detail])
            trailer = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(failure.code, DETAIL, trailing_metadata=trailer)


def _serialized(answer: Any) -> bytes:  # noqa: ANN401 - a message of any method, or octets as they are
    return answer if isinstance(answer, bytes) else type(answer).serialize(answer)


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@asynccontextmanager
async def simulator(
    resources: Resources, tls: tuple[bytes, bytes] | None = None, account: ServiceAccount | None = None
) -> AsyncIterator[GcpKmsSimulator]:
    """A server that listens, and is gone afterwards."""
    server = GcpKmsSimulator(resources, tls, account)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


class Relay:
    """SIMULATOR of the network between client and server: it can cut, stall and refuse.

    Attributes:
        port: where clients connect.
        flowing: cleared, no octet is handed on.
    """

    def __init__(self, target: int) -> None:
        """Args: the server's port on 127.0.0.1."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection and listen no more, as when the server's process is killed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.flowing.set()
        self.cut()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except ConnectionError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while octets := await reader.read(65536):
                await self.flowing.wait()
                writer.write(octets)
                await writer.drain()
        writer.transport.abort()
