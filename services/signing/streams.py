"""Bodies that are too long to be held: requests read piece by piece, files sent piece by piece.

The frame (`services.chassis.asgi`) takes and sends whole bodies. `Streams` stands in front of it: a handler that wants
the pieces of a request asks `body_of`, and one that answers with a file gives its `Response` a `FileBody`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from services.chassis.asgi import AsgiApp, Message, Receive, Request, Response, Scope, Send
from services.chassis.errors import BodyMalformedError, BodyTimeoutError, BodyTooLargeError, ClientGoneError

CHUNK: Final = 256 * 1024  # octets of a file in memory
_RECEIVE: Final = "pqcpki.receive"
_LENGTH_DIGITS: Final = 18
_PIECE_SECONDS: Final = 20.0  # the longest wait for the next piece of a request


@dataclass(frozen=True, slots=True)
class FileBody:
    """The body of a response that is a file; `size` is what is promised."""

    path: Path
    size: int

    def __len__(self) -> int:
        """What the frame announces as Content-Length."""
        return self.size


def file_response(path: Path, size: int, headers: list[tuple[bytes, bytes]]) -> Response:
    """A response whose body is a file; its application stands behind `Streams`."""
    return Response(200, cast("bytes", FileBody(path, size)), headers)


class Streams:
    """An ASGI application around the frame's.

    Args:
        application: the frame's.
    """

    def __init__(self, application: AsgiApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope[_RECEIVE] = receive

        async def send_pieces(message: Message) -> None:
            body: Any = message.get("body")
            if isinstance(body, FileBody):
                await _send_file(body, send)
            else:
                await send(message)

        await self._application(scope, receive, send_pieces)


async def body_of(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """The pieces of a request's body, at most `limit` octets within `seconds`, and no long pause between two.

    Raises:
        BodyTooLargeError: longer.
        BodyTimeoutError: not there in time.
        ClientGoneError: the caller hung up.
    """
    declared = request.headers.get(b"content-length", b"0")
    if not declared.isdigit() or len(declared) > _LENGTH_DIGITS:
        raise BodyMalformedError("the Content-Length is not a number")
    if int(declared) > limit:
        raise BodyTooLargeError(limit)
    receive: Receive = request.scope[_RECEIVE]
    loop = asyncio.get_running_loop()
    end, left = loop.time() + seconds, limit
    while True:
        try:
            async with asyncio.timeout_at(min(end, loop.time() + _PIECE_SECONDS)):
                message = await receive()
        except TimeoutError as error:
            raise BodyTimeoutError("the body did not arrive in time") from error
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the connection ended within the body")
        piece: bytes = message.get("body", b"")
        left -= len(piece)
        if left < 0:
            raise BodyTooLargeError(limit)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


async def _send_file(body: FileBody, send: Send) -> None:
    file = await asyncio.to_thread(body.path.open, "rb")
    try:
        read = _reader(file)
        left = body.size
        while left > 0:
            piece = await asyncio.to_thread(read)
            if not piece:
                raise OSError(f"{body.path} is shorter than its record says")  # the connection ends within the body
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    finally:
        file.close()


def _reader(file: BinaryIO) -> Callable[[], bytes]:
    return lambda: file.read(CHUNK)
