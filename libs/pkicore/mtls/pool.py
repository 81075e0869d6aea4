"""httpx on pooled TlsConnections: httpcore keeps the pool and speaks HTTP/1.1, this file joins the two."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import httpcore
import httpx
from httpcore import SOCKET_OPTION

from pkicore.mtls.connection import TlsConnection

CountEvent = Callable[[Literal["connection", "request"]], None]
"""Called for each connection opened and each request sent: their ratio is how well the pool works."""

Connect = Callable[[str, int], Awaitable[TlsConnection]]

KEEPALIVE = 20.0
"""Seconds an idle connection is kept; servers must keep theirs longer, else requests race with their close."""

MAX_CONNECTIONS = 100

_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
)


class PooledTransport(httpx.AsyncBaseTransport):
    """An httpx transport whose connections come from `connect`; https only."""

    def __init__(self, connect: Connect, count: CountEvent | None) -> None:
        self._count = count
        self._pool = httpcore.AsyncConnectionPool(
            # httpcore makes a default context per connection (30 ms) unless it is given one; this one is never used.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            network_backend=_Backend(connect),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            TransportError: TLS refused (HandshakeError, PeerMismatchError).
            httpx.TransportError: anything else went wrong on the way.
        """
        if request.url.scheme != "https":
            raise httpx.UnsupportedProtocol("only https is offered", request=request)
        if self._count is not None:
            self._count("request")
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _httpx_errors():
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=cast("httpx.AsyncByteStream", request.stream),
                    extensions=request.extensions,
                )
            )
        stream = _Body(cast("_HttpcoreBody", response.stream))
        return httpx.Response(response.status, headers=response.headers, stream=stream, extensions=response.extensions)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _HttpcoreBody(httpx.AsyncByteStream):
    """The type of httpcore's response streams, which it does not export."""


class _Body(httpx.AsyncByteStream):
    def __init__(self, body: _HttpcoreBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for part in self._body:
                yield part

    async def aclose(self) -> None:
        with _httpx_errors():
            await self._body.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """httpcore asks for TCP first and TLS second; the connection is made in the first step, whole."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,  # noqa: ARG002 (httpcore's signature)
        socket_options: Iterable[SOCKET_OPTION] | None = None,  # noqa: ARG002 (httpcore's signature)
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await self._connect(host, port))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host}:{port} does not answer") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host}:{port}: {error}") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002 (httpcore's signature)
        server_hostname: str | None = None,  # noqa: ARG002 (httpcore's signature)
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 (httpcore's signature)
    ) -> httpcore.AsyncNetworkStream:
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (httpcore's signature)
        try:
            async with asyncio.timeout(timeout):
                return await self._connection.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("no answer in time") from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (httpcore's signature)
        if not buffer:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._connection.write(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout("the server does not read") from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 (httpcore's signature)
        if info == "is_readable":
            return self._connection.is_spent
        if info == "tls_connection":
            return self._connection
        return None


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Give httpcore's exceptions httpx's names; ours pass as they are."""
    try:
        yield
    except Exception as error:
        for ours, theirs in _ERRORS:
            if isinstance(error, ours):
                raise theirs(str(error)) from error
        raise
