"""One guarded HTTP GET: dials only addresses that were checked, and reads no more than it was allowed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from services.acme.challenges.addresses import AddressGuard, IPAddress
from services.acme.challenges.quote import quote
from services.acme.errors import ValidationError

USER_AGENT = "pqcpki ACME validation (RFC 8555 http-01)"
# Status line, headers, framing and body of one answer, and the records of a TLS handshake where there is one.
MAX_RECEIVED_BYTES = 32 * 1024
MAX_BODY_BYTES = 128
READ_BYTES = 4096
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Fetched:
    """The answer to one GET; `body` is empty unless the status is 200."""

    status: int
    location: bytes | None
    body: bytes


def port_of(url: httpx.URL) -> int:
    """The port that a URL names or, for http and https, implies; 0 for other schemes."""
    return DEFAULT_PORTS.get(url.scheme, 0) if url.port is None else url.port


def host_of(url: httpx.URL) -> str:
    """The host as it stands in the URL: A-labels are not decoded, IPv6 addresses lose their brackets."""
    return url.raw_host.decode("ascii")


class Fetcher:
    """Fetches URLs without proxies, cookies, redirects, decompression or certificate verification.

    Certificates are not verified because http-01 may be redirected to the https site that has none yet; the proof is
    the key authorization, not the channel.
    """

    def __init__(self, guard: AddressGuard, seconds: float) -> None:
        self._guard = guard
        self._seconds = seconds
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def get(self, url: httpx.URL, addresses: Iterable[IPAddress]) -> Fetched:
        """GET `url` from the first of `addresses` that accepts a connection.

        The caller bounds the whole in time.

        Raises:
            ValidationError: "connection", when no address may be dialled or none answers HTTP; "incorrectResponse",
                when a 200 has more than 128 octets.
        """
        permitted = self._guard.permitted(host_of(url), addresses)
        origin = httpcore.Origin(url.raw_scheme, url.raw_host, port_of(url))
        try:
            async with httpcore.AsyncHTTPConnection(
                origin, ssl_context=self._tls, http2=False, network_backend=_CheckedAddresses(permitted, self._seconds)
            ) as connection:
                return await self._exchange(connection, origin, url)
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            raise ValidationError("connection", f"{_target(url, permitted)}: {_reason(error)}") from error
        except httpcore.ProtocolError as error:
            raise ValidationError("connection", f"{_target(url, permitted)}: the answer is not HTTP/1.1") from error

    async def _exchange(
        self, connection: httpcore.AsyncHTTPConnection, origin: httpcore.Origin, url: httpx.URL
    ) -> Fetched:
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=url.raw_path),
            headers={
                "Host": url.netloc,
                "User-Agent": USER_AGENT,
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            },
        )
        response = await connection.handle_async_request(request)
        try:
            location = next((value for name, value in response.headers if name.lower() == b"location"), None)
            body = await _read_body(response, url) if response.status == httpx.codes.OK else b""
            return Fetched(response.status, location, body)
        finally:
            await response.aclose()


async def _read_body(response: httpcore.Response, url: httpx.URL) -> bytes:
    body = b""
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ValidationError(
                "incorrectResponse",
                f"the answer at {host_of(url)} is longer than {MAX_BODY_BYTES} octets and begins with {quote(body)}",
            )
    return body


class _CheckedAddresses(httpcore.AsyncNetworkBackend):
    """Dials the given addresses in turn, whatever host it is asked for: nothing is looked up a second time."""

    def __init__(self, addresses: Sequence[IPAddress], seconds: float) -> None:
        self._addresses = addresses
        self._seconds_each = seconds / (len(addresses) + 1)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 -- the name was resolved and checked by the caller
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 -- httpcore's signature; the time is shared among the addresses
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a bounded connection to the first address that accepts one.

        Raises:
            httpcore.ConnectError: none did; or ConnectTimeout, likewise.
        """
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._addresses:
            try:
                stream = await self._backend.connect_tcp(
                    str(address), port, self._seconds_each, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _BoundedStream(stream, MAX_RECEIVED_BYTES)
        raise failure


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that ends in an error once more octets were received than allowed."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, allowance: int) -> None:
        self._stream = stream
        self._allowance = allowance

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's signature
        """Read within the allowance."""
        data = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        self._allowance -= len(data)
        if self._allowance < 0:
            raise httpcore.ReadError("more octets than allowed")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- likewise
        """Write as the inner stream does."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- likewise
    ) -> httpcore.AsyncNetworkStream:
        """Begin TLS; the allowance stays, counted in plain octets."""
        return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._allowance)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 -- httpcore's signature
        """What the inner stream says."""
        return self._stream.get_extra_info(info)


def _target(url: httpx.URL, addresses: Sequence[IPAddress]) -> str:
    return f"{host_of(url)} port {port_of(url)} ({', '.join(map(str, addresses))})"


def _reason(error: BaseException) -> str:
    """Find the operating system's word for the failure among the causes."""
    if isinstance(error, httpcore.TimeoutException):
        return "no connection in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason})"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error) or "the connection was closed before an answer"
