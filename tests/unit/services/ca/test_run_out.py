"""CRLs that have ended while everything runs: seen at the CA's status listener, and only after some patience."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import orjson
import pytest

from services.ca.layout import Layout
from services.ca.run_out import until_run_out
from tests.support.clock import ManualClock

LOOK = 0.01


class StatusListener:
    """Simulates the CA's status listener over a real socket: conditional requests for CRLs alone."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.lives = {"issuing-ecdsa": timedelta(hours=1), "issuing-mldsa": timedelta(hours=1)}
        self.status = "304 Not Modified"
        self.asked = 0
        self.port = 0
        self.heard = asyncio.Event()
        self.open: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, which ends with the listener at the latest."""
        serving = asyncio.create_task(self._serve(reader, writer))
        self.open.add(serving)
        serving.add_done_callback(self.open.discard)

    async def close(self) -> None:
        """Wait for every connection: who asked may have gone in the middle."""
        await asyncio.gather(*self.open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # whoever looked was stopped
            await self._answer(reader, writer)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        name = head.split()[1].removeprefix("/crl/")
        assert "\r\nIf-None-Match: *\r\n" in head
        expires = format_datetime(self.clock.now() + self.lives[name], usegmt=True)
        writer.write(f"HTTP/1.1 {self.status}\r\nexpires: {expires}\r\n\r\n".encode())
        await writer.drain()
        writer.write_eof()
        self.asked += 1
        self.heard.set()

    async def looks(self, more: int) -> None:
        """Return when so many more requests have come."""
        wanted = self.asked + more
        async with asyncio.timeout(20):
            while self.asked < wanted:
                self.heard.clear()
                await self.heard.wait()


@pytest.fixture
async def status() -> AsyncIterator[StatusListener]:
    """The listener, at its port."""
    listener = StatusListener(ManualClock())
    server = await asyncio.start_server(listener.accept, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()
    await server.wait_closed()
    await listener.close()


@pytest.fixture
def layout(tmp_path: Path, status: StatusListener) -> Layout:
    """A deployment that is up."""
    found = Layout(tmp_path)
    found.issuers.mkdir(parents=True)
    for name in status.lives:
        (found.issuers / f"{name}.pem").touch()
    base = f"http://127.0.0.1:{status.port}/crl"
    found.endpoints.write_bytes(orjson.dumps({"crl_base": base}))
    return found


async def test_a_crl_that_has_ended_and_stays_so_is_noticed(layout: Layout, status: StatusListener) -> None:
    """One of two is enough; until then nothing happens, however often it looks."""
    watch = asyncio.create_task(until_run_out(layout, status.clock, 3 * LOOK, LOOK))
    await status.looks(10)
    assert not watch.done()
    status.lives["issuing-mldsa"] = timedelta(seconds=-1)
    async with asyncio.timeout(20):
        await watch


async def test_a_crl_that_is_renewed_in_time_is_no_reason(layout: Layout, status: StatusListener) -> None:
    """After a sleep the CA may need a moment; patience begins anew with each good look."""
    watch = asyncio.create_task(until_run_out(layout, status.clock, 1000 * LOOK, LOOK))
    for hours in (-1, 1, -1, 1):
        status.lives["issuing-ecdsa"] = timedelta(hours=hours)
        await status.looks(6)
    assert not watch.done()
    watch.cancel()
    await asyncio.wait({watch})


@pytest.mark.parametrize("fault", ["not up", "no CRL base", "an error", "nobody listens"])
async def test_without_news_nothing_is_stopped(layout: Layout, status: StatusListener, fault: str) -> None:
    """Whoever does not answer is for the supervisor's other eyes."""
    status.lives = dict.fromkeys(status.lives, timedelta(hours=-1))
    if fault == "not up":
        layout.endpoints.unlink()
    elif fault == "no CRL base":
        layout.endpoints.write_bytes(b"{}")
    elif fault == "nobody listens":
        layout.endpoints.write_bytes(orjson.dumps({"crl_base": "http://127.0.0.1:1/crl"}))
    else:
        status.status = "503 Service Unavailable"
    watch = asyncio.create_task(until_run_out(layout, status.clock, LOOK, LOOK))
    await asyncio.sleep(20 * LOOK)
    assert not watch.done()
    watch.cancel()
    await asyncio.wait({watch})
