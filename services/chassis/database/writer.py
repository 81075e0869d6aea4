"""The group-commit writer: what has queued goes into one durable transaction."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import structlog

from services.chassis.database.statement import BoundUnit
from services.chassis.errors import DatabaseError, OverloadedError, UnavailableError

_BATCH = 256
"""Units in one transaction at most: bounds how long the first waits for the last."""

Outcome: TypeAlias = DatabaseError | None
CommitObserver: TypeAlias = Callable[[Literal["before", "after"], str], None]
"""Called with each unit's label just before and just after the durable commit; crash tests end the process there."""


class BatchEngine(Protocol):
    """What the writer asks of an engine."""

    async def commit_batch(self, units: Sequence[BoundUnit]) -> Sequence[Outcome]:
        """Writes the units in one durable transaction, each whole or not at all.

        Returns:
            For each unit its error, or None when it is durable.

        Raises:
            UnavailableError: none of them was written.
        """
        ...


class GroupCommit:
    """A bounded queue of units and the one task that writes them.

    Args:
        engine: Carries out a batch.
        capacity: Units that may wait; more are refused with `OverloadedError`.
    """

    def __init__(self, engine: BatchEngine, capacity: int) -> None:
        self._engine = engine
        self._capacity = capacity
        self._queue: deque[tuple[BoundUnit, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._log = structlog.get_logger("database")
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="database-writer")

    async def commit(self, unit: BoundUnit) -> None:
        """Waits until the unit is durable. Cancelling the wait does not undo the unit.

        Raises:
            OverloadedError: the queue is full.
            UnavailableError: the database cannot write, or is closed.
            DatabaseError: the unit was refused, and nothing of it was written.
        """
        if self._closing:
            raise UnavailableError("the database is closed")
        if len(self._queue) >= self._capacity:
            raise OverloadedError(f"{self._capacity} writes are waiting already")
        future = self._loop.create_future()
        self._queue.append((unit, future))
        self._wake.set()
        await future

    async def close(self) -> None:
        """Writes what has queued, then ends."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                await self._write(batch)
            if self._closing:
                return

    async def _write(self, batch: Sequence[tuple[BoundUnit, asyncio.Future[None]]]) -> None:
        units = [unit for unit, _ in batch]
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._engine.commit_batch(units)
        except DatabaseError as error:
            self._log.error("commit failed", units=len(units), error=str(error))
            outcomes = [error] * len(units)
        except Exception as error:  # noqa: BLE001 - the writer must outlive any fault of one batch
            self._log.exception("commit failed", units=len(units))
            outcomes = [UnavailableError(f"the write failed: {type(error).__name__}")] * len(units)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            _settle(future, outcome)


def _settle(future: asyncio.Future[None], outcome: Outcome) -> None:
    if future.done():  # the request that waited was cancelled
        return
    if outcome is None:
        future.set_result(None)
    else:
        future.set_exception(outcome)
