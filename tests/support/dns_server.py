"""A small DNS simulator over real UDP and TCP sockets: the outside world of the validators, for tests and the demo.

It answers like a recursive resolver that knows a table of names and nothing else: CNAMEs are followed inside the table,
`*.suffix` matches every deeper name, unknown names are NXDOMAIN. Each entry may misbehave (see `Entry`).

As a program: `python tests/support/dns_server.py --port 0 --records FILE.json` prints its port and reads the file anew
whenever it changes. The file maps a name to an entry, for example::

    {"demo.pqcpki.test": {"A": ["127.0.0.1"]}, "_acme-challenge.demo.pqcpki.test": {"TXT": ["value"]}}
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

MAX_CNAMES = 16
TTL_SECONDS = 0
RECORD_TYPES = ("A", "AAAA", "TXT", "CAA")


@dataclass(frozen=True)
class Entry:
    """What one name answers.

    Attributes:
        records: record type -> values in presentation form; a TXT value is one string or a list of strings.
        cname: the name this one is an alias of.
        rcode: answer with this code ("SERVFAIL", "NXDOMAIN", "REFUSED") and no records.
        delay: seconds to wait before any answer.
        drop: never answer.
        truncate: over UDP, answer only with the TC flag, so that the client must come by TCP.
    """

    records: Mapping[str, Sequence[str | Sequence[str]]] = field(default_factory=dict)
    cname: str | None = None
    rcode: str | None = None
    delay: float = 0.0
    drop: bool = False
    truncate: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read one entry of the records file; record types in capitals, behaviours in lower case."""
        return cls(
            records={kind: value[kind] for kind in RECORD_TYPES if kind in value},
            cname=value.get("CNAME"),
            rcode=value.get("rcode"),
            delay=float(value.get("delay", 0)),
            drop=bool(value.get("drop", False)),
            truncate=bool(value.get("truncate", False)),
        )


@dataclass(frozen=True)
class Query:
    """One question that was received."""

    name: str
    type: str
    transport: str


class DnsSimulator:
    """The table of names and the two sockets that serve it.

    Attributes:
        queries: every question received, in order.
        port: the port of both sockets after `start`.
    """

    def __init__(self, records_file: Path | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._records_file = records_file
        self._file_version: tuple[int, int, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self.queries: list[Query] = []
        self.port = 0

    def set(self, name: str, **entry: Any) -> None:  # noqa: ANN401 -- the keys and values of the records file
        """Set what `name` answers: `A=[...]`, `AAAA=[...]`, `TXT=[...]`, `CNAME="..."`, `rcode=`, `delay=`, ..."""
        self._entries[_canonical(name)] = Entry.from_json(entry)

    def remove(self, name: str) -> None:
        """Forget `name`; it is NXDOMAIN from now on."""
        self._entries.pop(_canonical(name), None)

    @property
    def address(self) -> str:
        """`host:port`, as the resolver setting wants it."""
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Open both sockets on one port number."""
        loop = asyncio.get_running_loop()
        for _ in range(20):
            self._tcp = await asyncio.start_server(self._serve_tcp, host, port)
            self.port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(host, self.port))
            except OSError:
                self._tcp.close()
                if port:
                    raise
            else:
                return self
        raise OSError("no port number is free for both UDP and TCP")

    async def stop(self) -> None:
        """Close both sockets and end what is still being answered."""
        if self._udp:
            self._udp.close()
        if self._tcp:
            self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tcp:
            await self._tcp.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def spawn(self, coroutine: Any) -> None:  # noqa: ANN401 -- Coroutine[Any, Any, None] needs as many Anys
        """Answer in the background; `stop` cancels what is left."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answer_udp(self, wire: bytes, peer: tuple[str | Any, int]) -> None:
        """Answer one datagram."""
        reply = await self.answer(wire, "udp")
        if reply is not None and self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(reply, peer)

    async def answer(self, wire: bytes, transport: str) -> bytes | None:
        """Answer one question.

        Returns:
            The reply in wire format, or None when nothing is to be sent.
        """
        self._read_file()
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        question = query.question[0]
        name, kind = _canonical(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.queries.append(Query(name, kind, transport))
        entry = self._find(name)
        if entry is not None:
            await asyncio.sleep(entry.delay)
            if entry.drop:
                return None
        reply = dns.message.make_response(query, recursion_available=True)
        self._fill(reply, name, kind)
        if transport == "udp" and entry is not None and entry.truncate:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        limit = 65535 if transport == "tcp" else max(512, query.payload)
        return reply.to_wire(max_size=limit, prefer_truncation=True)

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        """Add the records of `name`, following CNAMEs inside the table."""
        for _ in range(MAX_CNAMES):
            entry = self._find(name)
            if entry is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                return
            if entry.rcode is not None:
                reply.set_rcode(dns.rcode.from_text(entry.rcode))
                return
            if entry.cname is None:
                values = [_presentation(kind, value) for value in entry.records.get(kind, ())]
                if values:
                    reply.answer.append(dns.rrset.from_text(f"{name}.", TTL_SECONDS, "IN", kind, *values))
                return
            target = _canonical(entry.cname)
            reply.answer.append(dns.rrset.from_text(f"{name}.", TTL_SECONDS, "IN", "CNAME", f"{target}."))
            name = target
        reply.set_rcode(dns.rcode.SERVFAIL)

    def _find(self, name: str) -> Entry | None:
        if name in self._entries:
            return self._entries[name]
        labels = name.split(".")
        for depth in range(1, len(labels)):
            entry = self._entries.get("*." + ".".join(labels[depth:]))
            if entry is not None:
                return entry
        return None

    def _read_file(self) -> None:
        """Read the records file if it changed; a file that is being written keeps the old records."""
        if self._records_file is None or not self._records_file.exists():
            return
        status = self._records_file.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if version == self._file_version:
            return
        with contextlib.suppress(json.JSONDecodeError):
            entries = json.loads(self._records_file.read_text())
            self._entries = {_canonical(name): Entry.from_json(entry) for name, entry in entries.items()}
            self._file_version = version

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = await self.answer(await reader.readexactly(length), "tcp")
                if reply is None:
                    break
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return  # the client went away, or `stop` was called
        finally:
            writer.transport.abort()


class _Udp(asyncio.DatagramProtocol):
    """The UDP socket."""

    def __init__(self, simulator: DnsSimulator) -> None:
        self._simulator = simulator

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer one datagram in the background."""
        self._simulator.spawn(self._simulator.answer_udp(data, addr))


def _canonical(name: str) -> str:
    return name.rstrip(".").lower()


def _presentation(kind: str, value: str | Sequence[str]) -> str:
    """One record in master-file form; TXT strings are quoted."""
    if kind != "TXT":
        return str(value)
    strings = [value] if isinstance(value, str) else value
    return " ".join('"' + string.replace("\\", "\\\\").replace('"', '\\"') + '"' for string in strings)


async def _main() -> None:
    parser = argparse.ArgumentParser(description="DNS simulator for tests and the demo (loopback only).")
    parser.add_argument("--port", type=int, default=0, help="port of both sockets; 0 takes a free one")
    parser.add_argument("--records", type=Path, required=True, help="JSON file of names, read anew when it changes")
    arguments = parser.parse_args()
    simulator = await DnsSimulator(arguments.records).start(arguments.port)
    print(simulator.port, flush=True)  # noqa: T201 -- the program's one line of output
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
