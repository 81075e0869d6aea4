"""The load side of `ocsp.py`, and of the peer in `issuance.py`: requests over plain HTTP, as little work as can be.

It is a process of its own, so that it can have a processor, or a network namespace, of its own. Its configuration comes
as JSON on standard input, one JSON result per level goes to standard output. Requests are whole HTTP/1.1 messages in
base64, used in turn; with `new_connections`, each has a connection of its own, else each caller keeps one. Some answers
come along as `samples`, each with the number of its request: whoever started this verifies them.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import orjson

from benchmarks.signer_load import Level, cpu_seconds
from pkicore.http1 import Answer, AnswerParser

MAX_ANSWER: Final = 1 << 20
SUCCESS: Final = range(200, 300)
EVERY: Final = 997  # of so many answers one is a sample; a prime, so that they are of many requests
SAMPLES: Final = 12

Numbered = tuple[int, bytes]


class Connection(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._parser = AnswerParser(MAX_ANSWER)
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """A new one."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, host, port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """A part of the answer."""
        self._parser.feed(data)
        if self._parser.is_complete and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.answer())

    def connection_lost(self, error: Exception | None) -> None:
        """The server has closed it."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    async def exchange(self, request: bytes) -> Answer:
        """Send one request, and have its answer.

        Raises:
            ConnectionError: the connection was lost first.
        """
        self._parser = AnswerParser(MAX_ANSWER)
        self._answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None  # noqa: S101 -- it was opened
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            self._transport.close()


class Caller:
    """Asks until a deadline, or until there is nothing left to ask."""

    def __init__(self, config: Mapping[str, Any], requests: Iterator[Numbered], level: Level) -> None:
        self._where: tuple[str, int] = config["host"], config["port"]
        self._is_new: bool = config["new_connections"]
        self._requests = requests
        self._level = level
        self._kept: Connection | None = None
        self.samples: list[tuple[int, bytes]] = []

    async def run(self, deadline: float) -> None:
        """Ask.

        Raises:
            RuntimeError: an answer is no success.
        """
        for number, request in self._requests:
            begin = time.perf_counter()
            if begin > deadline:
                return
            connection = self._kept or await Connection.open(*self._where)
            answer = await connection.exchange(request)
            if answer.status_code not in SUCCESS:
                raise RuntimeError(f"answered {answer.status_code}: {answer.content[:300].decode(errors='replace')}")
            if self._is_new:
                connection.close()
            else:
                self._kept = connection
            self._level.latencies.append(time.perf_counter() - begin)
            if len(self._level.latencies) % EVERY == 1 and len(self.samples) < SAMPLES:
                self.samples.append((number, answer.content))

    def close(self) -> None:
        """Close what was kept."""
        if self._kept is not None:
            self._kept.close()


async def run_callers(callers: Sequence[Caller], seconds: float) -> None:
    """All at once, for so long."""
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.run(time.perf_counter() + seconds))


async def run_level(config: Mapping[str, Any], count: int, requests: Iterator[Numbered]) -> dict[str, Any]:
    """So many callers; they warm up first, which nobody counts."""
    level = Level(count)
    callers = [Caller(config, requests, level) for _ in range(count)]
    await run_callers([Caller(config, itertools.islice(requests, config["warm_up"]), Level(1))], 600)
    before, begin = cpu_seconds(config["pids"]), time.perf_counter()
    await run_callers(callers, config["seconds"])
    level.elapsed = time.perf_counter() - begin
    after = cpu_seconds(config["pids"])
    level.cpu = {name: after[name] - before[name] for name in after}
    for caller in callers:
        caller.close()
    samples = [(number, base64.b64encode(body).decode()) for caller in callers for number, body in caller.samples]
    return level.document() | {"samples": samples[:SAMPLES]}


async def main() -> None:
    """Run every level of the configuration."""
    config = orjson.loads(sys.stdin.buffer.read())
    if config["cpu"] is not None:
        os.sched_setaffinity(0, {config["cpu"]})
    prepared = [(number, base64.b64decode(text)) for number, text in enumerate(config["requests"])]
    requests = iter(prepared) if config["unique"] else itertools.cycle(prepared)
    for callers in config["callers"]:
        sys.stdout.buffer.write(orjson.dumps(await run_level(config, callers, requests)) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
