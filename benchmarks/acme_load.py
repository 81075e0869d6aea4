"""The load side of `acme.py`: full ACME orders over keep-alive connections, little work per request.

It is a process of its own, so that it can have a processor of its own: its configuration comes as JSON on standard
input, one JSON result per level goes to standard output. It answers the http-01 challenges itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

SHA256: Final = ec.ECDSA(hashes.SHA256())
YARDSTICK_ROUNDS: Final = 500
POLL_SECONDS: Final = (0.001, 0.002, 0.004, 0.008, 0.016)  # the last again and again; a peer answers "processing"
ORDER_SECONDS: Final = 60.0
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


def b64u(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Connection:
    """One keep-alive HTTP/1.1 connection, opened again when the server closed it."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._tls = parts.hostname or "", parts.port or 443, tls
        self._authority = parts.netloc
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.opened = 0

    async def request(self, method: str, url: str, body: bytes = b"") -> tuple[int, dict[bytes, bytes], bytes]:
        """One request; status, headers by lower-case name, body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            self.opened += 1
        reader, writer = self._streams
        target = url.partition(self._authority)[2]
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: {self._authority}\r\nUser-Agent: pqcpki-benchmark\r\n"
            f"Content-Type: application/jose+json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        content = b"" if method == "HEAD" else await _body(reader, headers)
        if headers.get(b"connection", b"").lower() == b"close":
            await self.close()
        return int(first.split(b" ", 2)[1]), headers, content

    async def close(self) -> None:
        """Close the connection, if one is open."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _body(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> bytes:
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(headers.get(b"content-length", b"0")))
    content = b""
    while size := int(await reader.readline(), 16):
        content += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return content


