"""One guarded HTTP GET: dials only addresses that were checked, and reads no more than it was allowed."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import httpx

from pkicore.errors import MalformedError
from pkicore.http1 import AnswerParser, request_head
from services.acme.challenges.addresses import AddressGuard, IPAddress
from services.acme.errors import ValidationError

USER_AGENT = "pqcpki ACME validation (RFC 8555 http-01)"
# Status line, headers, framing and body of one answer.
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
        try:
            parser = await self._exchange(url, permitted)
        except OSError as error:
            raise ValidationError("connection", f"{_target(url, permitted)}: {_reason(error)}") from error
        except MalformedError as error:
            raise ValidationError("connection", f"{_target(url, permitted)}: {error}") from error
        if parser.status_code != httpx.codes.OK:
            location = next((value for name, value in parser.headers if name == b"location"), None)
            return Fetched(parser.status_code, location, b"")
        body = parser.content
        if len(body) > MAX_BODY_BYTES:
            raise ValidationError(
                "incorrectResponse", f"the answer at {host_of(url)} is longer than {MAX_BODY_BYTES} octets"
            )
        return Fetched(parser.status_code, None, body)

    async def _exchange(self, url: httpx.URL, addresses: Sequence[IPAddress]) -> AnswerParser:
        fields = {"Host": url.netloc.decode("ascii"), "User-Agent": USER_AGENT, "Accept": "*/*"}
        fields |= {"Accept-Encoding": "identity", "Connection": "close"}
        request = request_head("GET", url.raw_path.decode("ascii"), fields)
        transport, connection = await self._dial(addresses, port_of(url))
        try:
            if url.scheme == "https":
                loop = asyncio.get_running_loop()
                upgraded = await loop.start_tls(transport, connection, self._tls, server_hostname=host_of(url))
                transport = cast("asyncio.Transport", upgraded)  # None only for a transport that is closing
            transport.write(request)
            return await connection.answer
        finally:
            transport.abort()

    async def _dial(self, addresses: Sequence[IPAddress], port: int) -> tuple[asyncio.Transport, _Connection]:
        """TCP to the first address that accepts it, whatever host the URL names: nothing is looked up a second time.

        Raises:
            OSError: none did; that of the last.
        """
        failure: OSError = ConnectionError("no address")
        for address in addresses:
            try:
                async with asyncio.timeout(self._seconds / (len(addresses) + 1)):
                    return await asyncio.get_running_loop().create_connection(_Connection, str(address), port)
            except OSError as error:
                failure = error
        raise failure


class _Connection(asyncio.Protocol):
    """Reads as much of one answer as matters: of a 200 the body up to the limit, of others the head."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[AnswerParser] = asyncio.get_running_loop().create_future()
        self._parser = AnswerParser(MAX_RECEIVED_BYTES)

    def data_received(self, data: bytes) -> None:
        """Read in small pieces, so that nothing is looked at once enough has come."""
        try:
            for start in range(0, len(data), READ_BYTES):
                if not self.answer.done():
                    self._parser.feed(data[start : start + READ_BYTES])
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
        parser = self._parser
        decided = parser.status_code not in {0, httpx.codes.OK} or len(parser.content) > MAX_BODY_BYTES
        if parser.is_complete or decided:
            self.answer.set_result(parser)

    def _fail(self, error: Exception) -> None:
        self.answer.set_exception(error)
        self.answer.exception()  # where TLS fails nobody waits for the answer, and no exception is lost


def _target(url: httpx.URL, addresses: Sequence[IPAddress]) -> str:
    return f"{host_of(url)} port {port_of(url)} ({', '.join(map(str, addresses))})"


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return os.strerror(error.errno) if error.errno else str(error) or "the connection was closed before an answer"
