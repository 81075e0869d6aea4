"""The ACME application behind a real haproxy of Debian's package, without TLS and with TLS on both sides of it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.mtls import PUBLIC
from services.acme.client_address import TrustedProxies
from services.acme.rate_limits.rate_limits import Limit, Limits
from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_server import DIRECTORY, AcmeServer
from tests.support.deployment import free_port
from tests.support.jose_key import JoseKey
from tests.support.tls_pki import TlsPki, write_credentials
from tests.support.tls_server import serve
from tests.support.tls_world import World

CONFIGURATION = """
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{front}{front_tls}
    option forwardfor
    http-request set-header Host inside.test
    default_backend acme
backend acme
    server acme 127.0.0.1:{back}{back_tls}
"""
BEHIND_TLS = " ssl verify required ca-file {root} sni str({name}) verifyhost {name}"  # as the documentation has it


class FromAddress(httpx.AsyncHTTPTransport):
    """Connects to the proxy, whatever the URL's host, from one loopback address."""

    def __init__(self, port: int, address: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(local_address=address, verify=tls or False)
        self._port, self._tls = port, tls

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As its parent."""
        scheme, host = ("http", "127.0.0.1") if self._tls is None else ("https", "localhost")
        request.url = request.url.copy_with(scheme=scheme, host=host, port=self._port)
        return await super().handle_async_request(request)


@asynccontextmanager
async def proxied(server: AcmeServer, directory: Path, *trusted: str) -> AsyncIterator[int]:
    """The service behind haproxy; the port of the latter."""
    listening = socket.create_server(("127.0.0.1", 0))
    back = listening.getsockname()[1]
    app = TrustedProxies(server.service.application, [ip_network(one) for one in trusted], "x-forwarded-for")
    http = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", proxy_headers=False))
    serving = asyncio.create_task(http.serve([listening]))
    try:
        async with haproxy(directory, back) as front:
            yield front
    finally:
        http.should_exit = True
        await serving


@asynccontextmanager
async def haproxy(directory: Path, back: int, front_tls: str = "", back_tls: str = "") -> AsyncIterator[int]:
    """The proxy; its port."""
    configuration, front = directory / "haproxy.cfg", free_port()
    configuration.write_text(CONFIGURATION.format(front=front, back=back, front_tls=front_tls, back_tls=back_tls))
    process = await asyncio.create_subprocess_exec("haproxy", "-db", "-f", str(configuration))
    try:
        await _answers(front)
        yield front
    finally:
        process.terminate()
        await process.wait()


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


async def register(port: int, address: str, forwarded: str = "", tls: ssl.SSLContext | None = None) -> None:
    """A new account, asked for from an address."""
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    async with httpx.AsyncClient(transport=FromAddress(port, address, tls), headers=headers) as http:
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


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="not run: haproxy missing (apt-get install haproxy)")
async def test_haproxy_ends_tls_and_speaks_tls_to_the_server(tmp_path: Path) -> None:
    """Clients are told apart and URLs are the external ones; haproxy verifies the server by the root, and no other."""
    world, other = await World.make("ecdsa"), TlsPki.make("ecdsa")
    certificate, key = write_credentials(world.pki.service("ca"), tmp_path)
    (tmp_path / "front.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    for name, pki in (("root", world.pki), ("other", other)):
        (tmp_path / f"{name}.pem").write_bytes(pki.root.certificate.public_bytes(Encoding.PEM))
    tls = ssl.create_default_context(cafile=tmp_path / "root.pem")
    front = f" ssl crt {tmp_path / 'front.pem'}"
    server = await AcmeServer.start(tmp_path, limits=Limits(accounts_per_address=Limit(1, 3600)))
    app = TrustedProxies(server.service.application, [ip_network("127.0.0.1/32")], "x-forwarded-for")
    async with serve(world.listener(name="public", rules=PUBLIC), app) as back:
        behind = BEHIND_TLS.format(root=tmp_path / "root.pem", name="localhost")
        async with haproxy(tmp_path, back, front, behind) as port:
            await register(port, "127.0.0.2", tls=tls)
            with pytest.raises(AcmeProblemError, match=r"new accounts from 127\.0\.0\.2"):
                await register(port, "127.0.0.2", forwarded="192.0.2.1", tls=tls)
            await register(port, "127.0.0.3", tls=tls)
        for root, name in (("other", "localhost"), ("root", "elsewhere.test")):
            behind = BEHIND_TLS.format(root=tmp_path / f"{root}.pem", name=name)
            async with (
                haproxy(tmp_path, back, front, behind) as port,
                httpx.AsyncClient(transport=FromAddress(port, "127.0.0.4", tls)) as http,
            ):
                assert (await http.get(DIRECTORY)).status_code == 503
    await server.stop()
