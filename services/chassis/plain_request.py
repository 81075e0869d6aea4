"""Requests that are whole, short and plain: for these, and for no others, `services.chassis.prepared` needs no parser.

What is read here is a small part of HTTP/1.1 and 1.0 that every parser reads alike (RFC 9112): GET, or POST with a
Content-Length, lines that end with CR LF, one Host. Whatever else there is, such as an expectation, a coding or a
condition, is none of these, and goes the normal way with all its checks.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

MAX_HEAD: Final = 4096
"""Octets of request line and fields; a request by GET is in its path."""
_MAX_FIELDS: Final = 1024  # octets; what is found out of them is kept
_LINE: Final = re.compile(rb"(GET|POST) (/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*) HTTP/1\.([01])(?=\r\n)")
_FIELD: Final = re.compile(rb"\r\n([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([ -~]*?)[ \t]*(?=\r\n)")
_HOST: Final = re.compile(rb"[A-Za-z0-9.:\[\]_-]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,5}")
_ONCE: Final = frozenset({b"host", b"content-length", b"content-type", b"connection"})
_NOT_PLAIN: Final = frozenset(
    {b"transfer-encoding", b"te", b"trailer", b"expect", b"upgrade", b"range", b"x-request-id"}
)


class PlainRequest(NamedTuple):
    """One request.

    Attributes:
        method: GET or POST.
        target: the path as it was sent; there is no query.
        media_type: Content-Type in lower case without parameters.
        body: empty for GET.
        close: whether the connection ends with the answer, as it always does with HTTP/1.0.
        end: where in the data the next request begins.
    """

    method: bytes
    target: bytes
    media_type: bytes
    body: bytes
    close: bool
    end: int


class _Fields(NamedTuple):
    length: int
    media_type: bytes
    close: bool


def read_plain(data: bytes, start: int) -> PlainRequest | None:
    """The request that begins here; None where there is none, or not all of it, or one that is not plain."""
    line = _LINE.match(data, start, start + MAX_HEAD)
    if line is None:
        return None
    after_line = line.end()
    blank = data.find(b"\r\n\r\n", after_line, after_line + _MAX_FIELDS)
    fields = None if blank < 0 else _read_fields(data[after_line : blank + 2])
    if fields is None:
        return None
    method, target, minor = line.groups()
    close = fields.close or minor == b"0"
    begin = blank + 4
    if method == b"GET":
        return None if fields.length >= 0 else PlainRequest(method, target, b"", b"", close, begin)
    end = begin + fields.length
    if fields.length < 0 or end > len(data):
        return None
    return PlainRequest(method, target, fields.media_type, data[begin:end], close, end)


@lru_cache(maxsize=256)
def _read_fields(text: bytes) -> _Fields | None:
    """What stands between request line and blank line; callers send the same again and again."""
    found: dict[bytes, bytes] = {}
    at = 0
    while (field := _FIELD.match(text, at)) is not None:
        name, value = field[1].lower(), field[2]
        if name in _NOT_PLAIN or name.startswith(b"if-") or (name in _ONCE and name in found):
            return None
        found[name] = value
        at = field.end()
    length = found.get(b"content-length")
    connection = found.get(b"connection", b"keep-alive").lower()
    if (
        text[at:] != b"\r\n"
        or not _HOST.fullmatch(found.get(b"host", b""))
        or (length is not None and not _LENGTH.fullmatch(length))
        or connection not in {b"keep-alive", b"close"}
    ):
        return None
    media_type = found.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    return _Fields(-1 if length is None else int(length), media_type, connection == b"close")
