"""Webhooks, retention and evidence on both engines: whole flows, conditional commits, and two processes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import bindparam, update

from pkicore.clock import unix
from services.chassis.audit import audit_records
from services.chassis.database import AuditEvent, Database, Unit, Write
from services.chassis.errors import ConflictError
from services.signing import schema
from services.signing.errors import NotFoundError, NotOfferedError
from services.signing.retention import RetentionRule
from services.signing.store.outbox import OutboxStore, Settlement
from services.signing.store.retention import Keeping
from services.signing.webhooks.courier import LEASE_SECONDS
from tests.support.evidence_world import MALLORY, EvidenceWorld, evidence_world
from tests.support.webhook_receiver import WebhookReceiver, is_signed
from tests.support.webhook_world import WebhookWorld, webhook_world

TEN_DAYS = RetentionRule(tenant="acme", keep="10d")
A, B = "a" * 64, "b" * 64
LONG = b'{"bomFormat":"CycloneDX"}' + b" " * 100_000


@pytest.fixture
async def webhooks(tmp_path: Path, empty_url: str) -> AsyncIterator[WebhookWorld]:
    """Webhooks that may dial loopback."""
    async with webhook_world(tmp_path, url=empty_url, seconds=5) as made:
        yield made


@pytest.fixture
async def evidence(tmp_path: Path, empty_url: str) -> AsyncIterator[EvidenceWorld]:
    """Signatures of acme are kept ten days, those of others for ever."""
    async with evidence_world(tmp_path, TEN_DAYS, url=empty_url) as made:
        yield made


async def test_event_reaches_each_receiver_that_wants_it(webhooks: WebhookWorld) -> None:
    """Once each, signed; not those of another tenant, of other events, or registered later."""
    async with WebhookReceiver() as receiver:
        url = f"http://hook.test:{receiver.port}"
        first, second = await webhooks.receiver(f"{url}/1"), await webhooks.receiver(f"{url}/2")
        await webhooks.webhooks.register("acme", "alice", f"{url}/3", ["evidence.exported"])
        await webhooks.receiver(f"{url}/4", "globex")
        await webhooks.happens("evt_1")
        await webhooks.deliver()
        await webhooks.deliver()
        assert sorted(got.path for got in receiver.received) == ["/1", "/2"]
        by_path = {got.path: got for got in receiver.received}
        assert is_signed(by_path["/1"], first.secret)
        assert is_signed(by_path["/2"], second.secret)
        assert len(await webhooks.webhooks.deliveries("acme", "delivered")) == 2


async def test_failures_are_repeated_died_of_and_revived(webhooks: WebhookWorld) -> None:
    """A failure waits, 410 kills it and what waits beside it, and a rotation lets the dead be sent again."""
    async with WebhookReceiver() as receiver:
        receiver.answer(500)
        made = await webhooks.receiver(f"http://hook.test:{receiver.port}/")
        await webhooks.happens("evt_1")
        await webhooks.deliver()
        assert ((await webhooks.one()).attempts, (await webhooks.one()).last_status) == (1, 500)
        receiver.answer(410)
        await webhooks.happens("evt_2")
        await webhooks.deliver()
        dead = await webhooks.webhooks.deliveries("acme", "dead")
        assert [(one.event, one.last_status) for one in dead] == [("evt_1", 500), ("evt_2", 410)]
        with pytest.raises(NotFoundError):
            await webhooks.webhooks.redeliver("acme", "alice", "evt_1", made.webhook.id)
        receiver.answer(200)
        await webhooks.webhooks.rotate("acme", "alice", made.webhook.id)
        await webhooks.webhooks.redeliver("acme", "alice", "evt_1", made.webhook.id)
        await webhooks.deliver()
        assert (await webhooks.one("delivered")).event == "evt_1"


async def test_two_processes_take_a_delivery_once(webhooks: WebhookWorld, empty_url: str) -> None:
    """Over two connections to one database, of many claims at once one is granted, and only it settles the row."""
    await webhooks.receiver("https://hook.test/")
    await webhooks.happens("evt_1")
    seen, until = await webhooks.one(), unix(webhooks.clock.now()) + LEASE_SECONDS
    second = await Database.open(empty_url, clock=webhooks.clock)
    stores = [webhooks.store, OutboxStore(second)] * 3
    granted = await asyncio.gather(
        *(store.claim(seen, f"claim-{number}", until) for number, store in enumerate(stores))
    )
    assert sum(granted) == 1
    done = Settlement("delivered", until, 200, None)
    for number, store in enumerate(stores):
        if granted[number]:
            await store.settle(seen, f"claim-{number}", done, gone=False)
        else:
            with pytest.raises(ConflictError):
                await store.settle(seen, f"claim-{number}", done, gone=False)
    await second.close()


async def test_tenant_has_so_many_receivers_and_one_rotation_at_a_time(webhooks: WebhookWorld) -> None:
    """Beyond the number, or over a secret that was replaced meanwhile, nothing is written."""
    made, *_ = [await webhooks.receiver(f"https://hook.test/{number}") for number in range(3)]
    with pytest.raises(NotOfferedError):
        await webhooks.receiver("https://hook.test/4")
    await webhooks.webhooks.rotate("acme", "alice", made.webhook.id)
    with pytest.raises(ConflictError):
        await webhooks.store.rotate(made.webhook, b"x", 0, AuditEvent("webhook.rotated", "bob"))
    await webhooks.webhooks.remove("acme", "alice", made.webhook.id)
    assert len(await webhooks.webhooks.of_tenant("acme")) == 2
    assert await webhooks.store.salt(b"first") == await webhooks.store.salt(b"second") == b"first"


async def test_old_deliveries_are_forgotten_and_waiting_ones_kept(webhooks: WebhookWorld) -> None:
    """Pages go by time and id; what an enabled receiver waits for stays, what a gone one was sent dies."""
    async with WebhookReceiver() as receiver:
        made = await webhooks.receiver(f"http://hook.test:{receiver.port}/")
        for number in range(3):
            await webhooks.happens(f"evt_{number}")
        await webhooks.deliver()
        page = await webhooks.store.deliveries("acme", "delivered", (0, "", ""), 2)
        rest = await webhooks.store.deliveries(
            "acme", "delivered", (page[-1].created_at, page[-1].event, page[-1].webhook), 2
        )
        assert [one.event for one in (*page, *rest)] == ["evt_0", "evt_1", "evt_2"]
        await webhooks.happens("evt_3")
        webhooks.later(100)
        now = unix(webhooks.clock.now())
        await webhooks.store.forget(now, now, now)
        assert await webhooks.webhooks.deliveries("acme", "delivered") == []
        assert (await webhooks.one()).event == "evt_3"
    await _gone_behind_the_back(webhooks, made.webhook.id)
    await webhooks.store.forget(0, 0, now)
    assert "gone" in str((await webhooks.one("dead")).last_error)


async def _gone_behind_the_back(world: WebhookWorld, webhook: str) -> None:
    """What is left where an event was announced while its receiver was found gone: both are there."""
    gone = update(schema.webhooks).where(schema.webhooks.c.id == bindparam("of")).values(state="gone")
    await world.database.commit(Unit("test", [Write(world.database.prepare(gone), {"of": webhook}, 1)]))


async def test_what_is_overdue_goes_with_all_that_was_served(evidence: EvidenceWorld) -> None:
    """At its date and not before, on record, told to receivers; another tenant's stay."""
    record = await evidence.sign({"app": A}, sbom=LONG)
    others = await evidence.sign({"app": A}, caller=MALLORY)
    evidence.later(10 - 1 / 86_400)
    assert await evidence.retention.enforce() == 0
    evidence.later(1 / 86_400)
    assert await evidence.retention.enforce() == 1
    assert await evidence.store.signature("acme", record.id) is None
    assert await evidence.store.artefacts(record.id) == []
    assert await evidence.store.page("acme", [f"sha256:{A}"]) == []
    assert await evidence.store.signature("other", others.id) is not None
    events = [one.record.event async for one in audit_records(evidence.database)]
    assert events.count("signature.removed") == 1


