"""The SQL of webhooks and their outbox: a row per event and receiver, in the transaction of what happened.

A row is taken by a conditional update that leaves a claim and moves its time past the end of the attempt: two
processes never work on one at once, and what a killed process had taken comes up again by itself. Only who holds the
claim settles the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from services.chassis.database import AuditEvent, Database, Row, Unit, Write
from services.chassis.errors import ConflictError, DuplicateError
from services.signing.schema import deliveries, sealing, webhooks
from services.signing.wire.webhooks import DeliveryState

WebhookState = Literal["enabled", "gone"]
_SEALING: Final = 1


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of a tenant's events.

    Attributes:
        id: `wh_…`.
        tenant: whose events.
        url: checked when it was registered.
        events: their types.
        state: enabled, or gone once the receiver has answered 410.
        secret: sealed.
        previous_secret: sealed; the one before, good until `previous_until`.
        previous_until: Unix seconds.
        created_at: Unix seconds.
        created_by: the caller.
    """

    id: str
    tenant: str
    url: str
    events: tuple[str, ...]
    state: WebhookState
    secret: bytes
    previous_secret: bytes | None
    previous_until: int
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to one receiver.

    Attributes:
        event: its id, the same in all attempts.
        webhook: the receiver's id.
        tenant: whose event.
        type: of the event.
        body: what is sent, octet for octet.
        state: pending, delivered, or dead after the last attempt.
        attempts: that were begun.
        due_at: when the next one may begin, Unix seconds.
        created_at: when it happened, Unix seconds.
        last_status: HTTP status of the last attempt, where there was one.
        last_error: a sentence about the last attempt.
    """

    event: str
    webhook: str
    tenant: str
    type: str
    body: bytes
    state: DeliveryState
    attempts: int
    due_at: int
    created_at: int
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that receivers may want to know; `body` is what is sent."""

    id: str
    tenant: str
    type: str
    body: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of an attempt: the row's next state, and when it is due again."""

    state: DeliveryState
    due_at: int
    status: int | None
    error: str | None


class OutboxStore:
    """Webhooks, and the deliveries to them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    # events

    def announcing(self, event: Event) -> Write:
        """What puts an event in the outbox, once per receiver that wants it; for the unit of what happened."""
        params = {"event": event.id, "of_tenant": event.tenant, "type": event.type, "body": event.body, "at": event.at}
        return Write(self._sql.announce, {**params, "pattern": f"%,{event.type},%"}, None)

    # webhooks

    async def salt(self, proposed: bytes) -> bytes:
        """The salt of this database; `proposed` becomes it where there is none yet."""
        try:
            await self._database.commit(
                Unit("sealing", [Write(self._sql.insert_salt, {"id": _SEALING, "salt": proposed}, 1)])
            )
        except DuplicateError:
            row = await self._database.fetch_one(self._sql.salt)
            return proposed if row is None else bytes(row["salt"])
        return proposed

    async def register(self, webhook: Webhook, most: int, event: AuditEvent) -> None:
        """Keep a new receiver.

        Raises:
            ConflictError: the tenant has `most` already.
        """
        params = {name: getattr(webhook, name) for name in Webhook.__slots__} | {"most": most}
        params["events"] = _joined(webhook.events)
        await self._database.commit(Unit("webhook", [Write(self._sql.insert_webhook, params, 1)], [event]))

    async def webhooks(self, tenant: str) -> list[Webhook]:
        """The receivers of a tenant, by id."""
        return [_webhook(row) for row in await self._database.fetch_all(self._sql.webhooks, of_tenant=tenant)]

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One receiver, of whichever tenant."""
        row = await self._database.fetch_one(self._sql.webhook, of=webhook_id)
        return None if row is None else _webhook(row)

    async def rotate(self, seen: Webhook, secret: bytes, previous_until: int, event: AuditEvent) -> None:
        """Give a receiver another secret; the present one is good until `previous_until`, and it is enabled again.

        Raises:
            ConflictError: it was rotated by somebody else, or is gone.
        """
        params = {"of": seen.id, "seen": seen.secret, "to_secret": secret, "until": previous_until}
        await self._database.commit(Unit("webhook-rotated", [Write(self._sql.rotate, params, 1)], [event]))

    async def remove(self, webhook: Webhook, event: AuditEvent) -> None:
        """Delete a receiver, and what was on its way to it.

        Raises:
            ConflictError: it is gone already.
        """
        params = {"of": webhook.id}
        writes = [Write(self._sql.delete_deliveries, params, None), Write(self._sql.delete_webhook, params, 1)]
        await self._database.commit(Unit("webhook-removed", writes, [event]))

    # deliveries

    async def receivers_due(self, now: int) -> list[str]:
        """The enabled receivers to which something is due."""
        return [row["id"] for row in await self._database.fetch_all(self._sql.receivers_due, now=now)]

    async def due(self, webhook_id: str, now: int, most: int) -> list[Delivery]:
        """What is due to a receiver, the longest waiting first."""
        rows = await self._database.fetch_all(self._sql.due, of=webhook_id, now=now, most=most)
        return [_delivery(row) for row in rows]

    async def claim(self, seen: Delivery, claim: str, until: int) -> bool:
        """Take a delivery that was seen due; it comes up again at `until` unless it is settled before.

        Returns:
            Whether it was still there to be taken.
        """
        params = {**_place(seen), "seen_due": seen.due_at, "to_claim": claim, "until": until}
        try:
            await self._database.commit(Unit("delivery-claimed", [Write(self._sql.claim, params, 1)]))
        except ConflictError:
            return False
        return True

    async def settle(
        self, delivery: Delivery, claim: str, outcome: Settlement, audit: Sequence[AuditEvent] = (), *, gone: bool
    ) -> None:
        """Keep what became of an attempt; with `gone`, nothing more is sent to the receiver, and what waits is dead.

        Raises:
            ConflictError: the claim has run out and somebody else has the delivery, it was removed, or it has died with
                its receiver meanwhile and was not delivered either.
        """
        params = {
            **_place(delivery),
            "of_claim": claim,
            "to_state": outcome.state,
            "to_due": outcome.due_at,
            "status": outcome.status,
            "error": outcome.error,
        }
        writes = [Write(self._sql.settle, params, 1)]
        if gone:
            writes += [Write(self._sql.gone, {"of": delivery.webhook}, None), self._burying(outcome.due_at)]
        await self._database.commit(Unit("delivery-settled", writes, audit))

    async def deliveries(
        self, tenant: str, state: DeliveryState, after: tuple[int, str, str], most: int
    ) -> list[Delivery]:
        """A tenant's deliveries in a state by (created_at, event, webhook), from behind `after` on."""
        place = dict(zip(("after_at", "after_event", "after_webhook"), after, strict=True))
        rows = await self._database.fetch_all(
            self._sql.deliveries, of_tenant=tenant, of_state=state, most=most, **place
        )
        return [_delivery(row) for row in rows]

    async def redeliver(self, tenant: str, event_id: str, webhook_id: str, now: int, event: AuditEvent) -> None:
        """Send a delivery that is dead or was delivered once more, with as many attempts as a new one.

        Raises:
            ConflictError: there is none such, it is on its way, or its receiver is gone.
        """
        params = {"of_event": event_id, "of_webhook": webhook_id, "of_tenant": tenant, "now": now}
        await self._database.commit(Unit("redelivery", [Write(self._sql.redeliver, params, 1)], [event]))

    async def forget(self, delivered_before: int, dead_before: int, now: int) -> None:
        """Delete deliveries that have had their time, by when they were created; bury what waits for nobody.

        A commit that saw a receiver enabled may put an event in the outbox just after that was found gone.
        """
        ages: tuple[tuple[DeliveryState, int], ...] = (("delivered", delivered_before), ("dead", dead_before))
        writes = [Write(self._sql.forget, {"of_state": state, "before": before}, None) for state, before in ages]
        await self._database.commit(Unit("outbox-clean-up", [*writes, self._burying(now)]))

    def _burying(self, now: int) -> Write:
        return Write(self._sql.bury, {"now": now, "reason": "the receiver is gone: it has answered 410"}, None)


