"""One accepted connection: handshake, then TLS records between the socket and uvicorn's own HTTP protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pkicore.errors import HandshakeError
from pkicore.mtls.engine import TlsEngine
from pkicore.mtls.framing import FramedHttpProtocol
from pkicore.mtls.peer import PeerIdentity
from pkicore.mtls.revocation import ListMissingError
from pkicore.mtls.transport import TlsTransport

if TYPE_CHECKING:
    from pkicore.mtls.server import TlsListener

_MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""

_UNREAD_REPLIES = 64 * 1024
"""Bytes that a peer which reads nothing may make us produce (alerts, key updates) before it is cut off."""


class TlsServerProtocol(asyncio.Protocol):
    """What uvicorn makes for each accepted socket; `TlsListener.protocol_class` binds it to its listener."""

    listener: ClassVar[TlsListener]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.peer: PeerIdentity | None = None
        self._client: str | None = None
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._engine: TlsEngine = self.listener.engine()
        self._http: HttpToolsProtocol | None = None
        self._admission: asyncio.Task[None] | None = None
        self._refused = False
        self._peer_done = False
        self._paused = False
        self._unread_replies = 0
        self._head_since: float | None = None
        self._head_bytes = 0
        self._received_at = 0.0
        self._unsent = 0
        self._unsent_since = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake and its timer."""
        self._raw = cast("asyncio.Transport", transport)
        self._client = (self._raw.get_extra_info("peername") or (None,))[0]
        # asyncio sets it only on sockets whose proto it knows; without it each answer may wait 40 ms for an ACK.
        self._raw.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server_state.connections.add(cast("HttpToolsProtocol", self))
        self._timer = self._loop.call_later(self.listener.timeouts.handshake, self._handshake_timeout)

    def data_received(self, data: bytes) -> None:
        """Decrypt, or go on with the handshake."""
        if self._refused or self._raw.is_closing():
            return
        try:
            self._engine.receive(data)
            if self._admission is not None and self._http is None:
                return
            if self._http is None and not self._shake_hands():
                return
            self._deliver()
        except HandshakeError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        """The socket's other half is closed; True keeps ours open for an answer that is still due."""
        return self._peer_done and self._answer_due()

    def pause_writing(self) -> None:
        """The socket takes no more: tell the HTTP protocol."""
        self._paused = True
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._paused = False
        self._unread_replies = self._unsent = 0
        if self._http is not None:
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        if self._admission is not None:
            self._admission.cancel()
        self.listener.connections.discard(self)
        self._server_state.connections.discard(cast("HttpToolsProtocol", self))
        if self._http is not None:
            self._http.connection_lost(exc)
        elif not self._refused:
            self._report(HandshakeError("connection closed during the handshake"))

    # What the listener and uvicorn call.

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    def shutdown(self) -> None:
        """Abort, as uvicorn is stopping: a connection without a request has nothing to finish."""
        self._raw.abort()

    @property
    def buffered(self) -> int:
        """Encrypted bytes that the socket has not taken yet."""
        return self._raw.get_write_buffer_size()

    # How it works.

    def _shake_hands(self) -> bool:
        done = self._engine.handshake()
        self._flush()
        if not done:
            return False
        try:
            self._admit()
        except HandshakeError as error:
            if not isinstance(error.__cause__, ListMissingError):
                raise
            self._raw.pause_reading()
            self._admission = self._loop.create_task(self._admit_later(error.__cause__))
            return False
        return True

    def _admit(self) -> None:
        self.peer = self.listener.admit(self._engine)
        self._open()

    async def _admit_later(self, missing: ListMissingError) -> None:
        """Decide once the lists that the peer's certificate names are at hand; the handshake's timer still runs."""
        await self.listener.take_up(missing)
        if self._refused or self._raw.is_closing():
            return
        try:
            self._admit()
            self._raw.resume_reading()
            self._deliver()
        except HandshakeError as error:
            self._fail(error)
        except BaseException:
            self._raw.abort()
            raise

    def _open(self) -> None:
        self._timer.cancel()
        self._report(None)
        self.listener.connections.add(self)
        state = {**self._app_state, "peer": self.peer}
        self._http = FramedHttpProtocol(self._config, self._server_state, state, self._loop)
        self._server_state.connections.discard(cast("HttpToolsProtocol", self))
        self._http.connection_made(TlsTransport(self._raw, self._engine, self._closing))
        self._head_since = self._loop.time()
        self._watch_again(self._watch)

    def _deliver(self) -> None:
        http = cast("HttpToolsProtocol", self._http)
        self._received_at = self._loop.time()
        while not http.transport.is_closing():
            data = self._engine.incoming()
            if data is None:
                break
            if not data:
                self._close_notified(http)
                break
            self._feed(http, data)
        self._flush()

    def _feed(self, http: HttpToolsProtocol, data: bytes) -> None:
        """The parser bounds neither the time nor the bytes of a request's head, so they are bounded here."""
        if _awaits_request(http):
            self._head_since = self._head_since or self._received_at
            self._head_bytes += len(data)
        http.data_received(data)
        if not _awaits_request(http):
            self._head_since = None
            self._head_bytes = 0
        elif self._head_bytes > _MAX_HEAD:
            self._raw.abort()

    def _close_notified(self, http: HttpToolsProtocol) -> None:
        """The peer sends no more (RFC 8446 §6.1): a whole request is still answered, half of one is not."""
        self._peer_done = True
        if _awaits_request(http) or self._answer_due():
            http.shutdown()
        else:
            self._raw.abort()

    def _answer_due(self) -> bool:
        http = self._http
        return http is not None and not _awaits_request(http) and not http.cycle.more_body

    def _flush(self) -> None:
        replies = self._engine.outgoing()
        if not replies:
            return
        self._raw.write(replies)
        if self._paused:
            self._unread_replies += len(replies)
            if self._unread_replies > _UNREAD_REPLIES:
                self._raw.abort()

    def _fail(self, error: HandshakeError) -> None:
        if self._http is not None:
            self._http.transport.close()
            return
        self._refused = True
        self._report(error)
        self._engine.close()
        self._flush()
        # Closing now would reset the connection under bytes still on their way, and the peer would lose our alert.
        self._timer.cancel()
        self._timer = self._loop.call_later(self.listener.timeouts.close, self._raw.abort)
        if not self._raw.is_closing():
            self._raw.write_eof()

    def _handshake_timeout(self) -> None:
        self._refused = True
        self._report(HandshakeError("handshake timeout"))
        self._raw.abort()

    def _report(self, error: HandshakeError | None) -> None:
        known = None if self.peer is None else self.peer.name
        self.listener.observer.handshake(
            listener=self.listener.name,
            result="success" if error is None else "failure",
            reason="" if error is None else error.reason,
            peer=known if error is None else error.peer or known,
            group=self._engine.group,
            client=self._client,
        )

    def _watch(self) -> None:
        """Cut off a peer that dawdles over a request's head, its body, or reading the answer; let an expired one go."""
        now, timeouts = self._loop.time(), self.listener.timeouts
        http = cast("HttpToolsProtocol", self._http)
        if self.peer is not None and self.listener.clock.now() > self.peer.expires:
            http.shutdown()
        if _awaits_request(http):
            slow = self._head_since is not None and now - self._head_since > timeouts.request_head
        else:
            if not self._raw.is_reading():
                self._received_at = now  # it is the application that takes its time
            slow = http.cycle.more_body and now - self._received_at > timeouts.stall
        if slow or (self._paused and self._unsent_for(now) > timeouts.stall):
            self._raw.abort()
        elif not http.transport.is_closing():
            self._watch_again(self._watch)

    def _closing(self) -> None:
        self._unsent = 0
        self._watch_again(self._watch_close)

    def _watch_close(self) -> None:
        if self._unsent_for(self._loop.time()) > self.listener.timeouts.close:
            self._raw.abort()
        else:
            self._watch_again(self._watch_close)

    def _watch_again(self, watch: Callable[[], None]) -> None:
        self._timer.cancel()
        timeouts = self.listener.timeouts
        self._timer = self._loop.call_later(min(timeouts.request_head, timeouts.stall, timeouts.close) / 2, watch)

    def _unsent_for(self, now: float) -> float:
        """Seconds since the socket last took something of what is buffered for it."""
        unsent = self._raw.get_write_buffer_size()
        if unsent < self._unsent or not self._unsent:
            self._unsent_since = now
        self._unsent = unsent
        return now - self._unsent_since


def _awaits_request(http: HttpToolsProtocol) -> bool:
    """Whether every request that came is answered (uvicorn types `cycle` as always set, but begins with None)."""
    cycle: RequestResponseCycle | None = http.cycle
    return cycle is None or cycle.response_complete
