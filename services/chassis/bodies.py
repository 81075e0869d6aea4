"""Bodies on their way: whole ones, requests read piece by piece, files sent piece by piece.

A handler asks for them by `Request.body` and `Request.stream`, and answers with a file by `Response.file`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, BinaryIO, Final

from services.chassis.errors import BodyTimeoutError, BodyTooLargeError, ClientGoneError

if TYPE_CHECKING:
    from pathlib import Path

    from services.chassis.asgi import Receive, Send

PIECE: Final = 256 * 1024  # octets of a file in memory
RECEIVE_SECONDS: Final = 20.0  # the longest wait for the next piece of a request
SEND_SECONDS: Final = 60.0  # the longest a caller may take over one piece of a file


def has_arrived(receive: Receive) -> bool:
    """Whether uvicorn holds the whole body already, as it mostly does: then there is nothing to put a timer on."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


async def read_body(receive: Receive, limit: int) -> bytes:
    """Reads a body of at most `limit` bytes, and stops reading as soon as it is longer.

    Raises:
        BodyTooLargeError: it is longer.
        ClientGoneError: the caller hung up.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the connection ended within the body")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > limit:
            raise BodyTooLargeError(limit)
        if not message.get("more_body", False):
            return body


async def pieces_of(receive: Receive, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """The pieces of a request's body, at most `limit` octets within `seconds`, and no long pause between two.

    Raises:
        BodyTooLargeError: longer.
        BodyTimeoutError: not there in time.
        ClientGoneError: the caller hung up.
    """
    loop = asyncio.get_running_loop()
    end, left = loop.time() + seconds, limit
    while True:
        try:
            async with asyncio.timeout_at(min(end, loop.time() + RECEIVE_SECONDS)):
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


class FileBody:
    """The body of a response that is a file.

    Args:
        path: where it is.
        size: octets that are promised; more than that are never sent.
    """

    __slots__ = ("_file", "path", "size")

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._file: BinaryIO | None = None

    async def open(self) -> None:
        """Open it, before anything is promised to the caller.

        Raises:
            OSError: it cannot be opened, or is not as long as promised.
        """
        self._file = await asyncio.to_thread(self._open)

    def _open(self) -> BinaryIO:
        file = self.path.open("rb")
        if file.seek(0, 2) < self.size:
            file.close()
            raise OSError(f"{self.path} is shorter than its record says")
        file.seek(0)
        return file

    async def send(self, send: Send) -> None:
        """Send what was opened.

        Raises:
            OSError: it is shorter than promised; the caller sees the connection end within the body.
            TimeoutError: the caller takes too long over a piece.
        """
        assert self._file is not None  # noqa: S101 - the frame opens it
        left = self.size
        while True:
            piece = await asyncio.to_thread(self._file.read, min(PIECE, left))
            if left and not piece:
                raise OSError(f"{self.path} is shorter than its record says")
            left -= len(piece)
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if not left:
                return

    def close(self) -> None:
        """Give the descriptor back; more than once does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
