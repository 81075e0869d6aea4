"""DNS look-ups of names from outside: asynchronous, bounded in time, and every failure a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdata
import dns.rdtypes.ANY.CAA
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.resolver

from services.chassis.errors import NotResolvedError
from services.chassis.outbound import quick_dns
from services.chassis.outbound.addresses import IPAddress

DNS_PORT = 53
# Fits every path without fragmentation (DNS flag day 2020); larger answers come by TCP.
UDP_PAYLOAD_BYTES = 1232
TRY_SECONDS = 2.0
MAX_ADDRESSES_PER_FAMILY = 4
MAX_TEXTS = 64
QUICK_SHARE = 0.25  # of a look-up's time, what the quick question may take
_FAMILIES: Final = ("AAAA", "A")


class CaaRecord(NamedTuple):
    """A CAA record (RFC 8659 §4.1) as it came: whatever is in it is the zone owner's."""

    flags: int
    tag: bytes
    value: bytes


class Resolver:
    """A stub resolver that asks one configured server, or the system's servers; zones may have servers of their own.

    It trusts the server to follow CNAMEs and keeps no cache: whoever asks must see what is there now. UDP answers that
    are truncated are asked for again over TCP.

    Args:
        resolver: asked by default.
        lifetime: seconds for one look-up with all its retries.
        zones: who is asked for the names of a zone, the zone's own included; the longest zone that fits counts.
    """

    def __init__(
        self,
        resolver: dns.asyncresolver.Resolver,
        lifetime: float,
        zones: Mapping[str, dns.asyncresolver.Resolver] | None = None,
    ) -> None:
        self._resolver = resolver
        self._lifetime = lifetime
        self._zones = dict(zones or {})
        for one in (resolver, *self._zones.values()):
            one.cache = None
            one.timeout = min(TRY_SECONDS, lifetime)
            one.use_edns(0, 0, UDP_PAYLOAD_BYTES)

    @classmethod
    def build(cls, server: str, lifetime: float, zones: Mapping[str, str] | None = None) -> Self:
        """Make a resolver.

        Args:
            server: "host:port", "[v6]:port" or a bare address; empty for the system's configuration.
            lifetime: seconds for one look-up with all its retries.
            zones: the server of each zone that has its own, such as an internal one.

        Raises:
            ValueError: a server that is not an address with an optional port.
            dns.resolver.NoResolverConfiguration: no server is given and the system names none.
        """
        default = _asking(server) if server else dns.asyncresolver.Resolver(configure=True)
        return cls(default, lifetime, {zone: _asking(own) for zone, own in (zones or {}).items()})

    async def addresses(self, host: str) -> tuple[IPAddress, ...]:
        """Look up AAAA and A together; IPv6 first, at most four of each.

        Raises:
            NotResolvedError: neither look-up gave an address.
        """
        found: list[IPAddress] = []
        failure = NotResolvedError(f"{host} has neither an A nor an AAAA record")
        quick = await self._quick_look_ups(host)
        if all(addresses is not None for addresses in quick):
            results: Sequence[object] = quick
        else:
            look_ups = (self._family(host, kind, known) for kind, known in zip(_FAMILIES, quick, strict=True))
            results = await asyncio.gather(*look_ups, return_exceptions=True)
        for result in results:
            match result:
                case list():
                    found += result[:MAX_ADDRESSES_PER_FAMILY]
                case NotResolvedError():
                    failure = result
                case BaseException():
                    raise result
        if not found:
            raise failure
        return tuple(found)

    async def _quick_look_ups(self, host: str) -> list[list[IPAddress] | None]:
        """The addresses of each family, as far as a quick question says."""
        server = _server_of(self._asked_for(host))
        if server is None:
            return [None for _ in _FAMILIES]
        kinds = [quick_dns.KINDS[kind] for kind in _FAMILIES]
        found = await quick_dns.ask(server, host, kinds, UDP_PAYLOAD_BYTES, self._lifetime * QUICK_SHARE)
        return [None if octets is None else [ip_address(one) for one in octets] for octets in found]

    async def _family(self, host: str, kind: str, known: list[IPAddress] | None) -> list[IPAddress]:
        """The addresses of one family, by a full look-up where they are not known."""
        if known is not None:
            return known
        return [_address(record) for record in await self._query(host, kind, self._lifetime * (1 - QUICK_SHARE))]

    async def texts(self, name: str) -> tuple[bytes, ...]:
        """Look up the TXT records of `name`, the strings of each joined; at most 64 records.

        Raises:
            NotResolvedError: the look-up failed; no record at an existing name is an empty tuple.
        """
        records = await self._query(name, "TXT")
        return tuple(
            b"".join(record.strings) for record in records[:MAX_TEXTS] if isinstance(record, dns.rdtypes.ANY.TXT.TXT)
        )

    async def caa(self, name: str) -> tuple[CaaRecord, ...]:
        """Look up the CAA records of `name` itself, aliases followed.

        Raises:
            NotResolvedError: the look-up failed; a name without such records, or that does not exist, is an empty
                tuple.
        """
        try:
            records = await self._query(name, "CAA")
        except NotResolvedError as error:
            if isinstance(error.__cause__, dns.resolver.NXDOMAIN):
                return ()
            raise
        return tuple(
            CaaRecord(record.flags, record.tag, record.value)
            for record in records
            if isinstance(record, dns.rdtypes.ANY.CAA.CAA)
        )

    def _asked_for(self, name: str) -> dns.asyncresolver.Resolver:
        """The server of the longest zone that has this name."""
        if self._zones:
            labels = name.lower().split(".")
            for start in range(len(labels)):
                own = self._zones.get(".".join(labels[start:]))
                if own is not None:
                    return own
        return self._resolver

    async def _query(self, name: str, kind: str, lifetime: float | None = None) -> list[dns.rdata.Rdata]:
        try:
            answer = await self._asked_for(name).resolve(
                dns.name.from_text(f"{name}."),
                kind,
                search=False,
                raise_on_no_answer=False,
                lifetime=lifetime or self._lifetime,
            )
        except (dns.exception.DNSException, OSError) as error:
            raise NotResolvedError(_sentence(error, name, kind)) from error
        return list(answer.rrset or ())


