from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.chassis.tracing.export import BATCH, QUEUE, SpanExport, TraceMetrics

POISON = -1


class Collector:
    """Takes batches; what `answers` has is said first, then 200 for ever."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.batches: list[bytes] = []

    async def post(self, body: bytes) -> int:
        """As `Post`."""
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        if answer == 200:
            self.batches.append(body)
        return answer


def encode(spans: Sequence[int]) -> bytes:
    """One octet a span."""
    if POISON in spans:
        raise ValueError("poison")
    return bytes(span % 256 for span in spans)


class World:
    """An export and its collector."""

    def __init__(self, *answers: int | Exception, gather: float = 0.01) -> None:
        self.collector = Collector(*answers)
        self.registry = CollectorRegistry()
        self.export = SpanExport(
            encode, self.collector.post, TraceMetrics(self.registry), gather=gather, first_wait=0.01
        )

    def count(self, result: str) -> float | None:
        """How many spans had that end."""
        return self.registry.get_sample_value("pqcpki_trace_spans_total", {"result": result})

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The task, cancelled at the end."""
        task = asyncio.create_task(self.export.run())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until(self, result: str, spans: int) -> None:
        """Wait until so many had that end."""
        async with asyncio.timeout(30):
            while self.count(result) != spans:  # noqa: ASYNC110 -- a metric has no event
                await asyncio.sleep(0.005)


async def test_spans_travel_together() -> None:
    """What ends within a moment is one request; more than a batch are several."""
    world = World(gather=60.0)
    async with world.running():
        for span in range(BATCH + 6):
            world.export.put(span)
        await world.until("sent", BATCH + 6)
    assert [len(batch) for batch in world.collector.batches] == [BATCH, 6]


async def test_few_spans_do_not_wait_for_company() -> None:
    """A span that is alone leaves after a moment, and the next one does too."""
    world = World()
    async with world.running():
        for sent in (1, 2):
            world.export.put(sent)
            await world.until("sent", sent)
    assert world.collector.batches == [b"\1", b"\2"]


@pytest.mark.parametrize("failure", [429, 503, OSError("refused"), TimeoutError(), httpx.ReadError("gone")], ids=repr)
async def test_a_collector_that_is_away_is_asked_again(failure: int | Exception) -> None:
    """Nothing is lost, and the log says once that it began and once that it is over."""
    world = World(failure, failure)
    with capture_logs() as lines:
        async with world.running():
            world.export.put(7)
            await world.until("sent", 1)
    assert world.collector.batches == [b"\7"]
    assert [line["event"] for line in lines] == ["traces are not taken", "traces are taken again"]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413])
async def test_a_refused_batch_is_not_sent_again(status: int) -> None:
    """It would be refused again, and others wait behind it."""
    world = World(status)
    async with world.running():
        world.export.put(7)
        await world.until("refused", 1)
        world.export.put(8)
        await world.until("sent", 1)
    assert world.collector.batches == [b"\10"]


async def test_what_cannot_be_encoded_does_not_come_back() -> None:
    """A batch that would end the task each time it is tried is dropped."""
    world = World()
    with capture_logs() as lines:
        async with world.running():
            world.export.put(POISON)
            await world.until("dropped", 1)
            world.export.put(8)
            await world.until("sent", 1)
    assert lines[0]["event"] == "spans cannot be sent"


async def test_a_full_queue_drops_what_comes() -> None:
    """Memory is bounded while the collector is away, and what was lost is counted."""
    world = World()
    for span in range(QUEUE + 5):
        world.export.put(span)
    assert world.count("dropped") == 5
    async with world.running():
        await world.until("sent", QUEUE)


async def test_what_waits_is_sent_when_the_service_stops() -> None:
    """A cancelled task sends what it has, if that does not take long."""
    world = World(gather=60.0)
    async with world.running():
        world.export.put(7)
    assert world.collector.batches == [b"\7"]


async def test_a_collector_that_is_away_does_not_keep_a_service_from_stopping() -> None:
    """After two seconds the service is gone."""
    world = World(*[OSError("refused")] * 10_000)
    async with asyncio.timeout(20):
        async with world.running():
            world.export.put(7)
    assert world.collector.batches == []
