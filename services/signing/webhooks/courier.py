"""The task that delivers: takes what is due, receiver by receiver, and keeps what became of each attempt.

1 an attempt is taken under a claim that runs out after a minute, so what a killed process had taken comes up again: a
receiver may get an event twice, under one id, and never not at all · 2 whatever is no success is tried again after a
pause, up to ten attempts over three days, then it is a dead letter · 3 a receiver that answers 410 is gone: it is told
nothing more, and what waits for it becomes dead letters at once, which its tenant sees, and can send again after it has
enabled the receiver by rotating its secret.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import httpx
import structlog

from pkicore.clock import Clock, unix
from pkicore.errors import PkiError
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError, OutboundError
from services.signing.store.outbox import Delivery, OutboxStore, Settlement, Webhook
from services.signing.webhooks.message import webhook_headers
from services.signing.webhooks.receiver_url import receiver_url
from services.signing.webhooks.registry import ReceiverRules
from services.signing.webhooks.secrets import SecretBox
from services.signing.webhooks.sender import Reply, Sender

PER_RECEIVER: Final = 4
"""Attempts at one receiver at once."""
PAUSES: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds between one attempt and the next, before jitter: ten attempts over three days (Standard Webhooks 1.0)."""
MAX_ATTEMPTS: Final = len(PAUSES) + 1
LEASE_SECONDS: Final = 60
"""An attempt takes 30 s at most; what is not settled after this long was taken by a process that is gone."""
_JITTER: Final = 0.2  # of a pause, at most, on top of it
_POLL_SECONDS: Final = 1.0
_MAX_WAIT: Final = 86_400
_WAITING: Final = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})
_DELIVERED_DAYS: Final = 7
_DEAD_DAYS: Final = 30
_DAY: Final = 86_400
_CLEAN_UP_SECONDS: Final = 3600.0
_ACTOR: Final = "signing"

Outcome = Literal["delivered", "failed", "dead"]
_log = structlog.get_logger("webhooks")


