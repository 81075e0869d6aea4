"""One guarded HTTP GET: dials only addresses that were checked, and reads no more than it was allowed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from pkicore.http1 import AnswerParser, request_head
from services.acme.errors import ValidationError
from services.chassis.outbound.addresses import AddressGuard, IPAddress
from services.chassis.outbound.exchange import Exchange, Url, host_of

USER_AGENT = "pqcpki ACME validation (RFC 8555 http-01)"
# Status line, headers, framing and body of one answer.
MAX_RECEIVED_BYTES = 32 * 1024
MAX_BODY_BYTES = 128


@dataclass(frozen=True)
class Fetched:
    """The answer to one GET; `body` is empty unless the status is 200."""

    status: int
    location: bytes | None
    body: bytes


class Fetcher:
    """Fetches URLs without certificate verification.

    Certificates are not verified because http-01 may be redirected to the https site that has none yet; the proof is
    the key authorization, not the channel.
    """

    def __init__(self, guard: AddressGuard, seconds: float) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        self._exchange = Exchange(guard, tls, seconds=seconds, max_bytes=MAX_RECEIVED_BYTES)

    async def get(self, url: Url, addresses: Iterable[IPAddress]) -> Fetched:
        """GET `url` from the first of `addresses` that accepts a connection.

        The caller bounds the whole in time.

        Raises:
            NotReachedError: no address may be dialled or none answers HTTP.
            MalformedError: the URL cannot be asked for.
            ValidationError: "incorrectResponse", when a 200 has more than 128 octets.
        """
        fields = {"Host": url.netloc.decode("ascii"), "User-Agent": USER_AGENT, "Accept": "*/*"}
        fields |= {"Accept-Encoding": "identity", "Connection": "close"}
        request = request_head("GET", url.raw_path.decode("ascii"), fields)
        parser = await self._exchange.send(url, addresses, request, _is_enough)
        if parser.status_code != httpx.codes.OK:
            location = next((value for name, value in parser.headers if name == b"location"), None)
            return Fetched(parser.status_code, location, b"")
        body = parser.content
        if len(body) > MAX_BODY_BYTES:
            raise ValidationError(
                "incorrectResponse", f"the answer at {host_of(url)} is longer than {MAX_BODY_BYTES} octets"
            )
        return Fetched(parser.status_code, None, body)


def _is_enough(parser: AnswerParser) -> bool:
    """Of a 200 the body up to the limit, of others the head."""
    return parser.status_code not in {0, httpx.codes.OK} or len(parser.content) > MAX_BODY_BYTES
