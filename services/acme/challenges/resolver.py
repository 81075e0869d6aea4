"""DNS look-ups of the validators: asynchronous, bounded in time, and every failure a sentence."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import dns.exception
import dns.name
import dns.resolver

from pkicore.errors import MalformedError
from services.acme.challenges.addresses import IPAddress
from services.acme.challenges.dns_message import Question, Reply, address_of, text_of
from services.acme.errors import ValidationError

DNS_PORT = 53
TRY_SECONDS = 2.0
MAX_ADDRESSES_PER_FAMILY = 4
MAX_TEXTS = 64

Server = tuple[str, int]
_Value = TypeVar("_Value")


class Resolver:
    """A stub resolver that asks one configured server, or the system's servers in turn.

    It trusts the server to follow CNAMEs and keeps no cache: a validation must see what is there now. Each question
    goes out from a port of its own, under a random id. Answers that are truncated are asked for again over TCP.

    Args:
        servers: address and port of each.
        lifetime: seconds for one look-up with all its retries.
    """

    def __init__(self, servers: Sequence[Server], lifetime: float) -> None:
        self._servers = tuple(servers)
        self._lifetime = lifetime

    @classmethod
    def build(cls, server: str, lifetime: float) -> Self:
        """Make a resolver.

        Args:
            server: "host:port", "[v6]:port" or a bare address; empty for the system's configuration.
            lifetime: seconds for one look-up with all its retries.

        Raises:
            ValueError: a server that is not an address with an optional port.
            dns.resolver.NoResolverConfiguration: no server is given and the system names none.
        """
        if server:
            host, port = parse_server(server)
            return cls([(str(host), port)], lifetime)
        configured = dns.resolver.Resolver(configure=True).nameservers
        return cls([(str(address), DNS_PORT) for address in configured], lifetime)

    async def addresses(self, host: str) -> tuple[IPAddress, ...]:
        """Look up AAAA and A together; IPv6 first, at most four of each.

        Raises:
            ValidationError: "dns", when neither look-up gave an address.
        """
        found: list[IPAddress] = []
        failure = ValidationError("dns", f"{host} has neither an A nor an AAAA record")
        for result in await asyncio.gather(self._query(host, "AAAA"), self._query(host, "A"), return_exceptions=True):
            match result:
                case tuple():
                    found += [_read(address_of, data) for data in result[:MAX_ADDRESSES_PER_FAMILY]]
                case ValidationError():
                    failure = result
                case _:
                    raise result
        if not found:
            raise failure
        return tuple(found)

    async def texts(self, name: str) -> tuple[bytes, ...]:
        """Look up the TXT records of `name`, the strings of each joined; at most 64 records.

        Raises:
            ValidationError: "dns", when the look-up failed; no record at an existing name is an empty tuple.
        """
        return tuple(_read(text_of, data) for data in (await self._query(name, "TXT"))[:MAX_TEXTS])

    async def _query(self, name: str, kind: str) -> tuple[bytes, ...]:
        """The data of the records.

        Raises:
            ValidationError: "dns".
        """
        try:
            question = Question.of(dns.name.from_text(f"{name}."), kind)
        except dns.exception.DNSException as error:
            sentence = f"a name with labels that DNS does not allow cannot be looked up ({kind})"
            raise ValidationError("dns", sentence) from error
        try:
            async with asyncio.timeout(self._lifetime):
                reply = await self._ask(question, name)
        except TimeoutError as error:
            sentence = f"the DNS server gave no answer in time looking up {kind} of {name}"
            raise ValidationError("dns", sentence) from error
        if reply.rcode == "NXDOMAIN":
            raise ValidationError("dns", f"{name} does not exist (NXDOMAIN looking up {kind})")
        return reply.records

    async def _ask(self, question: Question, name: str) -> Reply:
        """Ask the servers in turn until one knows; one that is silent is asked again, one that refuses is not.

        Raises:
            ValidationError: "dns", when every server refused.
        """
        left, reasons = list(self._servers), set[str]()
        while left:
            server = left.pop(0)
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    reply = await _exchange(server, question)
            except TimeoutError:
                left.append(server)
            except (OSError, EOFError, MalformedError) as error:
                reasons.add(type(error).__name__)
            else:
                if reply.rcode in {"NOERROR", "NXDOMAIN"}:
                    return reply
                reasons.add(reply.rcode)
        failures = ", ".join(sorted(reasons))
        raise ValidationError("dns", f"looking up {question.kind} of {name} failed: {failures}")


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


async def _exchange(server: Server, question: Question) -> Reply:
    """One question and its reply.

    Raises:
        OSError, EOFError: the server cannot be reached, or hangs up.
        MalformedError: it answers nonsense.
    """
    loop = asyncio.get_running_loop()
    transport, socket = await loop.create_datagram_endpoint(lambda: _Datagrams(question), remote_addr=server)
    try:
        transport.sendto(question.wire)
        reply = await socket.reply
    finally:
        transport.abort()
    return await _exchange_by_tcp(server, question) if reply.truncated else reply


async def _exchange_by_tcp(server: Server, question: Question) -> Reply:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack("!H", len(question.wire)) + question.wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        reply = Reply.parse(await reader.readexactly(length), question)
    finally:
        writer.transport.abort()
    if reply is None or reply.truncated:
        raise MalformedError("the DNS server's answer over TCP is none to the question")
    return reply


class _Datagrams(asyncio.DatagramProtocol):
    """A socket for one question; the kernel lets in what comes from the server, and of that the reply is believed."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:  # noqa: ARG002 -- asyncio's signature
        """Take the first reply to the question."""
        if self.reply.done():
            return
        try:
            reply = Reply.parse(data, self._question)
        except MalformedError as error:
            self.reply.set_exception(error)
        else:
            if reply is not None:
                self.reply.set_result(reply)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.reply.done():
            self.reply.set_exception(exc)


def _read(parse: Callable[[bytes], _Value], data: bytes) -> _Value:
    try:
        return parse(data)
    except MalformedError as error:
        raise ValidationError("dns", f"the DNS server's answer makes no sense: {error}") from error