class Courier:
    """Delivers what is in the outbox.

    Args:
        store: the outbox.
        sender: the way out.
        box: opens the secrets.
        rules: what a receiver's URL must be, checked again before each attempt.
        clock: the time.
        random: numbers from 0 to 1, for the jitter.
        observe: told the outcome of each attempt.
    """

    def __init__(
        self,
        store: OutboxStore,
        sender: Sender,
        box: SecretBox,
        rules: ReceiverRules,
        clock: Clock,
        random: Callable[[], float],
        observe: Callable[[Outcome], None],
    ) -> None:
        self._store = store
        self._sender = sender
        self._box = box
        self._rules = rules
        self._clock = clock
        self._random = random
        self._observe = observe
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Deliver, for ever; attempts under way end with the task, and come up again after their lease."""
        try:
            while True:
                self._ended.clear()
                try:
                    await self.round()
                except DatabaseError as error:
                    _log.warning("outbox not read", error=str(error))
                await self._pause()
        finally:
            await self._stop()

    async def round(self) -> None:
        """Begin an attempt for everything that is due and has a free place at its receiver."""
        for receiver in await self._store.receivers_due(unix(self._clock.now())):
            free = PER_RECEIVER - self._under_way[receiver]
            if free > 0:
                await self._begin(receiver, free)

    async def settled(self) -> None:
        """Wait until no attempt is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def clean_up(self) -> None:
        """Delete what was delivered a week ago and what has been dead for a month, for ever."""
        while True:
            now = unix(self._clock.now())
            try:
                await self._store.forget(now - _DELIVERED_DAYS * _DAY, now - _DEAD_DAYS * _DAY, now)
            except DatabaseError as error:
                _log.warning("outbox not cleaned up", error=str(error))
            await asyncio.sleep(_CLEAN_UP_SECONDS)

    async def _begin(self, receiver: str, free: int) -> None:
        webhook = await self._store.webhook(receiver)
        if webhook is None:  # removed meanwhile
            return
        now = unix(self._clock.now())
        for delivery in await self._store.due(receiver, now, free):
            claim = secrets.token_hex(8)
            if await self._store.claim(delivery, claim, now + LEASE_SECONDS):
                self._start(webhook, delivery, claim)

    def _start(self, webhook: Webhook, delivery: Delivery, claim: str) -> None:
        self._under_way[webhook.id] += 1
        task = asyncio.create_task(self._deliver(webhook, delivery, claim))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._under_way[webhook.id] -= 1
            if not self._under_way[webhook.id]:
                del self._under_way[webhook.id]
            self._ended.set()

        task.add_done_callback(ended)

    async def _deliver(self, webhook: Webhook, delivery: Delivery, claim: str) -> None:
        """One attempt; where it cannot be kept what became of it, the row comes up again after its lease."""
        try:
            await self._attempt(webhook, delivery, claim)
        except ConflictError:
            _log.info("delivery was taken over or removed", webhook=webhook.id, event_id=delivery.event)
        except DatabaseError as error:
            _log.warning("delivery not settled", webhook=webhook.id, event_id=delivery.event, error=str(error))
        except Exception:  # noqa: BLE001 -- one delivery must not end the courier; the row comes up again
            _log.exception("delivery ended in a fault of ours", webhook=webhook.id, event_id=delivery.event)

    async def _attempt(self, webhook: Webhook, delivery: Delivery, claim: str) -> None:
        try:
            reply = await self._post(webhook, delivery)
        except (OutboundError, PkiError) as error:
            await self._failed(delivery, claim, None, str(error))
            return
        if httpx.codes.is_success(reply.status):
            outcome = Settlement("delivered", unix(self._clock.now()), reply.status, None)
            await self._store.settle(delivery, claim, outcome, gone=False)
            self._observe("delivered")
        else:
            await self._failed(delivery, claim, reply, f"the receiver answered with status {reply.status}")

    async def _post(self, webhook: Webhook, delivery: Delivery) -> Reply:
        now = unix(self._clock.now())
        url = receiver_url(webhook.url, self._rules.guard, plain_http=self._rules.plain_http)
        keys = [self._box.open(webhook.id, webhook.secret)]
        if webhook.previous_secret is not None and now < webhook.previous_until:
            keys.append(self._box.open(webhook.id, webhook.previous_secret))
        return await self._sender.post(url, webhook_headers(delivery.event, now, delivery.body, keys), delivery.body)

    async def _failed(self, delivery: Delivery, claim: str, reply: Reply | None, error: str) -> None:
        attempts, now = delivery.attempts + 1, unix(self._clock.now())
        status = None if reply is None else reply.status
        gone = status == httpx.codes.GONE
        if attempts < MAX_ATTEMPTS and not gone:
            again = Settlement("pending", now + self._wait(attempts, reply), status, error)
            await self._store.settle(delivery, claim, again, gone=False)
            self._observe("failed")
            return
        dead = Settlement("dead", now, status, error)
        await self._store.settle(delivery, claim, dead, _burial(delivery, attempts, error, gone=gone), gone=gone)
        self._observe("dead")

    def _wait(self, attempts: int, reply: Reply | None) -> int:
        """Seconds to the next attempt: the pause with jitter, or what the receiver asks for where that is longer."""
        pause = PAUSES[attempts - 1] * (1 + _JITTER * self._random())
        asked = reply.retry_after if reply is not None and reply.status in _WAITING else None
        return max(round(pause), min(asked or 0, _MAX_WAIT))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            return

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _burial(delivery: Delivery, attempts: int, error: str, *, gone: bool) -> list[AuditEvent]:
    place = {"tenant": delivery.tenant, "webhook": delivery.webhook}
    what = {**place, "event": delivery.event, "type": delivery.type, "attempts": attempts, "error": error}
    events = [AuditEvent("webhook.dead-letter", _ACTOR, what)]
    if gone:
        events.append(AuditEvent("webhook.gone", _ACTOR, place))  # what waited for it has died with it
    return events
