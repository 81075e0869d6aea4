"""Receivers of webhooks, simulated over real sockets: good ones, and those that a sender must survive.

The signature check follows the text of Standard Webhooks 1.0 and shares no code with the sender.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class ReceivedWebhook:
    """One request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The id of the event."""
        return self.headers["webhook-id"]


class WebhookReceiver:
    """Answers 204 until told otherwise, on one loopback address.

    Attributes:
        received: every whole request, in order.
        connections: how many were accepted.
        open_now, most_open: how many are and were open at once.
        port: after `start`.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrival = asyncio.Condition()
        self._behave: Behaviour = _answering(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.received: list[ReceivedWebhook] = []
        self.connections = self.open_now = self.most_open = self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    def answer(self, status: int, *headers: str) -> None:
        """Answer with a status from now on."""
        lines = [f"HTTP/1.1 {status} Simulated", "Content-Length: 0", *headers, "", ""]
        self._behave = _answering("\r\n".join(lines).encode())

    def send(self, raw: bytes) -> None:
        """Answer with these very octets from now on."""
        self._behave = _answering(raw)

    def stall(self) -> None:
        """Read and never answer from now on."""

        async def behave(_: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        self._behave = behave

    def drip(self, octet: bytes) -> None:
        """Send an octet now and then, for ever: a slow-loris from the other side."""

        async def behave(writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(octet)
                await writer.drain()
                await asyncio.sleep(0.02)

        self._behave = behave

    def flood(self) -> None:
        """A head, then a body without end."""

        async def behave(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
                await writer.drain()

        self._behave = behave

    async def until(self, count: int, seconds: float = 3) -> None:
        """Wait for that many requests."""
        async with asyncio.timeout(seconds), self._arrival:
            await self._arrival.wait_for(lambda: len(self.received) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            self.received.append(await _read(reader))
            async with self._arrival:
                self._arrival.notify_all()
            await self._behave(writer)
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            return  # the sender went away, or the simulator ends
        finally:
            self.open_now -= 1
            writer.transport.abort()


def is_signed(request: ReceivedWebhook, secret: str) -> bool:
    """Whether one of a request's signatures is by the secret, as its receiver would find out."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join((request.id.encode(), request.headers["webhook-timestamp"].encode(), request.body))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in request.headers["webhook-signature"].split(" ")


def _answering(raw: bytes) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return behave


async def _read(reader: asyncio.StreamReader) -> ReceivedWebhook:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    method, path, _ = first.split(" ", 2)
    assert method == "POST"
    return ReceivedWebhook(path, headers, body)
