"""The little of the DNS wire format that a stub resolver needs (RFC 1035 §4, RFC 6891): a question, and its reply.

dnspython reads the names and guards every bound; building its whole message objects took a quarter of a validation.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

import dns.exception
import dns.name
import dns.rcode
import dns.wire

from pkicore.errors import MalformedError

TYPES: Final = {"A": 1, "TXT": 16, "AAAA": 28}
# Fits every path without fragmentation (DNS flag day 2020); larger answers come by TCP.
UDP_PAYLOAD_BYTES: Final = 1232
MAX_ALIASES: Final = 16
_IPV4_OCTETS, _IPV6_OCTETS = 4, 16
_CNAME: Final = 5
_IN: Final = 1
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION_DESIRED, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
_HEADER: Final = struct.Struct("!6H")
_RECORD: Final = "!HHIH"  # type, class, time to live, length of the data
_OPT: Final = b"\0" + struct.pack(_RECORD, 41, UDP_PAYLOAD_BYTES, 0, 0)


@dataclass(frozen=True, slots=True)
class Question:
    """One name and type, under an id that only the server asked knows; `wire` is the whole message."""

    name: dns.name.Name
    kind: str
    wire: bytes

    @classmethod
    def of(cls, name: dns.name.Name, kind: str) -> Self:
        """Ask for records of a kind in `TYPES`, recursively, with a random id."""
        header = _HEADER.pack(secrets.randbits(16), _RECURSION_DESIRED, 1, 0, 0, 1)
        encoded = name.to_wire() or b""  # None only where it writes into a file
        return cls(name, kind, header + encoded + struct.pack("!HH", TYPES[kind], _IN) + _OPT)

    @property
    def section(self) -> bytes:
        """The question section, which every reply repeats."""
        return self.wire[_HEADER.size : -len(_OPT)]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: the code's name, whether it did not fit, and the data of the records asked for."""

    rcode: str
    truncated: bool
    records: tuple[bytes, ...]

    @classmethod
    def parse(cls, wire: bytes, question: Question) -> Self | None:
        """Read a message; None where it is no reply to this question, but stray or forged.

        Raises:
            MalformedError: it is a reply, and does not parse.
        """
        section = question.section
        if len(wire) < _HEADER.size + len(section) or wire[:2] != question.wire[:2]:
            return None
        _, flags, questions, answers, _, _ = _HEADER.unpack_from(wire)
        repeated = wire[_HEADER.size : _HEADER.size + len(section)]
        # Lengths are below 64, so that lower() changes letters alone.
        if questions != 1 or flags & (_RESPONSE | _OPCODE) != _RESPONSE or repeated.lower() != section.lower():
            return None
        rcode = dns.rcode.to_text(dns.rcode.Rcode(flags & _RCODE))
        if flags & _TRUNCATED:
            return cls(rcode, truncated=True, records=())
        try:
            records = _records(dns.wire.Parser(wire, _HEADER.size + len(section)), answers, question)
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            raise MalformedError("the DNS server's reply does not parse") from error
        return cls(rcode, truncated=False, records=records)


def _records(parser: dns.wire.Parser, count: int, question: Question) -> tuple[bytes, ...]:
    """The data of the wanted records at the end of the chain of aliases, if the server sent it whole."""
    aliases: dict[dns.name.Name, dns.name.Name] = {}
    found: dict[dns.name.Name, list[bytes]] = {}
    for _ in range(count):
        owner = parser.get_name(decompress=True)
        kind, record_class, _, length = parser.get_struct(_RECORD)
        with parser.restrict_to(length):
            if record_class == _IN and kind == _CNAME:
                aliases[owner] = parser.get_name(decompress=True)
            elif record_class == _IN and kind == TYPES[question.kind]:
                found.setdefault(owner, []).append(parser.get_bytes(length))
            else:
                parser.get_bytes(length)
    name = question.name
    for _ in range(MAX_ALIASES):
        if name not in aliases:
            break
        name = aliases[name]
    return tuple(found.get(name, ()))


def address_of(data: bytes) -> IPv4Address | IPv6Address:
    """The address in the data of an A or AAAA record.

    Raises:
        MalformedError: neither 4 nor 16 octets.
    """
    if len(data) not in {_IPV4_OCTETS, _IPV6_OCTETS}:
        raise MalformedError("an address record holds no address")
    return IPv4Address(data) if len(data) == _IPV4_OCTETS else IPv6Address(data)


def text_of(data: bytes) -> bytes:
    """The strings of a TXT record, joined.

    Raises:
        MalformedError: a string that is longer than the record.
    """
    parts, position = [], 0
    while position < len(data):
        end = position + 1 + data[position]
        if end > len(data):
            raise MalformedError("a TXT record ends within a string")
        parts.append(data[position + 1 : end])
        position = end
    return b"".join(parts)
