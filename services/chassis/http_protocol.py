"""uvicorn's HTTP protocol with what it lacks against slow and endless requests.

uvicorn starts its keep-alive timer only after the first response, and llhttp bounds neither header count nor size. So a
connection here has a time for each request's head, and a number of bytes.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pkicore.mtls.framing import FramedHttpProtocol

HEAD_BYTES = 32 * 1024
"""Request line and headers together."""
HEAD_SECONDS = 10.0
"""From the connection, or the head's first byte, to its last."""


class BoundedHttpProtocol(FramedHttpProtocol):
    """HTTP/1.1 whose request heads are bounded in size and time."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments, handed on
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_begun = False
        self._head_complete = False
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether every request was read to its end and answered, and no other has begun."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn's type forgets that there is none at first
        between = not (self._head_begun or self._head_complete or self.pipeline)
        return between and (cycle is None or cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport, seconds: float | None = None) -> None:  # type: ignore[override] # as uvicorn's
        """Begins to wait for the first request's head, for so many seconds where the connection has stood before."""
        super().connection_made(transport)
        self._await_head(seconds)

    def restart_keep_alive(self) -> None:
        """Somebody else has answered on this connection: the wait for the next request begins anew."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer with the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of a head while it is incomplete."""
        if not self._head_complete:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if self._head_begun and self._head_timer is None:  # the data ended within the next request's head
            self._await_head()
        if not self._head_complete and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        """A new head begins."""
        super().on_message_begin()
        self._head_begun = True
        self._head_complete = False

    def on_headers_complete(self) -> None:
        """The head is complete: its bounds no longer apply."""
        self._head_begun = False
        self._head_complete = True
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next is a head again."""
        super().on_message_complete()
        self._head_complete = False

    def _await_head(self, seconds: float | None = None) -> None:
        wait = self.head_seconds if seconds is None else seconds
        self._head_timer = self.loop.call_later(wait, self._head_too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn's type forgets that there is none at first
        if cycle is not None and not cycle.response_complete:
            self._await_head()  # the answer before it is still being made
        elif not self.transport.is_closing():
            self.transport.close()
