"""A service as the TLS tests need it: uvicorn with a bare ASGI app behind a `TlsListener`, in the test's own loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import uvicorn
from cryptography import x509

from pkicore.clock import Clock, SystemClock
from pkicore.mtls import CrlCache, StapleCache, TlsListener
from tests.support.tls_pki import TlsPki

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Handshake:
    """What the observer was told."""

    listener: str
    result: str
    reason: str
    peer: str | None
    group: str | None
    client: str | None


@dataclass
class Recorder:
    """A handshake observer that remembers."""

    handshakes: list[Handshake] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def handshake(
        self,
        *,
        listener: str,
        result: Literal["success", "failure"],
        reason: str,
        peer: str | None,
        group: str | None,
        client: str | None,
    ) -> None:
        """Remember."""
        self.handshakes.append(Handshake(listener, result, reason, peer, group, client))
        self.heard.set()

    async def last(self) -> Handshake:
        """The newest one; waits for the first."""
        async with asyncio.timeout(20):
            await self.heard.wait()
        return self.handshakes[-1]


@dataclass
class CrlPublisher:
    """Where the cache fetches from: the test decides what is served, and whether it is up."""

    crls: dict[x509.Certificate, bytes] = field(default_factory=dict)
    fetched: int = 0

    async def fetch(self, issuer: x509.Certificate) -> bytes:
        """The CRL of an issuer, or an error as a network has them."""
        self.fetched += 1
        if issuer not in self.crls:
            raise ConnectionRefusedError("the publisher is down")
        return self.crls[issuer]

    def publish(self, pki: TlsPki) -> None:
        """New CRLs of both CAs."""
        self.crls[pki.root.certificate] = pki.root.crl()
        self.crls[pki.issuing.certificate] = pki.issuing.crl()


@dataclass
class Errors:
    """What the caches report."""

    seen: list[Exception] = field(default_factory=list)

    def __call__(self, _certificate: x509.Certificate, error: Exception) -> None:
        """Remember."""
        self.seen.append(error)


async def crl_cache(
    pki: TlsPki,
    publisher: CrlPublisher,
    *,
    directory: Path | None = None,
    clock: Clock | None = None,
    errors: Errors | None = None,
    max_staleness: timedelta = timedelta(hours=1),
    also: tuple[x509.Certificate, ...] = (),
) -> CrlCache:
    """A cache of both CAs and whom the test adds, refreshed once."""
    cache = CrlCache(
        (*pki.issuers, *also),
        publisher.fetch,
        directory,
        clock or SystemClock(),
        max_staleness,
        on_error=errors or Errors(),
    )
    await cache.refresh()
    return cache


def staple_cache(pki: TlsPki, *, directory: Path | None = None, clock: Clock | None = None) -> StapleCache:
    """A cache whose responder always says good."""

    async def fetch(certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
        return pki.issuing.staple(certificate)

    return StapleCache(fetch, directory, clock or SystemClock(), on_error=Errors())


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says who asks on /, echoes bodies on /echo, counts them on /count, answers late on /slow, at length on /big."""
    body = b"".join([part async for part in _body(receive)]) if scope["path"] != "/count" else b""
    answer = body
    if scope["path"] == "/count":
        answer = str(sum([len(part) async for part in _body(receive)])).encode()
    elif scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    elif scope["path"].startswith("/big/"):
        await _send_big(send, int(scope["path"].removeprefix("/big/")))
        return
    elif scope["path"] == "/":
        peer = scope["state"]["peer"]
        answer = (peer.name if peer else "nobody").encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        yield message["body"]


async def _send_big(send: Send, megabytes: int) -> None:
    headers = [(b"content-length", str(megabytes << 20).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(megabytes):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serve(
    listener: TlsListener, application: Callable[[Scope, Receive, Send], Awaitable[None]] = app, *, keep_alive: int = 60
) -> AsyncIterator[int]:
    """Serve on a free loopback port, which is given."""
    await listener.open()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        application,
        http=listener.protocol_class,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=5,
    )
    server = LoopServer(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await server.listening.wait()
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        await listener.aclose()
        sock.close()


class LoopServer(uvicorn.Server):
    """Uvicorn without its signal handlers, which says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listening.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`."""
        await self._serve(sockets)
