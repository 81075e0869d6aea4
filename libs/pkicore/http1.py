"""HTTP/1.1 as a client writes and reads it: the head of a request, and one answer under one bound; no socket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httptools

from pkicore.errors import MalformedError

_TARGET: Final = re.compile(r"/[!-~]*", re.ASCII)
_FIELD: Final = re.compile(r"[A-Za-z-]+: [ -~]*", re.ASCII)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_FINAL: Final = 200  # what is below announces another answer (RFC 9110 §15.2)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names are in lower case, in the order they came."""

    status_code: int
    headers: Sequence[tuple[bytes, bytes]]
    content: bytes


def request_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Request line and fields, up to and with the empty line (RFC 9112 §3).

    Raises:
        MalformedError: a target or field with a space, a line break or anything else that could end it early.
    """
    lines = [f"{name}: {value}" for name, value in fields.items()]
    if not _TARGET.fullmatch(target) or not all(_FIELD.fullmatch(line) for line in lines):
        raise MalformedError("a request target or field holds what HTTP/1.1 does not allow there")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("ascii")


class AnswerParser:
    """Reads the answer to one request other than HEAD; knows 1xx, chunks, and bodies that end with the connection.

    Args:
        max_bytes: of everything that comes, head and framing included.

    Attributes:
        is_complete: whether the answer is whole.
        status_code: of the answer, 0 before its head is there.
        headers: as `Answer` has them, as far as they have come.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = self._max_bytes = max_bytes
        self._parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._framed = False
        self._keep_alive = False
        self.status_code = 0
        self.is_complete = False

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return self._left < self._max_bytes

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request: it is to be kept, and nothing follows the answer."""
        return self.is_complete and self._keep_alive

    @property
    def content(self) -> bytes:
        """The body as far as it has come."""
        return b"".join(self._body)

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            MalformedError: not HTTP/1.1, or longer than allowed.
        """
        self._left -= len(data)
        if self._left < 0:
            raise MalformedError(f"the answer is longer than {self._max_bytes} octets")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep_alive = False
            if not self.is_complete:  # what follows a whole answer spoils the connection, not the answer
                raise MalformedError("the answer is not HTTP/1.1") from error

    def end(self) -> None:
        """The connection has ended, which ends a body without a length (RFC 9112 §6.3).

        Raises:
            MalformedError: it ended within the answer.
        """
        if not self.is_complete and (self._framed or not self.status_code):
            raise MalformedError("the connection was closed before the end of the answer")
        self.is_complete, self._keep_alive = True, False

    def answer(self) -> Answer:
        """The answer, once it is complete."""
        return Answer(self.status_code, self.headers, self.content)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A second answer was not asked for."""
        if self.is_complete:
            raise MalformedError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field, trailers too."""
        name = name.lower()
        self._framed = self._framed or name in _FRAMING
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A final status begins the answer; what came with an interim one is forgotten."""
        status = self._parser.get_status_code()
        if status >= _FINAL:
            self.status_code = status
        else:
            self.headers, self._framed = [], False

    def on_body(self, data: bytes) -> None:
        """Keep a piece."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self.status_code:
            self.is_complete, self._keep_alive = True, self._parser.should_keep_alive()
