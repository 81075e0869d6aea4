"""The ACME application behind a real haproxy of Debian's package; TLS is left out on both sides."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
import uvicorn

from services.acme.client_address import TrustedProxies
from services.acme.rate_limits.rate_limits import Limit, Limits
from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_server import DIRECTORY, AcmeServer
from tests.support.deployment import free_port
from tests.support.jose_key import JoseKey

CONFIGURATION = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{front}
    option forwardfor
    http-request set-header Host inside.test
    default_backend acme
backend acme
    server acme 127.0.0.1:{back}
"""


class FromAddress(httpx.AsyncHTTPTransport):
    """Connects to the proxy, whatever the URL's host, from one loopback address."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(local_address=address)
        self._port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As its parent."""
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


@asynccontextmanager
async def proxied(server: AcmeServer, directory: Path, *trusted: str) -> AsyncIterator[int]:
    """The service behind haproxy; the port of the latter."""
    listening = socket.create_server(("127.0.0.1", 0))
    front, back = free_port(), listening.getsockname()[1]
    app = TrustedProxies(server.service.application, [ip_network(one) for one in trusted], "x-forwarded-for")
    http = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", proxy_headers=False))
    serving = asyncio.create_task(http.serve([listening]))
    configuration = directory / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(front=front, back=back))
    haproxy = await asyncio.create_subprocess_exec("haproxy", "-db", "-f", str(configuration))
    try:
        await _answers(front)
        yield front
    finally:
        haproxy.terminate()
        await haproxy.wait()
        http.should_exit = True
        await serving


async def _answers(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def register(port: int, address: str, forwarded: str = "") -> None:
    """A new account, asked for from an address."""
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    async with httpx.AsyncClient(transport=FromAddress(port, address), headers=headers) as http:
        client = AcmeClient(http, DIRECTORY, JoseKey.generate())
        await client.register()
        assert (await client.new_order(["a.test"])).url.startswith("https://acme.test/acme/order/")


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="not run: haproxy missing (apt-get install haproxy)")
async def test_clients_behind_haproxy_are_told_apart(tmp_path: Path) -> None:
    """The limit of new accounts counts for the client's address, whatever it claims, and URLs are the external ones."""
    server = await AcmeServer.start(tmp_path, limits=Limits(accounts_per_address=Limit(1, 3600)))
    async with proxied(server, tmp_path, "127.0.0.1/32") as port:
        await register(port, "127.0.0.2")
        with pytest.raises(AcmeProblemError, match=r"new accounts from 127\.0\.0\.2"):
            await register(port, "127.0.0.2", forwarded="192.0.2.1")
        await register(port, "127.0.0.3")
    async with proxied(server, tmp_path) as port:  # trusts nobody
        await register(port, "127.0.0.4")
        with pytest.raises(AcmeProblemError, match=r"new accounts from 127\.0\.0\.1:"):
            await register(port, "127.0.0.5")
    await server.stop()
