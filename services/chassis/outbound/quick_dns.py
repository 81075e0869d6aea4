"""The usual look-up of an address, without a message object: for each family one datagram out, one in, read as it is.

Whatever is out of the ordinary (an alias, an error, a truncated, strange or missing answer) is left to a full look-up;
nothing is decided here but that there are addresses, or that there are none of this family.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from services.chassis.outbound.addresses import IPAddress

KINDS: Final = {"A": 1, "AAAA": 28}
_RDATA_BYTES: Final = {KINDS["A"]: 4, KINDS["AAAA"]: 16}
_RECURSION_DESIRED: Final = 0x0100
# Of the flags all but "authoritative", "recursion desired and available" and DNSSEC's two must be as in a plain answer.
_JUDGED_FLAGS, _PLAIN_ANSWER = 0xFA4F, 0x8000
_HEADER: Final = struct.Struct("!6H")
_RECORD: Final = struct.Struct("!HHHIH")  # pointer to the name, type, class, TTL, length
_OPTIONS: Final = struct.Struct("!xHHIH")  # the root as name, type, payload size, flags, length
_OPT, _SOA = 41, 6
_SOA_TIMES: Final = 20  # octets behind the two names of an SOA record
_POINTER: Final = 0xC0
_QUESTION_POINTER: Final = 0xC00C  # a record about the very name that was asked for
_IN: Final = 1
_MAX_LABEL, _MAX_NAME = 63, 255


Addresses: TypeAlias = tuple[bytes, ...]


async def ask(
    server: tuple[IPAddress, int], name: str, kinds: Sequence[int], payload_bytes: int, seconds: float
) -> list[Addresses | None]:
    """Ask once over UDP, from one port for all kinds, which is taken for this and then given back.

    Args:
        server: address and port.
        name: without trailing dot.
        kinds: some of `KINDS`.
        payload_bytes: the largest datagram that is welcome (EDNS, RFC 6891 §6.2.3).
        seconds: to wait for the answers.

    Returns:
        For each kind the addresses in network order; None where a full look-up must say.
    """
    wire = _wire(name)
    if wire is None:
        return [None for _ in kinds]
    exchange = _Exchange([_Question(wire, kind) for kind in kinds], payload_bytes)
    host, port = server
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, exchange.end)
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: exchange, remote_addr=(str(host), port))
        try:
            await exchange.done
        finally:
            transport.abort()
    except OSError:  # no way there: the full look-up will have a sentence for it
        return [None for _ in kinds]
    finally:
        timer.cancel()
    return exchange.found()


class _Question:
    """One of the questions, under a number of its own."""

    def __init__(self, wire: bytes, kind: int) -> None:
        self.kind = kind
        self.number = secrets.randbits(16)
        self.section = wire + struct.pack("!HH", kind, _IN)
        self.is_open = True
        self.found: Addresses | None = None

    def datagram(self, payload_bytes: int) -> bytes:
        """The question, with an OPT record that says how large an answer may be."""
        header = _HEADER.pack(self.number, _RECURSION_DESIRED, 1, 0, 0, 1)
        return header + self.section + _OPTIONS.pack(_OPT, payload_bytes, 0, 0)

    def hear(self, data: bytes) -> None:
        """Take the answer to this question; what answers another one is not heard."""
        (number, flags, questions, answers, authorities, additional) = _HEADER.unpack_from(data)
        if number != self.number or questions != 1 or not data.startswith(self.section, _HEADER.size):
            return
        self.is_open = False
        start = _HEADER.size + len(self.section)
        rest = start + answers * (_RECORD.size + _RDATA_BYTES[self.kind])
        if flags & _JUDGED_FLAGS == _PLAIN_ANSWER and _is_plain_rest(data, rest, authorities, additional):
            self.found = _addresses(data, start, answers, self.kind)


class _Exchange(asyncio.DatagramProtocol):
    """Made by `loop.create_datagram_endpoint` for one server, so that only it is heard."""

    def __init__(self, questions: Sequence[_Question], payload_bytes: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._questions = questions
        self._payload_bytes = payload_bytes

    def found(self) -> list[Addresses | None]:
        """What each question has brought so far."""
        return [question.found for question in self._questions]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the questions."""
        for question in self._questions:
            cast("asyncio.DatagramTransport", transport).sendto(question.datagram(self._payload_bytes))

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- the socket hears one address only
        """Take an answer; the last one ends the wait."""
        if len(data) < _HEADER.size:
            return
        for question in self._questions:
            if question.is_open:
                question.hear(data)
        if not any(question.is_open for question in self._questions):
            self.end()

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 -- the full look-up meets it again, and says so
        """The server is not there."""
        self.end()

    def end(self) -> None:
        """Wait no longer."""
        if not self.done.done():
            self.done.set_result(None)


def _wire(name: str) -> bytes | None:
    """The name in wire form; None for one that DNS does not have."""
    labels = name.encode().split(b".")
    if not name.isascii() or not all(0 < len(label) <= _MAX_LABEL for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return wire if len(wire) <= _MAX_NAME else None


def _addresses(data: bytes, start: int, count: int, kind: int) -> Addresses | None:
    """The addresses of the answer section; None where anything else is in it."""
    size = _RDATA_BYTES[kind]
    found: list[bytes] = []
    for _ in range(count):
        end = start + _RECORD.size + size
        if end > len(data):
            return None
        pointer, found_kind, found_class, _ttl, length = _RECORD.unpack_from(data, start)
        if (pointer, found_kind, found_class, length) != (_QUESTION_POINTER, kind, _IN, size):
            return None
        found.append(data[end - size : end])
        start = end
    return tuple(found)


def _is_plain_rest(data: bytes, start: int, authorities: int, additional: int) -> bool:
    """Whether no more comes than an SOA record (RFC 2308 §2.2) and an OPT record that says nothing, and both are whole.

    The upper bits of the response code are in the latter (RFC 6891 §6.1.3).
    """
    if authorities > 1 or additional > 1:
        return False
    try:
        if authorities:
            start = _end_of_soa(data, start)
        if not additional:
            return start == len(data)
        kind, _payload, code_version_flags, length = _OPTIONS.unpack_from(data, start)
        is_silent = (data[start], kind, code_version_flags >> 16, length) == (0, _OPT, 0, 0)
        return is_silent and start + _OPTIONS.size == len(data)
    except (IndexError, ValueError, struct.error):
        return False


def _end_of_soa(data: bytes, start: int) -> int:
    """Where the record ends; ValueError, IndexError or struct.error where it is none."""
    start = _end_of_name(data, start)
    kind, found_class, _ttl, length = struct.unpack_from("!HHIH", data, start)
    start += 10
    end = _end_of_name(data, _end_of_name(data, start)) + _SOA_TIMES
    if (kind, found_class, end) != (_SOA, _IN, start + length) or end > len(data):
        raise ValueError("no SOA record")
    return end


def _end_of_name(data: bytes, at: int) -> int:
    """Where a name ends that may be compressed, with what stands before (RFC 1035 §4.1.4); errors likewise."""
    end, start, bound, size = 0, at, len(data), 1
    while at < bound:
        length = data[at]
        if not length:
            return end or at + 1
        if length >= _POINTER:
            end = end or at + 2
            bound, at = start, (length - _POINTER) << 8 | data[at + 1]
            start = at
            continue
        at += 1 + length
        size += 1 + length
        if length > _MAX_LABEL or size > _MAX_NAME:
            raise ValueError("a label or name that is too long")
    raise ValueError("a name that does not end, or whose pointer does not lead to what is wholly before it")
