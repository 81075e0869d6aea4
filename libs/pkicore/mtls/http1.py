"""HTTP/1.1 between services: to one server, over pooled connections, for a fraction of what httpx takes per request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final, Self
from urllib.parse import urlsplit

from pkicore.errors import MalformedError
from pkicore.http1 import Answer, AnswerParser, request_head
from pkicore.mtls.connection import TlsConnection
from pkicore.mtls.pool import KEEPALIVE, MAX_CONNECTIONS, Connect, CountEvent

MAX_ANSWER: Final = 4 << 20  # octets, head and framing included
_READ: Final = 64 * 1024


class Http1Client:
    """Requests to one server; each waits for its turn, sends, and reads the whole answer within one time-out.

    A request goes out a second time only where a kept connection turns out to have been closed in order (close_notify)
    before any of the answer: such a server closed it for idleness and has not looked at the request.

    Args:
        base_url: https, host and port; paths are below it.
        connect: makes a checked connection to (host, port).
        count: hears of each request.
        max_connections: at once; further requests wait.
        max_answer: octets of one answer.

    Raises:
        MalformedError: the base URL is not of that form.
    """

    def __init__(
        self,
        base_url: str,
        connect: Connect,
        count: CountEvent | None = None,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"}:
            raise MalformedError(f"{base_url} is not an https URL of a host")
        self._host, self._port = parts.hostname, parts.port or 443
        self._authority = parts.netloc
        self._connect = connect
        self._count = count
        self._max_answer = max_answer
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: deque[tuple[TlsConnection, float]] = deque()
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109 (as httpx has it, so that either serves)
    ) -> Answer:
        """Send one request and read the answer.

        Args:
            method: any but HEAD and CONNECT.
            url: path and query.
            content: the body, None for none.
            headers: besides Host and Content-Length.
            timeout: seconds for all of it, the wait for a connection included.

        Raises:
            HandshakeError, PeerMismatchError: TLS refuses, or the server became revoked meanwhile.
            MalformedError: the request cannot be said, or the answer is not HTTP/1.1, cut short or too long.
            OSError: TCP failed; TimeoutError and ConnectionError are such.
        """
        fields = {"host": self._authority, **(headers or {})}
        if content is not None:
            fields["content-length"] = str(len(content))
        request = request_head(method, url, fields) + (content or b"")
        if self._count is not None:
            self._count("request")
        timer = asyncio.timeout(timeout)
        try:
            async with timer, self._slots:
                return await self._exchange(request)
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise TimeoutError(f"{self._authority} gave no whole answer within {timeout:g} seconds") from error

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when its answer has come."""
        self._closed = True
        while self._idle:
            self._idle.popleft()[0].close()

    async def __aenter__(self) -> Self:
        """The client itself; the end of the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    async def _exchange(self, request: bytes) -> Answer:
        kept = self._take()
        answer = None if kept is None else await self._answer(kept, request)
        if answer is None:
            answer = await self._answer(await self._connect(self._host, self._port), request)
        if answer is None:
            raise ConnectionResetError(f"{self._authority} closed the connection instead of an answer")
        return answer

    async def _answer(self, connection: TlsConnection, request: bytes) -> Answer | None:
        """None: the server closed the connection in order, with nothing said."""
        parser = AnswerParser(self._max_answer)
        try:
            await connection.write(request)
            while not parser.is_complete:
                data = await connection.read(_READ)
                if data:
                    parser.feed(data)
                elif parser.has_begun:
                    parser.end()
                else:
                    return None
            return parser.answer()
        finally:  # cancelled or failed half-way, the connection is of no more use
            self._release(connection, is_reusable=parser.is_reusable)

    def _take(self) -> TlsConnection | None:
        """The connection used last, if it is still good; the others have been idle even longer."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_spent and now - since < KEEPALIVE:
                return connection
            connection.close()
        return None

    def _release(self, connection: TlsConnection, *, is_reusable: bool) -> None:
        if not is_reusable or self._closed or connection.is_spent:
            connection.close()
            return
        now = asyncio.get_running_loop().time()
        self._idle.append((connection, now))
        while now - self._idle[0][1] >= KEEPALIVE:
            self._idle.popleft()[0].close()
