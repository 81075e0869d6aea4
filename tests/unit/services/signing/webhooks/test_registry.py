from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkicore.errors import MalformedError
from services.chassis.audit import audit_records
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError
from services.signing.errors import NotFoundError, NotOfferedError
from services.signing.store.outbox import OutboxStore
from tests.support.webhook_world import BOX, WebhookWorld, webhook_world

URL = "https://hook.test/in"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[WebhookWorld]:
    """Webhooks of a new database."""
    async with webhook_world(tmp_path) as made:
        yield made


async def test_secret_is_shown_once_and_kept_sealed(world: WebhookWorld, tmp_path: Path) -> None:
    """The registration tells the secret; nothing in the database does."""
    made = await world.receiver(URL)
    (listed,) = await world.webhooks.of_tenant("acme")
    assert listed == made.webhook
    secret = BOX.open(listed.id, listed.secret)
    kept = _content(tmp_path)
    assert secret not in kept
    assert made.secret.encode() not in kept
    assert b"hook.test" in kept


async def test_audit_names_what_was_done_and_no_secret(world: WebhookWorld) -> None:
    """Registration, rotation and removal are on record with their actor."""
    made = await world.receiver(URL)
    await world.webhooks.rotate("acme", "bob", made.webhook.id)
    await world.webhooks.remove("acme", "carol", made.webhook.id)
    records = [stored.record async for stored in audit_records(world.database)]
    assert [(record.event, record.actor) for record in records] == [
        ("webhook.registered", "alice"),
        ("webhook.rotated", "bob"),
        ("webhook.removed", "carol"),
    ]
    assert "whsec" not in str(records)


@pytest.mark.parametrize("events", [[], None, "signature.created", ["other"], ["signature.created", 7], [["a"]]])
async def test_events_must_be_known(world: WebhookWorld, events: object) -> None:
    """A receiver names what it wants to hear, out of what there is."""
    with pytest.raises(MalformedError, match=r"signature\.created"):
        await world.webhooks.register("acme", "alice", URL, events)


async def test_number_of_receivers_is_bounded(world: WebhookWorld) -> None:
    """A tenant has three here, whatever others have."""
    for _ in range(3):
        await world.receiver(URL)
    with pytest.raises(NotOfferedError, match="at most 3"):
        await world.receiver(URL)
    assert await world.receiver(URL, tenant="other")


async def test_tenants_do_not_see_each_others(world: WebhookWorld) -> None:
    """Another tenant's receiver looks like none, for every act."""
    made = await world.receiver(URL)
    await world.happens("evt_1")
    for act in (
        world.webhooks.rotate("other", "eve", made.webhook.id),
        world.webhooks.remove("other", "eve", made.webhook.id),
        world.webhooks.redeliver("other", "eve", "evt_1", made.webhook.id),
    ):
        with pytest.raises(NotFoundError):
            await act
    assert await world.webhooks.of_tenant("other") == []
    assert list(await world.webhooks.deliveries("other", "pending")) == []
    assert await world.webhooks.of_tenant("acme") == [made.webhook]


async def test_removal_takes_what_was_on_its_way(world: WebhookWorld) -> None:
    """Nothing is sent to a receiver that was removed."""
    made = await world.receiver(URL)
    await world.happens("evt_1")
    await world.webhooks.remove("acme", "alice", made.webhook.id)
    assert list(await world.webhooks.deliveries("acme", "pending")) == []
    with pytest.raises(NotFoundError):
        await world.webhooks.remove("acme", "alice", made.webhook.id)


async def test_rotation_that_came_second_is_refused(world: WebhookWorld) -> None:
    """Two rotations at once do not lose the secret that is still in use."""
    made = await world.receiver(URL)
    await world.webhooks.rotate("acme", "alice", made.webhook.id)
    with pytest.raises(ConflictError):
        await world.store.rotate(made.webhook, b"sealed", 0, AuditEvent("webhook.rotated", "bob"))


async def test_salt_is_made_once(world: WebhookWorld) -> None:
    """The first salt stays, whoever else proposes one."""
    assert await world.store.salt(b"a" * 16) == b"a" * 16
    assert await OutboxStore(world.database).salt(b"b" * 16) == b"a" * 16


async def test_event_that_nobody_wants_leaves_no_row(world: WebhookWorld) -> None:
    """The outbox holds what somebody waits for, and nothing else."""
    await world.webhooks.register("acme", "alice", URL, ["evidence.exported"])
    await world.receiver(URL, tenant="other")
    await world.happens("evt_1")
    assert list(await world.webhooks.deliveries("acme", "pending")) == []
    assert list(await world.webhooks.deliveries("other", "pending")) == []


async def test_dead_letters_come_in_pages(world: WebhookWorld) -> None:
    """By time, event and receiver, from behind the last one that was seen, also where a page ends within an event."""
    for _ in range(2):
        await world.receiver(URL)
    for number in range(3):
        await world.happens(f"evt_{number}")
    first = await world.webhooks.deliveries("acme", "pending", most=3)
    place = (first[-1].created_at, first[-1].event, first[-1].webhook)
    second = await world.webhooks.deliveries("acme", "pending", place, 3)
    found = [(delivery.event, delivery.webhook) for delivery in (*first, *second)]
    assert len(found) == len(set(found)) == 6
    assert found == sorted(found)


def _content(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())
