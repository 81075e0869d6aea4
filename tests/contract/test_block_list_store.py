"""The block list's statements, on both engines."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pkicore.clock import from_unix
from services.ca.app import MIGRATIONS
from services.ca.block_list.store import BlockListStore
from services.ca.revocation_store import RevocationStore
from services.chassis.database import AuditEvent, Database
from services.chassis.errors import ConflictError, DuplicateError
from tests.support.clock import ManualClock
from tests.support.ledger_rows import DAY, NOW, Row, add_rows
from tests.support.migrated import migrated

SECRETS = sorted((b"%d" % n for n in range(5)), key=lambda key: hashlib.sha256(key).digest())
KEYS = [hashlib.sha256(key).digest() for key in SECRETS]
EVENT = AuditEvent("key.blocked", "spiffe://td/operator/a", {})


@dataclass
class World:
    """A database of the CA."""

    url: str
    database: Database
    store: BlockListStore


@pytest.fixture
async def world(empty_url: str) -> AsyncIterator[World]:
    """An empty one."""
    await migrated(empty_url, MIGRATIONS)
    database = await Database.open(empty_url, clock=ManualClock(from_unix(NOW)))
    yield World(empty_url, database, BlockListStore(database))
    await database.close()


async def test_added_once_listed_in_order_and_removed(world: World) -> None:
    """A second time is a conflict that changes nothing, and so is to remove what is not there."""
    for key in reversed(KEYS):
        await world.store.add(key, NOW, "why", EVENT)
    with pytest.raises((ConflictError, DuplicateError)):
        await world.store.add(KEYS[0], NOW + 1, "other", EVENT)
    listed = [entry.key_hash for entry in await world.store.page(b"", 3)]
    listed += [entry.key_hash for entry in await world.store.page(bytes.fromhex(listed[-1]), 3)]
    assert listed == [key.hex() for key in KEYS]
    (first, *_) = await world.store.page(b"", 1)
    assert (first.blocked_at, first.reason, first.blocked_by) == (NOW, "why", EVENT.actor)
    await world.store.remove(KEYS[0], EVENT)
    with pytest.raises(ConflictError):
        await world.store.remove(KEYS[0], EVENT)
    assert len(await world.store.page(b"", 9)) == 4


async def test_overdue(world: World) -> None:
    """Blocked keys with certificates that have neither ended nor been revoked, each once; by revocation, too."""
    rows = [
        Row([("dns", "a.example")], key=SECRETS[0]),
        Row([("dns", "b.example")], key=SECRETS[0]),
        Row([("dns", "c.example")], key=SECRETS[1]),
        Row([("dns", "d.example")], key=SECRETS[2], not_after=NOW - DAY),
    ]
    await add_rows(world.database, rows)
    assert not await world.store.overdue(NOW)
    for key in (KEYS[0], KEYS[2], KEYS[3]):
        await world.store.add(key, NOW, "why", EVENT)
    assert await world.store.overdue(NOW) == [KEYS[0]]
    await RevocationStore(world.database).block_key(KEYS[1], NOW, EVENT)
    assert sorted(await world.store.overdue(NOW)) == KEYS[:2]