class Client:
    """One ACME account on one connection.

    Attributes:
        requests: how many were sent.
    """

    def __init__(self, directory_url: str, tls: ssl.SSLContext, answers: dict[str, str]) -> None:
        self._connection = Connection(directory_url, tls)
        self._directory_url = directory_url
        self._answers = answers
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._directory: dict[str, str] = {}
        self._nonce = ""
        self._names: dict[str, Any] = {}
        self._thumbprint = ""
        self.requests = 0

    async def register(self) -> None:
        """Read the directory and make the account."""
        _, _, content = await self._connection.request("GET", self._directory_url)
        self._directory = orjson.loads(content)
        _, headers, _ = await self._connection.request("HEAD", self._directory["newNonce"])
        self._nonce = headers[b"replay-nonce"].decode()
        numbers = self._key.public_key().public_numbers()
        x, y = (b64u(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        self._thumbprint = b64u(hashlib.sha256(orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS)).digest())
        self._names = {"jwk": jwk}
        headers, _ = await self._post(self._directory["newAccount"], {"termsOfServiceAgreed": True})
        self._names = {"kid": headers[b"location"].decode()}

    async def order(self, name: str, csr: str) -> str:
        """A full order for one name; the PEM chain."""
        headers, content = await self._post(
            self._directory["newOrder"], {"identifiers": [{"type": "dns", "value": name}]}
        )
        order, order_url = orjson.loads(content), headers[b"location"].decode()
        for url in order["authorizations"]:
            await self._authorize(url)
        _, content = await self._post(order["finalize"], {"csr": csr})
        order = await self._settled(order_url, orjson.loads(content))
        _, content = await self._post(order["certificate"], None)
        return content.decode()

    async def close(self) -> int:
        """Close the connection; how many were opened."""
        await self._connection.close()
        return self._connection.opened

    async def _authorize(self, url: str) -> None:
        _, content = await self._post(url, None)
        authorization = orjson.loads(content)
        if authorization["status"] == "valid":
            return
        challenge = next(item for item in authorization["challenges"] if item["type"] == "http-01")
        token = challenge["token"]
        self._answers[token] = f"{token}.{self._thumbprint}"
        _, content = await self._post(challenge["url"], {})
        if orjson.loads(content)["status"] != "valid":
            await self._settled(url, {"status": "pending"})
        del self._answers[token]

    async def _settled(self, url: str, document: dict[str, Any]) -> dict[str, Any]:
        """The document once it is valid; polls while it is not yet."""
        waits = chain(POLL_SECONDS, repeat(POLL_SECONDS[-1]))
        while document["status"] in {"pending", "ready", "processing"}:
            await asyncio.sleep(next(waits))
            _, content = await self._post(url, None)
            document = orjson.loads(content)
        if document["status"] != "valid":
            raise RuntimeError(f"{url} became {document['status']}: {document}")
        return document

    async def _post(self, url: str, payload: dict[str, Any] | None) -> tuple[dict[bytes, bytes], bytes]:
        body = b"" if payload is None else orjson.dumps(payload)
        while True:
            status, headers, content = await self._connection.request("POST", url, self._jws(url, body))
            self.requests += 1
            self._nonce = headers[b"replay-nonce"].decode()
            if status < 400:
                return headers, content
            if b"badNonce" not in content:
                raise RuntimeError(f"{url} answered {status}: {content[:500].decode(errors='replace')}")

    def _jws(self, url: str, payload: bytes) -> bytes:
        protected = b64u(orjson.dumps({"alg": "ES256", "nonce": self._nonce, "url": url, **self._names}))
        encoded = b64u(payload)
        r, s = decode_dss_signature(self._key.sign(f"{protected}.{encoded}".encode(), SHA256))
        signature = b64u(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return orjson.dumps({"protected": protected, "payload": encoded, "signature": signature})


class ChallengeProtocol(asyncio.Protocol):
    """Answers http-01 for every token on its way, and closes."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # TCP gives a Transport

    def data_received(self, data: bytes) -> None:
        """Answer; a request of this size comes in one piece on loopback."""
        token = data.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        answer = self._answers.get(token, "").encode()
        assert self._transport is not None  # noqa: S101 -- set before any data
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
        )
        self._transport.close()


@dataclass
class Level:
    """What N clients measured.

    Attributes:
        latencies: seconds of each order.
        elapsed: seconds of the whole level.
        requests: of all orders.
        connections: that the clients opened.
        cpu: service -> processor seconds that it used.
        yardstick_us: microseconds of one P-256 verification, measured right after.
    """

    clients: int
    latencies: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    requests: int = 0
    connections: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    yardstick_us: float = 0.0

    def document(self) -> dict[str, Any]:
        """The figures."""
        ordered, orders = sorted(self.latencies), len(self.latencies)
        return {
            "clients": self.clients,
            "orders": orders,
            "orders_per_second": orders / self.elapsed,
            "p50_ms": 1e3 * ordered[orders // 2],
            "p99_ms": 1e3 * ordered[min(orders - 1, orders * 99 // 100)],
            "requests_per_order": self.requests / orders,
            "connections": self.connections,
            "p256_verify_us": self.yardstick_us,
            "cpu_ms_per_order": {name: 1e3 * seconds / orders for name, seconds in self.cpu.items()},
        }


def make_csrs(orders: int, suffix: str) -> list[tuple[str, str]]:
    """Names nobody ordered before, each with a CSR (base64url) by a fresh P-256 key; made before the clock runs."""
    run = os.urandom(4).hex()
    made: list[tuple[str, str]] = []
    for number in range(orders):
        name = f"{run}-{number}.{suffix}"
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        csr = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        made.append((name, b64u(csr.public_bytes(Encoding.DER))))
    return made


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor time that each process has used so far."""
    used: dict[str, float] = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return used


def verification_us() -> float:
    """Microseconds of one P-256 verification: the yardstick of this machine at this moment (an order takes six)."""
    key, message = ec.generate_private_key(ec.SECP256R1()), b"yardstick"
    signature, public = key.sign(message, SHA256), key.public_key()
    begin = time.process_time()
    for _ in range(YARDSTICK_ROUNDS):
        public.verify(signature, message, SHA256)
    return 1e6 * (time.process_time() - begin) / YARDSTICK_ROUNDS


async def _work(client: Client, work: Iterator[tuple[str, str]], level: Level, deadline: float) -> None:
    for name, csr in work:
        begin = time.perf_counter()
        if begin > deadline:
            return
        async with asyncio.timeout(ORDER_SECONDS):
            pem = await client.order(name, csr)
        level.latencies.append(time.perf_counter() - begin)
        if not pem.startswith("-----BEGIN CERTIFICATE-----"):
            raise RuntimeError(f"the server sent no certificate for {name}")


async def run_level(config: Mapping[str, Any], clients: int, tls: ssl.SSLContext, answers: dict[str, str]) -> Level:
    """Drive `orders` orders, or as many as fit the time, by that many clients at once."""
    level = Level(clients)
    crowd = [Client(config["directory"], tls, answers) for _ in range(clients)]
    warm_up = iter(make_csrs(clients, config["suffix"]))
    for client in crowd:
        await client.register()
        await client.order(*next(warm_up))
        client.requests = 0
    work = iter(make_csrs(config["orders"], config["suffix"]))
    before, begin = cpu_seconds(config["pids"]), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in crowd:
            group.create_task(_work(client, work, level, begin + config["seconds"]))
    level.elapsed = time.perf_counter() - begin
    after = cpu_seconds(config["pids"])
    level.cpu = {name: after[name] - before[name] for name in after}
    level.yardstick_us = verification_us()
    level.requests = sum(client.requests for client in crowd)
    level.connections = sum([await client.close() for client in crowd])
    return level


async def main() -> None:
    """Run every level of the configuration."""
    config = orjson.loads(sys.stdin.buffer.read())
    if config["cpu"] is not None:
        os.sched_setaffinity(0, {config["cpu"]})
    tls = ssl.create_default_context(cafile=config["ca_bundle"])
    answers: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ChallengeProtocol(answers), "127.0.0.1", config["http01_port"])
    async with server:
        for clients in config["clients"]:
            level = await run_level(config, clients, tls, answers)
            sys.stdout.buffer.write(orjson.dumps(level.document()) + b"\n")
            sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
