"""uvicorn's HTTP protocol without trailers, and with a bound for what of a request is neither head nor body."""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_FRAMING: Final = 128 * 1024
"""Octets of chunk sizes, chunk extensions and trailers in a row; heads have bounds of their own."""
_PER_OCTET: Final = 8  # of body; a chunk of one octet needs five others


class FramedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose trailers are dropped (RFC 9110 §6.5.1): uvicorn would take any number of them for headers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments, handed on
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._framing = 0

    def data_received(self, data: bytes) -> None:
        """Cuts off a peer whose request goes on without any body."""
        self._framing += len(data)
        super().data_received(data)
        if self._framing > MAX_FRAMING and not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        """A new head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes what stands in the head."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What comes now is body, or framing."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Body entitles to some framing."""
        self._framing = max(0, self._framing - _PER_OCTET * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._framing = 0
        super().on_message_complete()
