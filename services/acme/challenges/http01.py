"""The http-01 challenge (RFC 8555 §8.3; for addresses RFC 8738 §4)."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

import httpx

from pkicore.errors import MalformedError
from services.acme.challenges.attempt import Attempt
from services.acme.challenges.fetch import Fetched, Fetcher
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.errors import NotReachedError, NotResolvedError
from services.chassis.outbound.exchange import DEFAULT_PORTS, KnownUrl, Url, addresses_of, host_of, port_of
from services.chassis.outbound.resolver import Resolver

WELL_KNOWN = "/.well-known/acme-challenge/"
MAX_REDIRECTS = 10
MAX_LOCATION_BYTES = 2000
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Http01:
    """Fetches the key authorization from the identifier's web server.

    Args:
        resolver: looks up the host of each hop anew.
        fetcher: checks and dials what was looked up.
        port: where the first request goes; 80 outside of tests and demos (RFC 8555 §8.3).
        seconds: for the whole validation, look-ups and redirects included.
    """

    def __init__(self, resolver: Resolver, fetcher: Fetcher, port: int, seconds: float) -> None:
        self._resolver = resolver
        self._fetcher = fetcher
        self._port = port
        self._seconds = seconds
        self._ports = {*DEFAULT_PORTS.values(), port}

    async def validate(self, attempt: Attempt) -> None:
        """Follow redirects from the well-known URL until an answer, and compare it.

        Raises:
            ValidationError: "dns", "connection" or "incorrectResponse".
        """
        identifier, token = attempt.identifier, attempt.token
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._follow(self._first_url(identifier, token))
        except TimeoutError as error:
            sentence = f"{identifier.value} gave no complete answer within {self._seconds:g} seconds"
            raise ValidationError("connection", sentence) from error
        except NotResolvedError as error:
            raise ValidationError("dns", str(error)) from error
        except (NotReachedError, MalformedError) as error:
            raise ValidationError("connection", str(error)) from error
        if not hmac.compare_digest(answer.rstrip(), attempt.key_authorization.encode()):
            what = (
                "for another account's key" if answer.startswith(f"{token}.".encode()) else "not the key authorization"
            )
            sentence = f"the answer of {identifier.value} ({len(answer)} octets) is {what}"
            raise ValidationError("incorrectResponse", sentence)

    def _first_url(self, identifier: Identifier, token: str) -> KnownUrl:
        return KnownUrl.http(identifier.value, self._port, f"{WELL_KNOWN}{token}")

    async def _follow(self, first: KnownUrl) -> bytes:
        url: Url = first
        for _ in range(MAX_REDIRECTS + 1):
            fetched = await self._fetcher.get(url, await addresses_of(url, self._resolver))
            if fetched.status == httpx.codes.OK:
                return fetched.body
            if fetched.status not in REDIRECTS:
                raise ValidationError(
                    "incorrectResponse", f"{host_of(url)} answered with status {fetched.status}, not 200"
                )
            url = self._redirected(url, fetched)
        raise ValidationError("connection", f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, url: Url, fetched: Fetched) -> httpx.URL:
        """The URL of the next hop.

        Raises:
            ValidationError: "connection", when the redirect leads to another scheme or port, or is no URL.
        """
        location = fetched.location or b""
        if not location or len(location) > MAX_LOCATION_BYTES:
            raise ValidationError("connection", f"{host_of(url)} redirects without a usable Location")
        try:
            text = location.decode("ascii")
            urlsplit(text).port  # noqa: B018 -- refuses ports that are not plain digits, which httpx reads with int()
            target = httpx.URL(str(url)).join(text)
            port = port_of(target)
        except (httpx.InvalidURL, ValueError) as error:
            raise ValidationError("connection", f"{host_of(url)} redirects to what is no URL") from error
        if target.scheme not in DEFAULT_PORTS or not host_of(target) or target.userinfo:
            raise ValidationError(
                "connection", f"{host_of(url)} redirects to a URL that is not followed: only plain http and https are"
            )
        if port not in self._ports:
            raise ValidationError(
                "connection", f"{host_of(url)} redirects to port {port}; only 80 and 443 are followed"
            )
        return target
