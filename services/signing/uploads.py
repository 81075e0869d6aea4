"""`multipart/form-data` (RFC 7578) read as it comes: the request first, then documents, each to a file of its own.

Parts: `request` (JSON, at most 1 MiB), then `sbom` (at most 64 MiB) and `provenance` (at most 2 MiB), each at most
once. Whatever else is sent ends the request. Nothing longer than a piece is held in memory but the request itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from services.signing.errors import PartTooLargeError, UploadError
from services.signing.objects import NewFile, Scratch, WrittenFile
from services.signing.provenance import MAX_PROVENANCE_BYTES
from services.signing.wire import MAX_DOCUMENT, MAX_REQUEST

MULTIPART: Final = "multipart/form-data"
_REQUEST: Final = "request"
_LIMITS: Final[Mapping[str, int]] = {
    _REQUEST: MAX_REQUEST,
    "sbom": MAX_DOCUMENT,
    "provenance": MAX_PROVENANCE_BYTES,
}
MAX_UPLOAD: Final = sum(_LIMITS.values()) + 16 * 1024  # octets of a whole body, boundaries and part headers included
_MAX_HEADERS: Final = 4096  # octets of one part's
_MAX_BOUNDARY: Final = 70  # RFC 2046 §5.1.1
_BATCH: Final = 256 * 1024  # octets that are written to disk at once
_PARAMETER: Final = re.compile(  # RFC 9110 §5.6.6
    rb"""[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)="""
    rb"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^"; \t]+))[ \t]*(?:;|$)"""
)


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A document that was uploaded, and the media type it was declared to be of."""

    file: WrittenFile
    media_type: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """What came: the JSON of the request, and the documents beside it."""

    request: bytes = field(repr=False)
    parts: Mapping[str, UploadedPart]


async def read_upload(content_type: bytes, pieces: AsyncIterator[bytes], scratch: Scratch) -> Upload:
    """Read a body to its end.

    Args:
        content_type: the header, with the boundary.
        pieces: of the body.
        scratch: where documents are written.

    Raises:
        UploadError: no such body; the sentence says what is wrong with it.
        PartTooLargeError: a part is longer than it may be.
        OSError: a document cannot be written.
    """
    reader = _Reader(_boundary(content_type), scratch)
    async for piece in pieces:
        reader.feed(piece)
        if reader.waiting >= _BATCH:
            await asyncio.to_thread(reader.write)
    return await asyncio.to_thread(reader.end)


def check_charset(content_type: bytes) -> Mapping[bytes, bytes]:
    """The parameters of a body's Content-Type.

    Raises:
        UploadError: one stands there twice or cannot be read, or the body claims to be something else than UTF-8.
    """
    _, found = _parameters(content_type)
    if found.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise UploadError("the body must be UTF-8: leave charset out")
    return found


def _boundary(content_type: bytes) -> bytes:
    options = check_charset(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise UploadError(f"the multipart body needs a boundary of 1 to {_MAX_BOUNDARY} characters")
    return boundary


def _parameters(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A header's value and its parameters, each of which stands there once: nobody chooses between two."""
    value, _, rest = header.strip().partition(b";")
    found: dict[bytes, bytes] = {}
    while rest.strip():
        parameter = _PARAMETER.match(rest)
        if parameter is None:
            raise UploadError("a header of the multipart body has a parameter that cannot be read")
        name = parameter["name"].lower()
        if name in found:
            raise UploadError("a header of the multipart body has a parameter twice")
        quoted = parameter["quoted"]
        found[name] = parameter["plain"] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted)
        rest = rest[parameter.end() :]
    return value.strip().lower(), found


class _Part:
    """One part while it comes; the request stays in memory, the others go to files."""

    def __init__(self, name: str, media_type: str | None, file: NewFile | None) -> None:
        self.name = name
        self.media_type = media_type
        self.file = file
        self.size = 0
        self.pieces: list[bytes] = []

    def take(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > _LIMITS[self.name]:
            raise PartTooLargeError(f"the part {self.name} is longer than {_LIMITS[self.name]} octets")
        self.pieces.append(piece)


class _Reader:
    """The parser's callbacks. They keep what came; `write` brings it to disk, beside the event loop."""

    def __init__(self, boundary: bytes, scratch: Scratch) -> None:
        self._scratch = scratch
        self._parts: dict[str, _Part] = {}
        self._part: _Part | None = None
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._header_octets = 0
        self._is_whole = False
        self.waiting = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise UploadError("the body is not multipart/form-data as its boundary has it") from error

    def write(self) -> None:
        for part in self._parts.values():
            if part.file is not None:
                for piece in part.pieces:
                    part.file.write(piece)
                part.pieces.clear()
        self.waiting = 0

    def end(self) -> Upload:
        if not self._is_whole:
            raise UploadError("the multipart body ends before its closing boundary")
        self.write()
        request = self._parts.pop(_REQUEST, None)
        if request is None:
            raise UploadError("the multipart body has no part named request")
        parts = {
            name: UploadedPart(part.file.complete(), part.media_type)
            for name, part in self._parts.items()
            if part.file is not None
        }
        return Upload(b"".join(request.pieces), parts)

    # What the parser calls.

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._name = self._value = b""
        self._header_octets = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._bounded(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data[start:end])

    def _bounded(self, piece: bytes) -> bytes:
        self._header_octets += len(piece)
        if self._header_octets > _MAX_HEADERS:
            raise UploadError("the headers of a part are too long")
        return piece

    def _on_header_end(self) -> None:
        name = self._name.lower()
        if name in self._headers:
            raise UploadError("a part has a header twice")
        self._headers[name] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        disposition, options = _parameters(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("latin-1")
        if disposition != b"form-data" or name not in _LIMITS:
            raise UploadError(f"the parts may be {', '.join(_LIMITS)}, each as form-data")
        if name in self._parts:
            raise UploadError(f"the part {name} comes twice")
        if not self._parts and name != _REQUEST:
            raise UploadError("the first part must be the one named request")
        if b"content-transfer-encoding" in self._headers:
            raise UploadError("parts have no Content-Transfer-Encoding (RFC 7578 section 4.7)")
        media_type = self._headers.get(b"content-type", b"").decode("latin-1") or None
        file = None if name == _REQUEST else self._scratch.new()
        self._part = self._parts[name] = _Part(name, media_type, file)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None  # noqa: S101 - headers come before data
        self._part.take(data[start:end])
        self.waiting += end - start

    def _on_end(self) -> None:
        self._is_whole = True
