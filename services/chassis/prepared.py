"""Answers that are ready before they are asked for, sent without parser, ASGI scope or task.

A service gives a look-up to its `Application`; `services.chassis.prepared_http` asks it about each plain request of a
listener without TLS. What is not ready, or not plain, goes the normal way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from services.chassis.plain_request import PlainRequest

if TYPE_CHECKING:
    from services.chassis.request_log import RequestLog

_STATUS: Final = b"HTTP/1.1 200 OK\r\n"
_CLOSE: Final = b"\r\nconnection: close\r\n"

_log = structlog.get_logger(__name__)


class Prepared(NamedTuple):
    """A whole answer of status 200.

    Attributes:
        route: the pattern under which it is counted.
        head: from `head_of`.
        body: what is sent.
    """

    route: str
    head: bytes
    body: bytes


Find = Callable[[PlainRequest], Prepared | None]
"""Must not wait; None where there is nothing ready. Media types, limits and conditions are its own business."""


def head_of(headers: list[tuple[bytes, bytes]], length: int) -> bytes:
    """The fields of an answer whose body has so many octets, for `Prepared`."""
    lines = [b"%b: %b\r\n" % field for field in (*headers, (b"content-length", b"%d" % length))]
    return b"".join([*lines, b"\r\n"])


class PreparedAnswers:
    """The look-up of one application, and the account of what it found."""

    def __init__(self, find: Find, log: RequestLog) -> None:
        self._find = find
        self._log = log
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._begin = b""

    def answer(self, request: PlainRequest, defaults: list[tuple[bytes, bytes]]) -> list[bytes] | None:
        """The octets of an answer in pieces; None where it is not ready. `defaults` are the server's own fields."""
        started = time.perf_counter()
        try:
            found = self._find(request)
        except Exception:  # noqa: BLE001 - whatever it was, the normal way has its own answer to it
            _log.exception("look-up of prepared answers failed")
            return None
        if found is None:
            return None
        if defaults is not self._defaults:  # once a second, with the date
            self._defaults = defaults
            self._begin = b"".join([_STATUS, *(b"%b: %b\r\n" % field for field in defaults), b"x-request-id: "])
        request_id = b"%016x" % random.getrandbits(64)  # no counter: it would tell each caller everybody's traffic
        self._log.account_prepared(found.route, request.method.decode(), time.perf_counter() - started, request_id)
        return [self._begin, request_id, _CLOSE if request.close else b"\r\n", found.head, found.body]
