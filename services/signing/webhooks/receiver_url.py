"""The URL that a tenant registers, before anything is ever sent there.

1 https, or http where the operator allows it (then loopback alone is dialled) · 2 no user, no fragment · 3 the host is
a DNS name or an address in its one usual form: not decimal, octal or shortened, which resolvers and dialling functions
read in ways of their own · 4 an address passes the guard · 5 port 443, or one that no system service has.
A name is not looked up here: whoever owns it may change its addresses, so they are checked at each attempt.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import httpx

from pkicore.errors import MalformedError
from services.chassis.errors import NotReachedError
from services.chassis.outbound.addresses import AddressGuard
from services.chassis.outbound.exchange import host_of, port_of

MAX_URL: Final = 2048
_HTTPS: Final = 443
_FREE_PORTS: Final = range(1024, 65536)
_PLAIN: Final = re.compile(r"[!-~]+", re.ASCII)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def receiver_url(text: object, guard: AddressGuard, *, plain_http: bool) -> httpx.URL:
    """Check a receiver's URL by the numbered rules.

    Args:
        text: as it was registered.
        guard: which addresses may be dialled.
        plain_http: whether http is let through.

    Raises:
        MalformedError: it breaks one of them; the sentence says which.
    """
    if not isinstance(text, str) or len(text) > MAX_URL or not _PLAIN.fullmatch(text) or "\\" in text:
        raise MalformedError(f"a webhook's url must be a URL of at most {MAX_URL} characters, without spaces")
    try:
        url = httpx.URL(text)
        port = port_of(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise MalformedError("a webhook's url must be a URL") from error
    if url.scheme not in ({"https", "http"} if plain_http else {"https"}):
        raise MalformedError("a webhook's url must begin with https://")
    if url.userinfo or "@" in urlsplit(text).netloc or "#" in text:
        raise MalformedError("a webhook's url must have neither user nor fragment")
    if port != _HTTPS and port not in _FREE_PORTS:
        raise MalformedError(f"a webhook's url must name port {_HTTPS}, or one from {_FREE_PORTS[0]} on")
    _check_host(host_of(url), guard)
    return url


def _check_host(host: str, guard: AddressGuard) -> None:
    try:
        address = ip_address(host)
    except ValueError:
        _check_name(host)
        return
    try:
        guard.permitted(host, [address])
    except NotReachedError as error:
        raise MalformedError(f"a webhook's url must not name this address: {error}") from error


def _check_name(host: str) -> None:
    """A last label that is a number makes the whole an address to some readers (WHATWG URL, "ends in a number")."""
    if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise MalformedError("the host of a webhook's url must be a DNS name or an address in its usual form")
