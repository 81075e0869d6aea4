"""Brings spans to the collector, and never keeps anybody waiting for it.

What has ended waits in a queue of bounded length; what finds it full is dropped and counted. One background task sends
it in small batches over OTLP/HTTP. A collector that does not answer is asked again, after a wait that doubles; one that
refuses a batch loses it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, Generic, Literal, TypeAlias, TypeVar

import httpx
import structlog
from prometheus_client import CollectorRegistry, Counter

QUEUE: Final = 4096
"""Spans that may wait; some 11 MiB."""
BATCH: Final = 64
"""Spans in one request: their encoding takes the event loop two or three milliseconds."""
_GATHER_SECONDS: Final = 1.0  # from the first span that waits to the request that carries it
_FIRST_WAIT: Final = 1.0
_LAST_WAIT: Final = 30.0
_LAST_SECONDS: Final = 2.0  # for what waits when the service stops
_SUCCESS: Final = range(200, 300)
_AGAIN: Final = frozenset({429, 502, 503, 504})  # OTLP 1.x, "Retryable Response Codes"

S = TypeVar("S")
Post: TypeAlias = Callable[[bytes], Awaitable[int]]
"""Sends a request to the collector, and says with which status it was answered; raises OSError or httpx.HTTPError."""
Encode: TypeAlias = Callable[[Sequence[S]], bytes]


class TraceMetrics:
    """What becomes of spans."""

    def __init__(self, registry: CollectorRegistry) -> None:
        spans = Counter(
            "pqcpki_trace_spans_total",
            "Spans sent, refused by the collector, or dropped.",
            ("result",),
            registry=registry,
        )
        self._results = {result: spans.labels(result) for result in ("sent", "refused", "dropped")}

    def count(self, result: Literal["sent", "refused", "dropped"], spans: int) -> None:
        """So many had that end."""
        self._results[result].inc(spans)


class SpanExport(Generic[S]):
    """The queue and its one sender.

    Args:
        encode: makes a request of spans.
        post: sends it.
        metrics: counts.
        gather: seconds for which the first span waits for others.
        first_wait: seconds until a collector that does not answer is asked again.
    """

    def __init__(
        self,
        encode: Encode[S],
        post: Post,
        metrics: TraceMetrics,
        *,
        gather: float = _GATHER_SECONDS,
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self._encode = encode
        self._post = post
        self._metrics = metrics
        self._gather = gather
        self._first_wait = first_wait
        self._queue: deque[S] = deque()
        self._filled, self._full_batch = asyncio.Event(), asyncio.Event()
        self._failing: str | None = None
        self._log = structlog.get_logger("tracing")

    def put(self, span: S) -> None:
        """Have it sent later; where too many wait, it is dropped."""
        waiting = len(self._queue)
        if waiting >= QUEUE:
            self._metrics.count("dropped", 1)
            return
        self._queue.append(span)
        if waiting == 0:
            self._filled.set()
        elif waiting + 1 == BATCH:
            self._full_batch.set()

    async def run(self) -> None:
        """Send what comes; when cancelled, what waits has two seconds more."""
        try:
            while True:
                await self._filled.wait()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full_batch.wait(), self._gather)
                await self._send_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._send_all()

    async def _send_all(self) -> None:
        wait = self._first_wait
        while self._queue:
            batch = list(islice(self._queue, BATCH))
            if await self._send(batch):
                for _ in batch:
                    self._queue.popleft()
                wait = self._first_wait
            else:
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LAST_WAIT)
        self._filled.clear()
        self._full_batch.clear()

    async def _send(self, batch: Sequence[S]) -> bool:
        """Whether these spans are done with, one way or the other."""
        try:
            status = await self._post(self._encode(batch))
        except (OSError, httpx.HTTPError) as error:  # TimeoutError is an OSError
            self._tell(f"the collector does not answer: {str(error) or type(error).__name__}")
            return False
        except Exception:  # noqa: BLE001 - whatever it is, it must not come back with every further attempt
            self._log.exception("spans cannot be sent", spans=len(batch))
            self._metrics.count("dropped", len(batch))
            return True
        if status in _AGAIN:
            self._tell(f"the collector answers {status}")
            return False
        if status in _SUCCESS:
            self._tell(None)
            self._metrics.count("sent", len(batch))
        else:
            self._tell(f"the collector answers {status}")
            self._metrics.count("refused", len(batch))
        return True

    def _tell(self, reason: str | None) -> None:
        """A line when it begins to fail, and when it does no more."""
        if reason is not None and self._failing is None:
            self._log.warning("traces are not taken", reason=reason)
        elif reason is None and self._failing is not None:
            self._log.info("traces are taken again")
        self._failing = reason
