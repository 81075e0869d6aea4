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
_OPT: Final = 41
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
        (number, flags, questions, answers, *_) = _HEADER.unpack_from(data)
        if number != self.number or questions != 1 or not data.startswith(self.section, _HEADER.size):
            return
        self.is_open = False
        if flags & _JUDGED_FLAGS == _PLAIN_ANSWER:
            self.found = _addresses(data, _HEADER.size + len(self.section), answers, self.kind)


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
