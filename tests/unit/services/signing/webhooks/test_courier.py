"""Deliveries to receivers of every temper, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from pkicore.clock import unix
from services.chassis.audit import audit_records
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError
from services.signing.errors import NotFoundError
from services.signing.store.outbox import Settlement
from services.signing.webhooks.courier import LEASE_SECONDS, MAX_ATTEMPTS, PAUSES, PER_RECEIVER
from services.signing.webhooks.registry import OVERLAP_SECONDS
from tests.support.webhook_receiver import WebhookReceiver, is_signed
from tests.support.webhook_world import WebhookWorld, webhook_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[WebhookWorld]:
    """Webhooks of a new database, which may dial loopback."""
    async with webhook_world(tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """A receiver that takes everything."""
    async with WebhookReceiver() as made:
        yield made


def url_of(receiver: WebhookReceiver) -> str:
    """A receiver by name."""
    return f"http://hook.test:{receiver.port}/in?a=b"


async def test_delivery_is_signed_and_taken_once(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """An event arrives with the headers of Standard Webhooks, and is not sent again once it was taken."""
    made = await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.deliver()
    await world.deliver()
    (got,) = receiver.received
    assert (got.path, got.id) == ("/in?a=b", "evt_1")
    assert got.headers["webhook-timestamp"] == str(unix(world.clock.now()))
    assert got.headers["host"] == f"hook.test:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert orjson.loads(got.body)["data"] == {"id": "evt_1"}
    assert is_signed(got, made.secret)
    assert (await world.one("delivered")).last_status == 204
    assert world.outcomes == ["delivered"]


async def test_both_secrets_sign_for_a_day(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """After a rotation the old secret is good for a day, and not a second longer."""
    old = await world.receiver(url_of(receiver))
    new = await world.webhooks.rotate("acme", "alice", old.webhook.id)
    await world.happens("evt_1")
    await world.deliver()
    world.later(OVERLAP_SECONDS)
    await world.happens("evt_2")
    await world.deliver()
    first, second = receiver.received
    assert [is_signed(first, made.secret) for made in (old, new)] == [True, True]
    assert [is_signed(second, made.secret) for made in (old, new)] == [False, True]


@pytest.mark.parametrize("status", [300, 301, 302, 307, 400, 401, 404, 500, 503])
async def test_other_status_is_tried_again(world: WebhookWorld, receiver: WebhookReceiver, status: int) -> None:
    """Whatever is no success comes again with the same id, body and a new timestamp."""
    receiver.answer(status, "Location: /elsewhere")
    await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.deliver()
    waiting = await world.one()
    assert waiting.last_error == f"the receiver answered with status {status}"
    assert waiting.due_at == unix(world.clock.now()) + PAUSES[0]
    await world.deliver()
    assert len(receiver.received) == 1
    world.later(PAUSES[0])
    await world.deliver()
    first, second = receiver.received
    assert (first.id, first.body, first.path) == (second.id, second.body, second.path)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


async def test_pauses_grow_and_the_letter_dies(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """After ten attempts over three days the delivery is dead, seen by its tenant and on record; it can be revived."""
    receiver.answer(500)
    made = await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    for pause in PAUSES:
        await world.deliver()
        assert (await world.one()).due_at - unix(world.clock.now()) == pause
        world.later(pause)
    await world.deliver()
    dead = await world.one("dead")
    assert dead.attempts == MAX_ATTEMPTS == len(receiver.received) == 10
    assert 3 * 86_400 < sum(PAUSES) < 4 * 86_400
    (last,) = [one.record async for one in audit_records(world.database) if one.record.event == "webhook.dead-letter"]
    assert last.detail["event"] == "evt_1"
    receiver.answer(200)
    await world.webhooks.redeliver("acme", "alice", "evt_1", made.webhook.id)
    await world.deliver()
    assert (await world.one("delivered")).attempts == 1
    assert world.outcomes[-2:] == ["dead", "delivered"]


async def test_jitter_lengthens_a_pause_by_a_fifth_at_most(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """Receivers that came back are not met by everything at once."""
    async with webhook_world(tmp_path, random=1.0) as world:
        receiver.answer(500)
        await world.receiver(url_of(receiver))
        await world.happens("evt_1")
        await world.deliver()
        assert (await world.one()).due_at == unix(world.clock.now()) + round(PAUSES[0] * 1.2)


@pytest.mark.parametrize(
    ("status", "header", "pause"),
    [
        (429, "Retry-After: 120", 120),
        (503, "Retry-After: 1", 5),
        (503, "Retry-After: 999999", 86_400),
        (503, "Retry-After: 99999999999999999999", 5),
        (503, "Retry-After: -7", 5),
        (503, "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT", 5),
        (500, "Retry-After: 120", 5),
    ],
)
async def test_receiver_may_ask_for_time(
    world: WebhookWorld, receiver: WebhookReceiver, status: int, header: str, pause: int
) -> None:
    """Retry-After of 429 and 503 lengthens the pause, up to a day."""
    receiver.answer(status, header)
    await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.deliver()
    assert (await world.one()).due_at == unix(world.clock.now()) + pause


async def test_receiver_that_is_gone_is_left_alone(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """410 ends it: nothing more is sent or kept for it until its secret is rotated, and dead letters stay dead."""
    receiver.answer(410)
    made = await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.deliver()
    await world.happens("evt_2")
    await world.deliver()
    assert (await world.one("dead")).event == "evt_1"
    assert len(receiver.received) == 1
    (listed,) = await world.webhooks.of_tenant("acme")
    assert listed.state == "gone"
    with pytest.raises(NotFoundError, match="rotated"):
        await world.webhooks.redeliver("acme", "alice", "evt_1", made.webhook.id)
    receiver.answer(200)
    await world.webhooks.rotate("acme", "alice", made.webhook.id)
    await world.webhooks.redeliver("acme", "alice", "evt_1", made.webhook.id)
    await world.happens("evt_3")
    await world.deliver()
    assert {got.id for got in receiver.received[1:]} == {"evt_1", "evt_3"}


async def test_what_waits_dies_with_its_receiver(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """What waits for one that answers 410 becomes dead letters with the reason; what another waits for does not."""
    receiver.answer(503)
    await world.receiver(url_of(receiver))
    async with WebhookReceiver() as slow:
        slow.answer(503)
        await world.receiver(url_of(slow))
        await world.happens("evt_1")
        await world.happens("evt_2")
        await world.deliver()
        receiver.answer(410)
        await world.happens("evt_3")
        await world.deliver()
    dead = await world.webhooks.deliveries("acme", "dead")
    assert [one.event for one in dead] == ["evt_1", "evt_2", "evt_3"]
    assert {one.last_error for one in dead[:2]} == {"the receiver is gone: it has answered 410"}
    assert len(await world.webhooks.deliveries("acme", "pending")) == 3
    (gone,) = [one.record async for one in audit_records(world.database) if one.record.event == "webhook.gone"]
    assert gone.detail["webhook"] == dead[0].webhook


async def test_attempt_under_way_while_its_receiver_goes(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """A success that ends after the 410 is kept as one; a failure leaves the letter dead and is not tried again."""
    await world.receiver(url_of(receiver))
    until = unix(world.clock.now()) + LEASE_SECONDS
    for event in ("evt_1", "evt_2", "evt_3"):
        await world.happens(event)
    first, second, third = await world.webhooks.deliveries("acme", "pending")
    for one in (first, second, third):
        assert await world.store.claim(one, one.event, until)
    await world.store.settle(third, "evt_3", Settlement("dead", until, 410, "gone"), gone=True)
    await world.store.settle(first, "evt_1", Settlement("delivered", until, 200, None), gone=False)
    with pytest.raises(ConflictError):
        await world.store.settle(second, "evt_2", Settlement("pending", until, 503, "no"), gone=False)
    assert [one.event for one in await world.webhooks.deliveries("acme", "delivered")] == ["evt_1"]
    assert [one.event for one in await world.webhooks.deliveries("acme", "dead")] == ["evt_2", "evt_3"]


async def test_slow_receiver_holds_up_no_other(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """Another receiver gets its events while one keeps every connection that it may have open."""
    async with WebhookReceiver() as slow, webhook_world(tmp_path, seconds=2) as world:
        slow.stall()
        await world.receiver(url_of(slow))
        for number in range(PER_RECEIVER + 3):
            await world.happens(f"evt_{number}")
        await world.courier.round()
        await world.receiver(url_of(receiver))
        await world.happens("evt_last")
        await world.courier.round()
        await receiver.until(1, seconds=1.5)
        assert [got.id for got in receiver.received] == ["evt_last"]
        assert slow.connections == slow.most_open == PER_RECEIVER
        await world.courier.settled()
        assert len(await world.webhooks.deliveries("acme", "pending")) == PER_RECEIVER + 4


async def test_backlog_drains(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """The running courier delivers more than fit at once without waiting in between, and looks again each second."""
    await world.receiver(url_of(receiver))
    for number in range(3 * PER_RECEIVER):
        await world.happens(f"evt_{number}")
    running = asyncio.create_task(world.courier.run())
    try:
        await receiver.until(3 * PER_RECEIVER)
        await world.courier.settled()
        await world.happens("evt_new")
        await receiver.until(3 * PER_RECEIVER + 1, seconds=5)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len({got.id for got in receiver.received}) == len(receiver.received) == 3 * PER_RECEIVER + 1
    assert receiver.most_open <= PER_RECEIVER


async def test_two_processes_do_not_deliver_one_row_twice(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """Of two claims on one row one is refused."""
    await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    seen = await world.one()
    until = unix(world.clock.now()) + LEASE_SECONDS
    assert await world.store.claim(seen, "first", until)
    assert not await world.store.claim(seen, "second", until)
    await world.deliver()
    assert receiver.received == []


async def test_claim_of_a_dead_process_runs_out(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """A row that was taken and never settled comes up again after its lease, with that attempt counted."""
    await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.store.claim(await world.one(), "gone", unix(world.clock.now()) + LEASE_SECONDS)
    world.later(LEASE_SECONDS)
    await world.deliver()
    assert [got.id for got in receiver.received] == ["evt_1"]
    assert (await world.one("delivered")).attempts == 2


async def test_secret_of_another_passphrase_is_a_failure_with_a_reason(
    world: WebhookWorld, receiver: WebhookReceiver
) -> None:
    """A secret that cannot be opened sends nothing unsigned; the tenant reads what to do."""
    made = await world.receiver(url_of(receiver))
    event = (await world.webhooks.rotate("acme", "alice", made.webhook.id)).webhook
    await world.store.rotate(event, b"x" * 60, 0, _note())
    await world.happens("evt_1")
    await world.deliver()
    assert receiver.connections == 0
    assert "rotate it" in str((await world.one()).last_error)


async def test_clean_up_keeps_what_waits(world: WebhookWorld, receiver: WebhookReceiver) -> None:
    """Old deliveries are deleted when they were taken or died, never while they wait."""
    await world.receiver(url_of(receiver))
    await world.happens("evt_1")
    await world.deliver()
    await world.happens("evt_2")
    world.later(100)
    now = unix(world.clock.now())
    await world.store.forget(now, now, now)
    assert list(await world.webhooks.deliveries("acme", "delivered")) == []
    assert (await world.one()).event == "evt_2"


def _note() -> AuditEvent:
    return AuditEvent("webhook.rotated", "bob")
