"""Signatures of one key that are wanted at the same time travel together.

A request costs signer-hsm several times what a further payload in it does: TLS, HTTP, the decision, its durable record.
So of each key only a few requests are under way at once, and what is wanted meanwhile leaves in one batch as soon as
one of them returns. Alone, a signature leaves at once: nothing ever waits for company.

How many are "a few" is for the back end to say: as many as it works on at the same time, two at least, so that it never
waits for the next one. A token with two sessions gets large batches, a KMS far away its many requests at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Final, NamedTuple, TypeAlias

from pkicore.algorithms import Payload
from services.chassis.tracing import step
from services.signer_hsm.wire import MAX_PAYLOADS, SignatureProblem

Signed: TypeAlias = bytes | SignatureProblem

_LEAST: Final = 2  # one that is being signed, and one behind it
_PLACES: Final = 1024  # remembered; those at rest are forgotten first


class Place(NamedTuple):
    """What one request may have in common: payloads of one kind, signed in one way by one version of a key."""

    key_id: str
    version: int
    kind: Payload
    scheme: str


Send: TypeAlias = Callable[[Place, Sequence[bytes]], Awaitable[Sequence[Signed]]]
"""One request; as many answers as payloads, in their order."""


class _Waiting(NamedTuple):
    payload: bytes
    answer: asyncio.Future[Signed]
    context: Context


class _Queue:
    """The requests of one place."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.under_way = 0

    def next_batch(self) -> list[_Waiting]:
        """Those who still wait, as many as one request takes."""
        batch: list[_Waiting] = []
        while self.waiting and len(batch) < MAX_PAYLOADS:
            if not (first := self.waiting.popleft()).answer.done():
                batch.append(first)
        return batch


class Coalescing:
    """Gathers signatures into requests.

    Args:
        send: sends one.
        refused: what `send` raises where nothing was done because of what was asked: then each payload of the batch is
            asked for alone, so that no caller suffers for another's.
    """

    def __init__(self, send: Send, refused: type[Exception]) -> None:
        self._send = send
        self._refused = refused
        self._at_once: dict[str, int] = {}
        self._queues: dict[Place, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def learn(self, key_id: str, at_once: int) -> None:
        """From now on, so many requests of a key may be under way at once."""
        if len(self._at_once) >= _PLACES:
            self._at_once.clear()
        self._at_once[key_id] = at_once

    async def sign(self, place: Place, payload: bytes) -> Signed:
        """The signature, or the problem that this payload met alone.

        Raises:
            What `send` raises.
        """
        queue = self._queue(place)
        answer: asyncio.Future[Signed] = asyncio.get_running_loop().create_future()
        with step("sign", place.key_id):  # of the traces of a batch, that of its first has the request too
            queue.waiting.append(_Waiting(payload, answer, copy_context()))
            if queue.under_way < max(_LEAST, self._at_once.get(place.key_id, _LEAST)):
                self._start(place, queue)
            return await answer

    def _queue(self, place: Place) -> _Queue:
        queue = self._queues.get(place)
        if queue is None:
            if len(self._queues) >= _PLACES:
                self._queues = {known: busy for known, busy in self._queues.items() if busy.under_way}
            queue = self._queues[place] = _Queue()
        return queue

    def _start(self, place: Place, queue: _Queue) -> None:
        """Send what waits, as a task of its own: a caller that goes away takes nobody's signature along."""
        batch = queue.next_batch()
        if not batch:
            return
        queue.under_way += 1
        task = asyncio.get_running_loop().create_task(self._run(place, queue, batch), context=batch[0].context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, place: Place, queue: _Queue, batch: Sequence[_Waiting]) -> None:
        try:
            await self._answer(place, batch)
        finally:
            queue.under_way -= 1
            self._start(place, queue)

    async def _answer(self, place: Place, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._send(place, [item.payload for item in batch])
        except asyncio.CancelledError:
            for item in batch:
                item.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is belongs to those who wait
            if len(batch) > 1 and isinstance(error, self._refused):
                for item in batch:  # one after the other: no more requests are under way than the back end takes
                    await self._answer(place, [item])
            else:
                _settle(batch, error)
        else:
            for item, answer in zip(batch, answers, strict=True):
                if not item.answer.done():
                    item.answer.set_result(answer)


def _settle(batch: Sequence[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(error)