class _Statements:
    """Compiled once."""

    def __init__(self, database: Database) -> None:
        prepare = database.prepare
        of_webhook = webhooks.c.id == sa.bindparam("of")
        self.announce = prepare(_announce())
        self.insert_salt = prepare(sa.insert(sealing).values(id=sa.bindparam("id"), salt=sa.bindparam("salt")))
        self.salt = prepare(sa.select(sealing.c.salt).where(sealing.c.id == _SEALING))
        self.insert_webhook = prepare(_insert_webhook())
        self.webhooks = prepare(
            sa.select(webhooks).where(webhooks.c.tenant == sa.bindparam("of_tenant")).order_by(webhooks.c.id)
        )
        self.webhook = prepare(sa.select(webhooks).where(of_webhook))
        self.rotate = prepare(
            sa.update(webhooks)
            .where(of_webhook, webhooks.c.secret == sa.bindparam("seen", type_=sa.LargeBinary))
            .values(
                secret=sa.bindparam("to_secret", type_=sa.LargeBinary),
                previous_secret=webhooks.c.secret,
                previous_until=sa.bindparam("until", type_=sa.BigInteger),
                state="enabled",
            )
        )
        self.gone = prepare(sa.update(webhooks).where(of_webhook).values(state="gone"))
        self.delete_webhook = prepare(sa.delete(webhooks).where(of_webhook))
        self.delete_deliveries = prepare(sa.delete(deliveries).where(deliveries.c.webhook == sa.bindparam("of")))
        self._prepare_work(database)

    def _prepare_work(self, database: Database) -> None:
        prepare = database.prepare
        is_due = (deliveries.c.state == "pending") & (deliveries.c.due_at <= sa.bindparam("now"))
        to_state = sa.bindparam("to_state", type_=sa.Text)
        not_buried = (deliveries.c.state == "pending") | (to_state == "delivered")
        enabled = sa.exists().where(webhooks.c.id == deliveries.c.webhook, webhooks.c.state == "enabled")
        anything_due = sa.exists().where(deliveries.c.webhook == webhooks.c.id, is_due)
        self.receivers_due = prepare(sa.select(webhooks.c.id).where(webhooks.c.state == "enabled", anything_due))
        self.due = prepare(
            sa.select(deliveries)
            .where(deliveries.c.webhook == sa.bindparam("of"), is_due)
            .order_by(deliveries.c.due_at)
            .limit(sa.bindparam("most"))
        )
        self.claim = prepare(
            sa.update(deliveries)
            .where(*_at(), deliveries.c.state == "pending", deliveries.c.due_at == sa.bindparam("seen_due"))
            .values(
                claim=sa.bindparam("to_claim", type_=sa.Text),
                due_at=sa.bindparam("until", type_=sa.BigInteger),
                attempts=deliveries.c.attempts + 1,
            )
        )
        self.settle = prepare(
            sa.update(deliveries)
            .where(*_at(), deliveries.c.claim == sa.bindparam("of_claim"), not_buried)
            .values(
                claim=None,
                state=to_state,
                due_at=sa.bindparam("to_due", type_=sa.BigInteger),
                last_status=sa.bindparam("status", type_=sa.BigInteger),
                last_error=sa.bindparam("error", type_=sa.Text),
            )
        )
        self.deliveries = prepare(_page())
        self.redeliver = prepare(
            sa.update(deliveries)
            .where(*_at(), deliveries.c.tenant == sa.bindparam("of_tenant"), deliveries.c.state != "pending", enabled)
            .values(state="pending", attempts=0, due_at=sa.bindparam("now", type_=sa.BigInteger), claim=None)
        )
        self.bury = prepare(
            sa.update(deliveries)
            .where(deliveries.c.state == "pending", ~enabled)
            .values(
                state="dead",
                due_at=sa.bindparam("now", type_=sa.BigInteger),
                last_error=sa.bindparam("reason", type_=sa.Text),
            )
        )
        self.forget = prepare(
            sa.delete(deliveries).where(
                deliveries.c.state == sa.bindparam("of_state"), deliveries.c.created_at < sa.bindparam("before")
            )
        )


