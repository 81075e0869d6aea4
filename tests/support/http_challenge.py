"""A web server of an applicant, simulated over real sockets: it answers http-01 challenges, well or badly.

Each path has one behaviour: a coroutine that gets the connection's writer after the request was read. The good answer
and the misbehaviours that the validator must survive are methods of `HttpChallengeServer`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

CHALLENGE_PATH = "/.well-known/acme-challenge/"
MAX_REQUEST_BYTES = 65536

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class HttpChallengeServer:
    """Serves behaviours by path on one loopback address; unknown paths are 404.

    Attributes:
        requests: every request received, in order.
        connections: how many connections were accepted.
        port: the port after `start`.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._paths: dict[str, Behaviour] = {}
        self._otherwise = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found"
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.port = 0

    async def start(self, port: int = 0) -> Self:
        """Open the socket."""
        self._server = await asyncio.start_server(self._serve, self._host, port, ssl=self._tls, limit=MAX_REQUEST_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the socket and end what still stalls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # good behaviour

    def answer(self, token: str, key_authorization: str | bytes) -> None:
        """Answer the challenge `token` as RFC 8555 section 8.3 wants."""
        self.respond(CHALLENGE_PATH + token, body=_octets(key_authorization))

    def forget(self, token: str) -> None:
        """Answer 404 for `token` from now on."""
        self._paths.pop(CHALLENGE_PATH + token, None)

    def respond(
        self, path: str, *, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Answer `path` with these, framed by Content-Length."""
        lines = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), **(headers or {})}
        head = f"HTTP/1.1 {status} Simulated\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(path, head.encode() + b"\r\n" + body)

    def respond_always(self, body: bytes) -> None:
        """Answer every path that has no behaviour of its own with `body`."""
        head = f"HTTP/1.1 200 Simulated\r\nContent-Length: {len(body)}\r\n\r\n"
        self._otherwise = head.encode() + body

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        """Redirect `path` to `location`."""
        self.respond(path, status=status, headers={"Location": location})

    # misbehaviour

    def send(self, path: str, raw: bytes) -> None:
        """Answer `path` with these very bytes, then close."""

        async def behave(writer: asyncio.StreamWriter) -> None:
            writer.write(raw)
            await writer.drain()

        self._paths[path] = behave

    def stall(self, path: str) -> None:
        """Read the request and never answer."""

        async def behave(_: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        self._paths[path] = behave

    def drip(self, path: str, head: bytes, octet: bytes, pause: float = 0.02) -> None:
        """Send `head`, then `octet` again and again with a pause, forever."""

        async def behave(writer: asyncio.StreamWriter) -> None:
            writer.write(head)
            while True:
                writer.write(octet)
                await writer.drain()
                await asyncio.sleep(pause)

        self._paths[path] = behave

    def hang_up(self, path: str) -> None:
        """Close the connection without a byte."""
        self.send(path, b"")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            request = _parse(await reader.readuntil(b"\r\n\r\n"))
            self.requests.append(request)
            behave = self._paths.get(request.path)
            if behave is None:
                writer.write(self._otherwise)
            else:
                await behave(writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            return  # the client went away, or `stop` was called
        finally:
            writer.transport.abort()


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _parse(head: bytes) -> ReceivedRequest:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    return ReceivedRequest(method, path, headers)
