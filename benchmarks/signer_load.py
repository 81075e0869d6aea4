"""The load side of `signer.py` and `signing.py`: requests over kept mTLS connections, as little work as can be.

It is a process of its own, so that it can have a processor of its own: its configuration comes as JSON on standard
input, one JSON result per level goes to standard output. Every caller has one connection, checked as our services
check theirs (SPIFFE ID, chain, CRL, staple), or with `public` as strangers do (host, chain, staple). Bodies are used in
turn; where `unique` is set, each one only once. With `key`, the callers are tasks that share one `SignerClient`
instead, as the requests that a CA answers do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from pkicore.clock import SystemClock
from pkicore.http1 import AnswerParser, request_head
from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL, PUBLIC, TlsClient, load_credentials
from pkicore.mtls.connection import TlsConnection
from services.ca.cli.connection import service_id
from services.chassis.cli.deployed import Deployed
from services.signer_hsm.client import SignerClient

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
READ: Final = 64 * 1024
MAX_ANSWER: Final = 4 << 20
WARM_UP: Final = 20  # requests per caller before the clock runs, unless the configuration says otherwise
SUCCESS: Final = range(200, 300)
DIGEST: Final = b"\x5a" * 32
CLIENT_WARM_UP: Final = 0.5  # seconds


@dataclass
class Target:
    """Where the requests go."""

    tls: TlsClient
    url: str
    identity: SpiffeId | None

    async def connect(self) -> TlsConnection:
        """A new checked connection."""
        parts = urlsplit(self.url)
        return await self.tls.connect(parts.hostname or "", parts.port or 443, expected=self.identity)

    def request(self, path: str, body: str) -> bytes:
        """The octets of a POST."""
        content = body.encode()
        fields = {"host": urlsplit(self.url).netloc, "content-type": "application/json"}
        return request_head("POST", path, {**fields, "content-length": str(len(content))}) + content


async def exchange(connection: TlsConnection, request: bytes) -> None:
    """Send one request and read its answer.

    Raises:
        RuntimeError: it is no success, or the connection was closed.
    """
    parser = AnswerParser(MAX_ANSWER)
    await connection.write(request)
    while not parser.is_complete:
        data = await connection.read(READ)
        if not data:
            raise RuntimeError("the server closed the connection")
        parser.feed(data)
    answer = parser.answer()
    if answer.status_code not in SUCCESS:
        raise RuntimeError(f"answered {answer.status_code}: {answer.content[:500].decode(errors='replace')}")


@dataclass
class Level:
    """What N callers measured.

    Attributes:
        latencies: seconds of each request.
        elapsed: seconds of the whole level.
        cpu: service -> processor seconds that it used.
    """

    callers: int
    latencies: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The figures."""
        ordered, count = sorted(self.latencies), len(self.latencies)
        return {
            "callers": self.callers,
            "requests": count,
            "per_second": count / self.elapsed,
            "p50_ms": 1e3 * ordered[count // 2],
            "p99_ms": 1e3 * ordered[min(count - 1, count * 99 // 100)],
            "cpu_us": {name: 1e6 * seconds / count for name, seconds in self.cpu.items()},
        }


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor time that each process has used so far."""
    used: dict[str, float] = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return used


async def _call(connection: TlsConnection, requests: Iterator[bytes], level: Level, deadline: float) -> None:
    for request in requests:
        begin = time.perf_counter()
        if begin > deadline:
            return
        await exchange(connection, request)
        level.latencies.append(time.perf_counter() - begin)


async def _warm_up(connection: TlsConnection, requests: Iterable[bytes]) -> None:
    for request in requests:
        await exchange(connection, request)


async def run_level(target: Target, config: Mapping[str, Any], callers: int, requests: Iterator[bytes]) -> Level:
    """Drive that many callers at once for the configured time."""
    level = Level(callers)
    connections = [await target.connect() for _ in range(callers)]
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(_warm_up(connection, list(itertools.islice(requests, config.get("warm_up", WARM_UP)))))
    before, begin = cpu_seconds(config["pids"]), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(_call(connection, requests, level, begin + config["seconds"]))
    level.elapsed = time.perf_counter() - begin
    after = cpu_seconds(config["pids"])
    level.cpu = {name: after[name] - before[name] for name in after}
    for connection in connections:
        connection.close()
    return level


async def run_client_level(signer: SignerClient, config: Mapping[str, Any], callers: int) -> Level:
    """As many tasks, each wanting signature after signature by the same key."""
    level = Level(callers)

    async def call(deadline: float) -> None:
        begin = time.perf_counter()
        while begin < deadline:
            await signer.sign(config["key"], 1, "digest", DIGEST, config["scheme"])
            now = time.perf_counter()
            level.latencies.append(now - begin)
            begin = now

    async def run(seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call(time.perf_counter() + seconds))

    await run(CLIENT_WARM_UP)
    level.latencies.clear()
    before, begin = cpu_seconds(config["pids"]), time.perf_counter()
    await run(config["seconds"])
    level.elapsed = time.perf_counter() - begin
    after = cpu_seconds(config["pids"])
    level.cpu = {name: after[name] - before[name] for name in after}
    return level


async def main() -> None:
    """Run every level of the configuration."""
    config = orjson.loads(sys.stdin.buffer.read())
    if config["cpu"] is not None:
        os.sched_setaffinity(0, {config["cpu"]})
    deployed = Deployed.read(Path(config["directory"]))
    shown = deployed.operator_certificate, deployed.operator_key
    if config.get("public"):
        await run_levels(Target(public_client(deployed), deployed.endpoints[config["endpoint"]], None), config)
        return
    tls = await deployed.client(INTERNAL, *shown, require_staple=True)
    if "key" in config:
        async with tls.http1(service_id(deployed, config["service"]), deployed.endpoints[config["endpoint"]]) as http:
            for callers in config["callers"]:
                report(await run_client_level(SignerClient(http), config, callers))
        return
    identity = service_id(deployed, config["service"])
    await run_levels(Target(tls, deployed.endpoints[config["endpoint"]], identity), config)


def public_client(deployed: Deployed) -> TlsClient:
    """A client of a public listener, with the operator's certificate."""
    return TlsClient(
        credentials=load_credentials(deployed.operator_certificate, deployed.operator_key),
        rules=replace(PUBLIC, check_crl=False),
        trust=tuple(deployed.roots.values()),
        crls=None,
        clock=SystemClock(),
        require_staple=True,
    )


async def run_levels(target: Target, config: Mapping[str, Any]) -> None:
    """One level after the other."""
    prepared = [target.request(config["path"], body) for body in config["bodies"]]
    requests = iter(prepared) if config["unique"] else itertools.cycle(prepared)
    for callers in config["callers"]:
        report(await run_level(target, config, callers, requests))


def report(level: Level) -> None:
    """One line."""
    sys.stdout.buffer.write(orjson.dumps(level.document()) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
