"""One HTTP request to addresses that were checked, and as much of its answer as is needed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple, Protocol, cast

from pkicore.errors import MalformedError
from pkicore.http1 import AnswerParser
from services.chassis.errors import NotReachedError, NotResolvedError
from services.chassis.outbound.addresses import AddressGuard, IPAddress
from services.chassis.outbound.dial import dial, reason_of
from services.chassis.outbound.resolver import Resolver

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_READ_BYTES: Final = 4096

Enough = Callable[[AnswerParser], bool]
"""Whether what has been read of an answer is all that is wanted of it."""


class Url(Protocol):
    """What is read of a URL; `httpx.URL` has it."""

    @property
    def scheme(self) -> str:
        """Lower case."""

    @property
    def raw_host(self) -> bytes:
        """Without brackets."""

    @property
    def port(self) -> int | None:
        """None where it is the scheme's own."""

    @property
    def netloc(self) -> bytes:
        """Host and port as the Host field has them."""

    @property
    def raw_path(self) -> bytes:
        """Path and query."""


class KnownUrl(NamedTuple):
    """A URL made of parts that need no parser, since they were checked before; as `httpx.URL` has them."""

    scheme: str
    raw_host: bytes
    port: int | None
    netloc: bytes
    raw_path: bytes

    @classmethod
    def http(cls, host: str, port: int, path: str) -> KnownUrl:
        """Of a host (a lower-case DNS name in A-labels, or an address), a port and a path of plain characters."""
        shown = f"[{host}]" if ":" in host else host
        own = port == DEFAULT_PORTS["http"]
        netloc = shown if own else f"{shown}:{port}"
        return cls("http", host.encode(), None if own else port, netloc.encode(), path.encode())

    def __str__(self) -> str:
        """The whole."""
        return f"{self.scheme}://{self.netloc.decode()}{self.raw_path.decode()}"


def port_of(url: Url) -> int:
    """The port that a URL names or, for http and https, implies; 0 for other schemes."""
    return DEFAULT_PORTS.get(url.scheme, 0) if url.port is None else url.port


def host_of(url: Url) -> str:
    """The host as it stands in the URL: A-labels are not decoded, IPv6 addresses lose their brackets."""
    return url.raw_host.decode("ascii")


async def addresses_of(url: Url, resolver: Resolver) -> tuple[IPAddress, ...]:
    """The addresses of a URL's host; one that is written as an address is not looked up.

    Raises:
        NotResolvedError: it has none, or is an address with a zone (RFC 6874).
    """
    host = host_of(url)
    try:
        address = ip_address(host)
    except ValueError:
        return await resolver.addresses(host.removesuffix("."))
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise NotResolvedError("an address with a zone (%) has a meaning on one machine only")
    return (address,)


class Exchange:
    """Sends requests without proxies, cookies, redirects or decompression.

    Args:
        guard: which addresses may be dialled.
        tls: for https URLs.
        seconds: for connecting to all addresses of one host together; the caller bounds the whole.
        max_bytes: of an answer, its head and framing included.
    """

    def __init__(self, guard: AddressGuard, tls: ssl.SSLContext, *, seconds: float, max_bytes: int) -> None:
        self._guard = guard
        self._tls = tls
        self._seconds = seconds
        self._max_bytes = max_bytes

    async def send(self, url: Url, addresses: Iterable[IPAddress], request: bytes, enough: Enough) -> AnswerParser:
        """Send `request` to the first of `addresses` that accepts a connection.

        Returns:
            What was read when the answer was complete, or `enough`.

        Raises:
            NotReachedError: no address may be dialled, none accepts a connection, or what answers is not HTTP.
        """
        permitted = self._guard.permitted(host_of(url), addresses)
        try:
            return await self._exchange(url, permitted, request, enough)
        except OSError as error:
            raise NotReachedError(f"{_target(url, permitted)}: {reason_of(error)}") from error
        except MalformedError as error:
            raise NotReachedError(f"{_target(url, permitted)}: {error}") from error

    async def _exchange(self, url: Url, addresses: Sequence[IPAddress], request: bytes, enough: Enough) -> AnswerParser:
        transport, connection = await dial(
            addresses, port_of(url), lambda: _Connection(self._max_bytes, enough), self._seconds
        )
        try:
            if url.scheme == "https":
                loop = asyncio.get_running_loop()
                name = host_of(url).removesuffix(".")  # RFC 6066 §3
                upgraded = await loop.start_tls(transport, connection, self._tls, server_hostname=name)
                transport = cast("asyncio.Transport", upgraded)  # None only for a transport that is closing
            connection.ask(transport, request)
            return await connection.answer
        finally:
            transport.abort()


class _Connection(asyncio.Protocol):
    """Reads one answer until it is complete or enough of it is there."""

    def __init__(self, max_bytes: int, enough: Enough) -> None:
        self.answer: asyncio.Future[AnswerParser] = asyncio.get_running_loop().create_future()
        self._parser = AnswerParser(max_bytes)
        self._enough = enough
        self._is_asked = False

    def ask(self, transport: asyncio.Transport, request: bytes) -> None:
        """Send the request; what has come before is no answer to it."""
        self._is_asked = True
        transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read in small pieces, so that nothing is looked at once enough has come."""
        if not self._is_asked:
            self._fail(MalformedError("data came before the request"))
            return
        try:
            for start in range(0, len(data), _READ_BYTES):
                if not self.answer.done():
                    self._parser.feed(data[start : start + _READ_BYTES])
                    self._judge()
        except MalformedError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """What has come may be a whole answer whose length was not told."""
        if self.answer.done():
            return
        if exc is not None:
            self._fail(exc)
            return
        try:
            self._parser.end()
            self.answer.set_result(self._parser)
        except MalformedError as error:
            self._fail(error)

    def _judge(self) -> None:
        if self._parser.is_complete or self._enough(self._parser):
            self.answer.set_result(self._parser)

    def _fail(self, error: Exception) -> None:
        if self.answer.done():
            return
        self.answer.set_exception(error)
        self.answer.exception()  # where TLS fails nobody waits for the answer, and no exception is lost


def _target(url: Url, addresses: Sequence[IPAddress]) -> str:
    return f"{host_of(url)} port {port_of(url)} ({', '.join(map(str, addresses))})"
