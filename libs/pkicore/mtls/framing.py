"""uvicorn's HTTP protocol, strict where it is lenient: ambiguous heads, trailers, endless framing, endless pipelines.

llhttp itself refuses most of what RFC 9112 forbids (two lengths, a length beside a coding, folded lines, bare line
feeds). What it lets through is refused here, before anything of the request is handed on.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final, NoReturn, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MAX_FRAMING: Final = 128 * 1024
"""Octets of chunk sizes, chunk extensions and trailers in a row; heads have bounds of their own."""
MAX_PIPELINED: Final = 64
"""Requests that may wait behind the one that is being answered: one segment could bring thousands."""
_PER_OCTET: Final = 8  # of body; a chunk of one octet needs five others
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")  # RFC 3986 §3.2.2 and a port; no user, no path
_HOST_LENGTH: Final = len(b"host")
_CODING_LENGTH: Final = len(b"transfer-encoding")
_UPGRADE_LENGTH: Final = len(b"upgrade")


class _RefusedHeadError(Exception):
    """Ends the parser's work on a connection."""


class FramedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with unambiguous heads, and no trailers (RFC 9110 §6.5.1): uvicorn would take any number for headers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments, handed on
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._framing = 0
        self._hosts: list[bytes] = []
        self._codings: list[bytes] = []
        self._upgrading = False
        self._refusal: tuple[HTTPStatus, str] | None = None

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
        self._hosts = []
        self._codings = []
        self._upgrading = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes what stands in the head."""
        if self._in_head:
            length = len(name)
            if length == _HOST_LENGTH and name.lower() == b"host":
                self._hosts.append(value)
            elif length == _CODING_LENGTH and name.lower() == b"transfer-encoding":
                self._codings.append(value)
            elif length == _UPGRADE_LENGTH and name.lower() == b"upgrade":
                self._upgrading = True
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What comes now is body, or framing."""
        self._in_head = False
        self._check_head()
        super().on_headers_complete()
        if self._upgrading and self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads no further; another protocol is not offered

    def on_body(self, body: bytes) -> None:
        """Body entitles to some framing."""
        self._framing = max(0, self._framing - _PER_OCTET * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._framing = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses a request and ends the connection; silently where the answer would be taken for that of another."""
        if not self.transport.is_closing() and not self._answer_is_due():
            status, sentence = self._refusal or (HTTPStatus.BAD_REQUEST, msg)
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(sentence) + sentence.encode("ascii"))
        self.transport.close()

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This is an HTTP/1.1 server.")
        if len(self._hosts) != 1 and (self._hosts or version == "1.1"):  # RFC 9112 §3.2
            self._refuse(HTTPStatus.BAD_REQUEST, "A request has exactly one Host.")
        if self._hosts and not _HOST.fullmatch(self._hosts[0]):
            self._refuse(HTTPStatus.BAD_REQUEST, "The Host is none.")
        if self._codings:
            self._check_codings(version)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests are waiting on this connection.")
        if self._upgrading and self.parser.should_upgrade() and self._has_body():
            self._refuse(HTTPStatus.BAD_REQUEST, "No upgrade is offered: send a body without one.")

    def _check_codings(self, version: str) -> None:
        """RFC 9112 §6.1: without `chunked` as the last one llhttp has refused it."""
        if version == "1.0":
            self._refuse(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding.")
        if len(self._codings) > 1 or self._codings[0].lower() != b"chunked":
            self._refuse(HTTPStatus.NOT_IMPLEMENTED, "The only transfer coding is chunked.")

    def _has_body(self) -> bool:
        """Whether the head announces one; httptools would skip it where an upgrade is asked for."""
        return bool(self._codings) or any(
            name == b"content-length" and value.strip(b"0") for name, value in self.headers
        )

    def _answer_is_due(self) -> bool:
        """Whether what is sent now would not be read as the answer to the request that is being parsed."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn's type forgets that there is none at first
        if cycle is None or cycle.response_complete:
            return False
        return cycle.response_started or not cycle.more_body or bool(self.pipeline)

    def _refuse(self, status: HTTPStatus, sentence: str) -> NoReturn:
        """The parser turns it into its own error, and uvicorn that into `send_400_response`."""
        self._refusal = status, sentence
        raise _RefusedHeadError(sentence)
