"""The client's end of one TLS connection, asyncio; knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from pkicore.errors import HandshakeError, PkiError
from pkicore.mtls.engine import TlsEngine
from pkicore.mtls.peer import PeerIdentity

_READ_AHEAD = 256 * 1024
"""Decrypted bytes that may wait for a reader before the socket is no longer read."""


class TlsConnection(asyncio.Protocol):
    """Made by `loop.create_connection`; then `handshake`, `write` and `read`, one reader and one writer at a time.

    In TLS 1.3 a client's handshake ends before the server has looked at the client's certificate, so a refusal arrives
    only where the first answer was expected (RFC 8446 §2): until that answer, alerts are HandshakeErrors.

    Attributes:
        peer: the server, once it has been checked.
        is_connected: whether TCP is up, or was.
    """

    def __init__(self, engine: TlsEngine, admit: Callable[[TlsEngine], PeerIdentity], server: str) -> None:
        self._server = server
        self.peer: PeerIdentity | None = None
        self._engine = engine
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._received: deque[bytes] = deque()
        self._waiting = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._paused = False
        self._ended = False
        self._answered = False
        self._error: Exception | None = None

        self.is_connected = False
        self._raw: asyncio.Transport

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the ClientHello."""
        self._raw = cast("asyncio.Transport", transport)
        self.is_connected = True
        self._raw.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or decrypt."""
        if self._error is not None:
            return
        try:
            self._engine.receive(data)
            if self.peer is None and not self._shake_hands():
                return
            self._decrypt()
        except PkiError as error:
            self._fail(error)

    def pause_writing(self) -> None:
        """The socket takes no more: `write` waits."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._paused = False
        _wake(self._writer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if self._error is None:
            text = "the connection was closed without a close_notify" if exc is None else f"connection lost: {exc}"
            self._error = ConnectionResetError(text) if self.peer else self._early_end()
        self._wake_all()

    # What the owner calls.

    async def handshake(self) -> PeerIdentity:
        """Wait for the end of the handshake.

        Raises:
            HandshakeError: it failed.
            PeerMismatchError: the server is not the one that was meant.
        """
        await self._done
        return cast("PeerIdentity", self.peer)

    async def read(self, max_bytes: int) -> bytes:
        """The next decrypted bytes, b"" once the server has said that it is done.

        Raises:
            HandshakeError: the server refused our certificate.
            ConnectionError: the connection broke.
        """
        while not self._received:
            if self._error is not None and not self._ended:
                raise self._error
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            await self._reader
        chunk = self._received.popleft()
        if len(chunk) > max_bytes:
            self._received.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        was_full = self._waiting >= _READ_AHEAD
        self._waiting -= len(chunk)
        if was_full and self._waiting < _READ_AHEAD and not self._raw.is_closing():
            self._raw.resume_reading()
        return chunk

    async def write(self, data: bytes) -> None:
        """Encrypt and send; returns when the socket's buffer has room again.

        Raises:
            HandshakeError: the server refused our certificate.
            ConnectionError: the connection broke.
        """
        if self._error is not None:
            raise self._error
        self._engine.send(data)
        self._raw.write(self._engine.outgoing())
        while self._paused:
            self._writer = self._loop.create_future()
            await self._writer
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Send a close_notify and close."""
        if self.is_connected and not self._raw.is_closing():
            if self.peer is not None and self._error is None:
                self._engine.close()
                self._raw.write(self._engine.outgoing())
            self._raw.close()

    def abort(self, reason: Exception) -> None:
        """Close at once; whoever waits gets `reason`."""
        self._fail(reason)
        self._raw.abort()

    @property
    def is_spent(self) -> bool:
        """Whether an idle connection can no longer carry a request: ended, broken, or with bytes nobody asked for."""
        return bool(self._received) or self._ended or self._error is not None or self._raw.is_closing()

    @property
    def buffered(self) -> int:
        """Decrypted bytes that wait for a reader."""
        return self._waiting

    @property
    def engine(self) -> TlsEngine:
        """For what was negotiated."""
        return self._engine

    @property
    def transport(self) -> asyncio.Transport:
        """The raw transport, for socket names."""
        return self._raw

    # How it works.

    def _shake_hands(self) -> bool:
        """Nothing of our last flight, our certificate included, leaves before the server has been checked."""
        try:
            done = self._engine.handshake()
        except HandshakeError:
            self._raw.write(self._engine.outgoing())  # the alert
            raise
        if done:
            self.peer = self._admit(self._engine)
        self._raw.write(self._engine.outgoing())
        if done and not self._done.done():
            self._done.set_result(None)
        return done

    def _decrypt(self) -> None:
        while (data := self._engine.incoming()) is not None:
            if not data:
                self._ended = True
                break
            self._answered = True
            self._received.append(data)
            self._waiting += len(data)
        replies = self._engine.outgoing()
        if replies and not self._raw.is_closing():
            self._raw.write(replies)
        if self._waiting >= _READ_AHEAD and not self._raw.is_closing():
            self._raw.pause_reading()
        _wake(self._reader)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, HandshakeError):
            late, reason, cause = self._answered, error.reason, error.__cause__
            error = ConnectionAbortedError(reason) if late else HandshakeError(reason, error.peer or self._server)
            error.__cause__ = cause
        self._error = error
        self._raw.close()
        self._wake_all()

    def _wake_all(self) -> None:
        if not self._done.done() and self._error is not None:
            self._done.set_exception(self._error)
            self._done.exception()  # a handshake that nobody waits for any more is no lost exception
        _wake(self._reader)
        _wake(self._writer)

    def _early_end(self) -> HandshakeError:
        return HandshakeError("connection closed during the handshake", self._server)


async def open_connection(
    engine: TlsEngine, admission: Callable[[TlsEngine], PeerIdentity], host: str, port: int, seconds: float
) -> TlsConnection:
    """TCP and TLS, under one timer.

    Raises:
        HandshakeError: TLS failed or took too long.
        PeerMismatchError: the server is not the one that was meant.
        OSError: TCP failed; TimeoutError is one, too.
    """
    loop = asyncio.get_running_loop()
    connection = TlsConnection(engine, admission, f"{host}:{port}")
    try:
        async with asyncio.timeout(seconds):
            await loop.create_connection(lambda: connection, host, port)
            await connection.handshake()
    except TimeoutError as error:
        if not connection.is_connected:
            raise
        raise HandshakeError("handshake timeout", f"{host}:{port}") from error
    finally:
        if connection.peer is None:
            connection.close()
    return connection


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
