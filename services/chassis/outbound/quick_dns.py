"""The usual look-up of an address, without a message object: one datagram out, one in, read where it is.

Whatever is out of the ordinary (an alias, an error, a truncated, strange or missing answer) is left to a full look-up;
nothing is decided here but that there are addresses, or that there are none of this family.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from typing import Final, cast

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


async def ask(
    server: tuple[IPAddress, int], name: str, kind: int, payload_bytes: int, seconds: float
) -> tuple[bytes, ...] | None:
    """Ask once over UDP.

    Args:
        server: address and port.
        name: without trailing dot.
        kind: one of `KINDS`.
        payload_bytes: the largest datagram that is welcome (EDNS, RFC 6891 §6.2.3).
        seconds: to wait for an answer.

    Returns:
        The addresses in network order; None where a full look-up must say.
    """
    question = _question(name, kind)
    if question is None:
        return None
    host, port = server
    try:
        async with asyncio.timeout(seconds):
            transport, exchange = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Exchange(question, kind, payload_bytes), remote_addr=(str(host), port)
            )
            try:
                return await exchange.outcome
            finally:
                transport.abort()
    except OSError:  # no answer in time, or no way there: the full look-up will have a sentence for it
        return None


class _Exchange(asyncio.DatagramProtocol):
    """Made by `loop.create_datagram_endpoint` for one server, so that only it is heard."""

    def __init__(self, question: bytes, kind: int, payload_bytes: int) -> None:
        self.outcome: asyncio.Future[tuple[bytes, ...] | None] = asyncio.get_running_loop().create_future()
        self._id = secrets.randbits(16)
        self._question = question
        self._kind = kind
        self._payload_bytes = payload_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the question, with an OPT record that says how large an answer may be."""
        options = _OPTIONS.pack(_OPT, self._payload_bytes, 0, 0)
        header = _HEADER.pack(self._id, _RECURSION_DESIRED, 1, 0, 0, 1)
        cast("asyncio.DatagramTransport", transport).sendto(header + self._question + options)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- the socket hears one address only
        """Take the answer to the question; what answers another one is not heard."""
        if self.outcome.done() or len(data) < _HEADER.size:
            return
        (number, flags, questions, answers, *_) = _HEADER.unpack_from(data)
        if number != self._id or questions != 1 or not data.startswith(self._question, _HEADER.size):
            return
        plain = flags & _JUDGED_FLAGS == _PLAIN_ANSWER
        start = _HEADER.size + len(self._question)
        self.outcome.set_result(_addresses(data, start, answers, self._kind) if plain else None)

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 -- the full look-up meets it again, and says so
        """The server is not there."""
        if not self.outcome.done():
            self.outcome.set_result(None)


def _question(name: str, kind: int) -> bytes | None:
    """The question in wire form; None for a name that DNS does not have."""
    labels = name.encode().split(b".")
    if not name.isascii() or not all(0 < len(label) <= _MAX_LABEL for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return wire + struct.pack("!HH", kind, _IN) if len(wire) <= _MAX_NAME else None


def _addresses(data: bytes, start: int, count: int, kind: int) -> tuple[bytes, ...] | None:
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