def _announce() -> sa.Insert:
    """One row per enabled receiver of the tenant that wants this type; none where nobody does."""
    at = sa.bindparam("at", type_=sa.BigInteger)
    values = {
        "event": sa.bindparam("event", type_=sa.Text),
        "webhook": webhooks.c.id,
        "tenant": webhooks.c.tenant,
        "type": sa.bindparam("type", type_=sa.Text),
        "body": sa.bindparam("body", type_=sa.LargeBinary),
        "state": sa.literal("pending", sa.Text),
        "attempts": sa.literal(0, sa.BigInteger),
        "due_at": at,
        "created_at": at,
    }
    wanted = sa.select(*values.values()).where(
        webhooks.c.tenant == sa.bindparam("of_tenant"),
        webhooks.c.state == "enabled",
        webhooks.c.events.like(sa.bindparam("pattern", type_=sa.Text)),
    )
    return sa.insert(deliveries).from_select(list(values), wanted)


def _insert_webhook() -> sa.Insert:
    """Insert a receiver unless the tenant has `most` already."""
    held = (
        sa.select(sa.func.count())
        .select_from(webhooks)
        .where(webhooks.c.tenant == sa.bindparam("tenant", type_=sa.Text))
        .scalar_subquery()
    )
    values = [sa.bindparam(column.name, type_=column.type) for column in webhooks.c]
    row = sa.select(*values).where(held < sa.bindparam("most", type_=sa.BigInteger))
    return sa.insert(webhooks).from_select(list(webhooks.c), row)


def _page() -> sa.Select[Any]:
    at = sa.bindparam("after_at", type_=sa.BigInteger)
    event, webhook = sa.bindparam("after_event", type_=sa.Text), sa.bindparam("after_webhook", type_=sa.Text)
    in_event = (deliveries.c.event == event) & (deliveries.c.webhook > webhook)
    in_second = (deliveries.c.created_at == at) & ((deliveries.c.event > event) | in_event)
    behind = (deliveries.c.created_at > at) | in_second
    return (
        sa.select(deliveries)
        .where(deliveries.c.tenant == sa.bindparam("of_tenant"), deliveries.c.state == sa.bindparam("of_state"), behind)
        .order_by(deliveries.c.created_at, deliveries.c.event, deliveries.c.webhook)
        .limit(sa.bindparam("most"))
    )


def _at() -> tuple[sa.ColumnElement[bool], ...]:
    return (deliveries.c.event == sa.bindparam("of_event"), deliveries.c.webhook == sa.bindparam("of_webhook"))


def _place(delivery: Delivery) -> dict[str, Any]:
    return {"of_event": delivery.event, "of_webhook": delivery.webhook}


def _joined(events: Sequence[str]) -> str:
    return f",{','.join(events)},"


def _webhook(row: Row) -> Webhook:
    found = {name: row[name] for name in Webhook.__slots__}
    return Webhook(**found | {"events": tuple(row["events"].strip(",").split(","))})


def _delivery(row: Row) -> Delivery:
    return Delivery(**{name: row[name] for name in Delivery.__slots__})
