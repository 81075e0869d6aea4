"""One attempt to deliver: a guarded POST, of whose answer only the head is read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import httpx

from pkicore.http1 import AnswerParser, request_head
from services.chassis.errors import NotReachedError
from services.chassis.outbound.addresses import AddressGuard
from services.chassis.outbound.exchange import Exchange, addresses_of, host_of
from services.chassis.outbound.resolver import Resolver
from services.signing.webhooks.settings import WebhookSettings

_USER_AGENT: Final = "pqcpki signing webhooks (Standard Webhooks 1.0)"
_MAX_ANSWER_BYTES: Final = 16 * 1024
_LOOKUP_SHARE: Final = 0.4
_DIALLING_SHARE: Final = 0.4
_MAX_WAIT_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answered.

    Attributes:
        status: of HTTP.
        retry_after: seconds, where it names them.
    """

    status: int
    retry_after: int | None


class Sender:
    """Posts to receivers; follows no redirect, and dials only what it has checked."""

    def __init__(self, resolver: Resolver, exchange: Exchange, seconds: float) -> None:
        self._resolver = resolver
        self._exchange = exchange
        self._seconds = seconds

    @classmethod
    def build(cls, settings: WebhookSettings, guard: AddressGuard) -> Self:
        """Make the sender of the settings.

        Raises:
            dns.resolver.NoResolverConfiguration: no resolver is given and the system names none.
            OSError, ssl.SSLError: the file of roots cannot be read.
        """
        seconds = settings.attempt_seconds
        tls = ssl.create_default_context(cafile=settings.ca_file)
        exchange = Exchange(guard, tls, seconds=seconds * _DIALLING_SHARE, max_bytes=_MAX_ANSWER_BYTES)
        return cls(Resolver.build(settings.resolver, seconds * _LOOKUP_SHARE), exchange, seconds)

    async def post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Reply:
        """Look the receiver up, check, dial, send, and read the head of the answer; all within the attempt's time.

        Raises:
            OutboundError: no answer of HTTP came.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, headers, body)
        except TimeoutError as error:
            raise NotReachedError(f"{host_of(url)} gave no answer within {self._seconds:g} seconds") from error

    async def _post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Reply:
        addresses = await addresses_of(url, self._resolver)
        if url.scheme != "https" and not all(address.is_loopback for address in addresses):
            raise NotReachedError(f"{host_of(url)} is not loopback, and only there is plain http sent")
        parser = await self._exchange.send(url, addresses, _request(url, headers, body), _has_head)
        return Reply(parser.status_code, _retry_after(parser))


def _request(url: httpx.URL, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {"Host": url.netloc.decode("ascii"), "User-Agent": _USER_AGENT, "Content-Type": "application/json"}
    fields |= {"Content-Length": str(len(body)), "Accept-Encoding": "identity", "Connection": "close"}
    return request_head("POST", url.raw_path.decode("ascii"), {**fields, **headers}) + body


def _has_head(parser: AnswerParser) -> bool:
    return parser.status_code != 0


def _retry_after(parser: AnswerParser) -> int | None:
    """The seconds of Retry-After (RFC 9110 §10.2.3); its form with a date is not read."""
    value = next((value for name, value in parser.headers if name == b"retry-after"), b"")
    return int(value) if value.isdigit() and len(value) <= _MAX_WAIT_DIGITS else None