def parse_server(server: str) -> tuple[IPAddress, int]:
    """Split "host:port" into an address and a port.

    Raises:
        ValueError: the host is not an IP address, or the port not a port.
    """
    bare_v6 = server.count(":") > 1 and not server.startswith("[")
    try:
        split = urlsplit(f"//[{server}]" if bare_v6 else f"//{server}")
        return ip_address(split.hostname or ""), split.port or DNS_PORT
    except ValueError as error:
        raise ValueError(f"resolver {server!r} is not an IP address with an optional port") from error


def _asking(server: str) -> dns.asyncresolver.Resolver:
    """Asks this server alone."""
    host, port = parse_server(server)
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [str(host)]
    resolver.port = port
    return resolver


def _server_of(resolver: dns.asyncresolver.Resolver) -> tuple[IPAddress, int] | None:
    """Whom a resolver asks first, where it is asked by plain DNS."""
    match resolver.nameservers:
        case [str(host), *_]:
            return ip_address(host), resolver.port
    return None


def _address(record: dns.rdata.Rdata) -> IPAddress:
    match record:
        case dns.rdtypes.IN.AAAA.AAAA():
            return IPv6Address(record.address)
        case dns.rdtypes.IN.A.A():
            return IPv4Address(record.address)
    raise NotResolvedError("the resolver answered with a record of another type")


def _sentence(error: Exception, name: str, kind: str) -> str:
    """Say what went wrong without the name server's own words."""
    match error:
        case dns.resolver.NXDOMAIN():
            return f"{name} does not exist (NXDOMAIN looking up {kind})"
        case dns.exception.Timeout():
            return f"the DNS server gave no answer in time looking up {kind} of {name}"
        case dns.resolver.NoNameservers():
            reasons = sorted({_reason(entry[3]) for entry in error.kwargs.get("errors", ())})
            return f"looking up {kind} of {name} failed: {', '.join(reasons) or 'no DNS server answered'}"
        case dns.name.LabelTooLong() | dns.name.NameTooLong() | dns.name.EmptyLabel():
            return f"a name with labels that DNS does not allow cannot be looked up ({kind})"
    return f"looking up {kind} of {name} failed ({type(error).__name__})"


def _reason(cause: object) -> str:
    """An rcode stays as it is; an exception is named by its type."""
    return cause if isinstance(cause, str) else type(cause).__name__
