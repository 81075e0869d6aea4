"""Who sends a request, where reverse proxies stand in front: configured, never guessed.

Whoever connects may write anything into `X-Forwarded-For` or `Forwarded`; only what a trusted proxy added is true. So
the headers count only on connections from trusted proxies, and are read from the right: the proxy added what it saw,
and where that is a trusted proxy too, the one before it did. The first address that is no trusted proxy is the client.
Anything else in that place is nobody's address: then the proxy itself is the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Literal, TypeAlias

from services.chassis.asgi import AsgiApp, Receive, Request, Scope, Send

Address: TypeAlias = IPv4Address | IPv6Address
ProxyHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]

_MOST_PROXIES: Final = 16  # in a row
_UNKNOWN: Final = "unknown"
# RFC 7239 §4: pairs whose values are tokens or quoted strings; an element or a header that is neither matches nothing.
_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;=]+)\s*', re.ASCII)
_PORT: Final = r"(?::[0-9]{1,5})?"
_V4: Final = re.compile(rf"([0-9.]+){_PORT}", re.ASCII)
_V6: Final = re.compile(rf"\[([0-9A-Fa-f:.]+)\]{_PORT}", re.ASCII)


def client_address(request: Request) -> str:
    """The address of whoever sends the request."""
    client = request.scope.get("client")
    return str(client[0]) if client else _UNKNOWN


class TrustedProxies:
    """Puts the client's address into the scope of requests that trusted proxies relay, before anybody looks.

    Args:
        app: what answers; its request log sees the client too.
        networks: where the proxies are.
        header: which of the two they write; the other one is not looked at.
    """

    def __init__(self, app: AsgiApp, networks: Sequence[IPv4Network | IPv6Network], header: ProxyHeader) -> None:
        self._app = app
        self._networks = tuple(networks)
        self._header = header.encode()
        self._hops = _forwarded if header == "forwarded" else _x_forwarded_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        peer = scope.get("client")
        if peer:
            written = [value.decode("latin-1") for name, value in scope["headers"] if name == self._header]
            if written:
                scope["client"] = (self._client(peer[0], written), peer[1])
        await self._app(scope, receive, send)

    def _client(self, peer: str, written: Sequence[str]) -> str:
        seen = _address(peer)
        if seen is None or not self._trusted(seen):
            return peer
        for hop in self._hops(",".join(written)):
            found = _node(hop)
            if found is None:
                return peer
            if not self._trusted(found):
                return str(found)
            seen = found
        return str(seen)

    def _trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _x_forwarded_for(header: str) -> Iterable[str]:
    """What each proxy saw, the last one first."""
    return (part.strip() for part in reversed(header.rsplit(",", _MOST_PROXIES)[-_MOST_PROXIES:]))


def _forwarded(header: str) -> Iterable[str]:
    """What each proxy saw (RFC 7239 §5.2), the last one first; "" for an element without it."""
    elements, position = [""], 0
    while position <= len(header):
        pair = _PAIR.match(header, position)
        if pair is None:
            return [""]
        if pair[1].lower() == "for":
            if elements[-1]:  # RFC 7239 §4: once in each element
                return [""]
            elements[-1] = pair[2].strip('"')
        position = pair.end() + 1
        if header[pair.end() : position] == ",":
            elements.append("")
        elif position <= len(header) and header[pair.end()] != ";":
            return [""]
    return elements[: -_MOST_PROXIES - 1 : -1]


def _node(text: str) -> Address | None:
    """An address, perhaps with a port; IPv6 with a port stands in brackets."""
    found = _V6.fullmatch(text) or _V4.fullmatch(text)
    return _address(found[1] if found else text)


def _address(text: str) -> Address | None:
    """One address, an IPv4 one as such even where it is written as IPv6 (RFC 4291 §2.5.5.2)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if address.version == 6:  # noqa: PLR2004 - IP version
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address