async def test_holds_and_promises_go_before_rules(evidence: EvidenceWorld) -> None:
    """A hold outlasts the date, an archive's promise is not shortened, and neither is made for what is not there."""
    held, promised = await evidence.sign({"app": A}), await evidence.sign({"lib": B})
    assert await evidence.retention.keeping("acme", held.id) == Keeping(0, None, None, None)
    await evidence.retention.hold("acme", "alice", held.id, "case 7")
    with pytest.raises(NotFoundError):
        await evidence.retention.hold("acme", "alice", held.id, "case 8")
    with pytest.raises(NotFoundError):
        await evidence.retention.hold("other", "mallory", held.id, "case 7")
    await evidence.export(promised.id)
    await evidence.database.commit(Unit("test", evidence.retention.promising("acme", promised.id, 5)))
    until = promised.created + 10 * 86_400
    assert (await evidence.retention.keeping("acme", promised.id)).promised_until == until
    assert await evidence.ruled_by(RetentionRule(tenant="acme", keep="1d")).enforce() == 0
    evidence.later(11)
    assert await evidence.retention.enforce() == 2  # the promised one, and the signature over the manifest
    with pytest.raises(NotFoundError):
        await evidence.retention.keeping("acme", promised.id)
    assert (await evidence.retention.keeping("acme", held.id)).hold_reason == "case 7"
    await evidence.retention.release("acme", "alice", held.id)
    assert await evidence.retention.enforce() == 1
    with pytest.raises(ConflictError):
        await evidence.database.commit(Unit("test", evidence.retention.promising("acme", held.id, 5)))


async def test_archives_are_listed_found_and_forgotten(evidence: EvidenceWorld) -> None:
    """By their tenant alone, the newest first; the lines of the audit log are those about the release."""
    record = await evidence.sign({"app": A}, sbom=LONG)
    first = await evidence.export(record.id)
    evidence.later(1)
    second = await evidence.export(record.id, name="app-2")
    assert [one.id for one in (await evidence.evidence.page("acme", None))[0]] == [second.id, first.id]
    assert (await evidence.evidence.page("acme", second.id))[0] == [first]
    assert (await evidence.evidence.page("other", None))[0] == []
    assert await evidence.evidence.find("acme", first.id) == first
    with pytest.raises(NotFoundError):
        await evidence.evidence.find("other", first.id)
    evidence.later(29.5)
    await evidence.evidence.clean_up_once()
    assert [one.id for one in (await evidence.evidence.page("acme", None))[0]] == [second.id]
    assert [path.stem for path in evidence.directory.iterdir()] == [second.id]
