"""The HTTP protocol of listeners that have answers ready (`services.chassis.prepared`).

Where a connection brings a plain request (`services.chassis.plain_request`) whose answer is ready, that is written at
once. All the rest goes the normal way: the octets are handed to `BoundedHttpProtocol`, which is made when it is first
needed, and gets all that comes until it has answered everything it was handed. So no answer overtakes another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from services.chassis.http_protocol import BoundedHttpProtocol
from services.chassis.plain_request import read_plain

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    from services.chassis.prepared import PreparedAnswers

MAX_AT_ONCE: Final = 64
"""Answers to one segment of pipelined requests; what is behind them goes the normal way."""


class PreparedHttpProtocol(asyncio.Protocol):
    """HTTP/1.1 that writes what is ready, and leaves the rest to `BoundedHttpProtocol`."""

    answers: ClassVar[PreparedAnswers]
    normal: ClassVar[type[BoundedHttpProtocol]] = BoundedHttpProtocol

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config, self._state, self._app_state = config, server_state, app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._http: BoundedHttpProtocol | None = None
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("HttpToolsProtocol", self))
        seconds = self.normal.head_seconds
        self._deadline = self._loop.time() + seconds
        self._timer = self._loop.call_later(min(seconds, self._config.timeout_keep_alive), self._look_at_the_clock)

    def data_received(self, data: bytes) -> None:
        """Answer what is ready; hand on what is not."""
        if self._may_answer():
            data = self._answer(data)
        if data:
            http = self._http or self._normal_way()
            http.data_received(data)

    def eof_received(self) -> None:
        """The caller sends no more: the transport is closed when what was written is out."""
        if self._http is not None:
            self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._state.connections.discard(cast("HttpToolsProtocol", self))
        if self._http is not None:
            self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller does not read: from here on the normal way, which waits for it."""
        self._is_paused = True
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """The caller reads again."""
        self._is_paused = False
        if self._http is not None:
            self._http.resume_writing()

    def shutdown(self) -> None:
        """The server stops; nothing is due here, or the normal protocol would have been told instead."""
        self._transport.close()

    def _may_answer(self) -> bool:
        if self._is_paused or self._transport.is_closing():
            return False
        limit = self._config.limit_concurrency
        return (self._http is None or self._http.is_idle) and (limit is None or len(self._state.connections) < limit)

    def _answer(self, data: bytes) -> bytes:
        """Write the answers that are ready; what is left of the data."""
        at, count, pieces = 0, 0, list[bytes]()
        while at < len(data) and count < MAX_AT_ONCE:
            request = read_plain(data, at)
            answer = None if request is None else self.answers.answer(request, self._state.default_headers)
            if request is None or answer is None:
                break
            pieces += answer
            at, count = request.end, count + 1
            if request.close:
                self._transport.write(b"".join(pieces))
                self._transport.close()
                self._state.total_requests += count
                return b""
        if count:
            self._transport.write(b"".join(pieces))
            self._state.total_requests += count
            self._rest()
        return data[at:]

    def _rest(self) -> None:
        """Wait for the next request."""
        if self._http is None:
            self._deadline = self._loop.time() + self._config.timeout_keep_alive
        else:
            self._http.restart_keep_alive()

    def _normal_way(self) -> BoundedHttpProtocol:
        """The protocol that has all the rest; it has no more time for the first head than is left."""
        left = self._deadline - self._loop.time()
        self._stop_timer()
        self._state.connections.discard(cast("HttpToolsProtocol", self))
        self._http = http = self.normal(self._config, self._state, self._app_state, self._loop)
        http.connection_made(self._transport, min(left, self.normal.head_seconds))
        if self._is_paused:
            http.pause_writing()
        return http

    def _look_at_the_clock(self) -> None:
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_the_clock)
        else:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol_class(prepared: PreparedAnswers) -> type[asyncio.Protocol]:
    """What `uvicorn.Config(http=...)` takes for a listener with these answers."""

    class ListenerProtocol(PreparedHttpProtocol):
        answers = prepared

    return ListenerProtocol
