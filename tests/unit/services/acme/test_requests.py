from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.jose.jwk import jwk_of, thumbprint
from services.acme.app import MIGRATIONS
from services.acme.ids import is_id, new_id, new_token
from services.acme.requests import AccountCache
from services.acme.store import AccountRow, Store
from services.acme.urls import Urls
from services.chassis.database import AuditEvent, Database
from services.chassis.errors import ConflictError, DuplicateError
from tests.support.clock import ManualClock
from tests.support.migrated import migrated

AUDIT = AuditEvent("test", "test")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on an empty database."""
    url = f"sqlite:///{tmp_path / 'acme.sqlite3'}"
    await migrated(url, MIGRATIONS)
    database = await Database.open(url, clock=ManualClock())
    yield Store(database)
    await database.close()


async def stored_account(store: Store) -> AccountRow:
    """A valid account."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key()
    account = AccountRow(new_id(), "valid", thumbprint(key), jwk_of(key), ("mailto:a@b.example",), None, 1)
    await store.create_account(account, AUDIT)
    return account


async def test_keys_are_loaded_once(store: Store) -> None:
    """The same account object is given until the account changes."""
    cache, row = AccountCache(store), await stored_account(store)
    first = await cache.get(row.id)
    assert first is not None
    assert first.row == row
    assert await cache.get(row.id) is first
    await store.deactivate_account(row.id, AUDIT)
    cache.forget(row.id)
    changed = await cache.get(row.id)
    assert changed is not None
    assert changed.row.status == "deactivated"


async def test_unknown_accounts_are_not_remembered(store: Store) -> None:
    """An id that names nothing today may name an account tomorrow."""
    assert await AccountCache(store).get(new_id()) is None


async def test_the_cache_is_bounded(store: Store) -> None:
    """The least recently used account goes first."""
    cache = AccountCache(store, size=2)
    one, two, three = [await stored_account(store) for _ in range(3)]
    held = [await cache.get(one.id), await cache.get(two.id)]
    assert await cache.get(one.id) is held[0]
    await cache.get(three.id)
    assert await cache.get(one.id) is held[0]
    assert await cache.get(two.id) is not held[1]


async def test_a_change_while_reading_is_not_overwritten(store: Store) -> None:
    """An account that changes while it is being read is not kept as it was before."""
    cache, row = AccountCache(store), await stored_account(store)
    reading = asyncio.create_task(cache.get(row.id))
    await asyncio.sleep(0)
    cache.forget(row.id)
    before = await reading
    assert await cache.get(row.id) is not before or before is None


@pytest.mark.requirement("rfc8555-11.1-07")
async def test_a_key_cannot_have_two_accounts(store: Store) -> None:
    """The database itself refuses a second account for a key."""
    row = await stored_account(store)
    twin = AccountRow(new_id(), "valid", row.thumbprint, row.jwk, (), None, 2)
    with pytest.raises(DuplicateError):
        await store.create_account(twin, AUDIT)


@pytest.mark.requirement("rfc8555-7.3.6-03")
async def test_deactivation_is_final(store: Store) -> None:
    """An account that is not valid any more cannot be changed, and the attempt writes no audit record."""
    row = await stored_account(store)
    await store.deactivate_account(row.id, AUDIT)
    for change in (store.deactivate_account(row.id, AUDIT), store.update_contacts(row.id, (), AUDIT)):
        with pytest.raises(ConflictError):
            await change


@pytest.mark.requirement(
    "rfc8555-10.5-01",
    "rfc8555-8.3-01",
    "rfc8555-8.4-01",
    "rfc8737-3-01",
    "dns-account-3.1-01",
    "dns-account-3.1-02",
)
def test_ids_and_tokens() -> None:
    """Ids are 128 and tokens 256 random bits in base64url, and only what has the form of an id is looked up."""
    assert len({new_id() for _ in range(100)}) == 100
    assert all(is_id(new_id()) for _ in range(100))
    tokens = {new_token() for _ in range(100)}
    assert {len(token) for token in tokens} == {43}
    assert len(tokens) == 100
    for text in ("", "a" * 21, "a" * 23, "a" * 21 + "=", "a" * 21 + "\n", "ä" * 22, "../" + "a" * 19):
        assert not is_id(text)


def test_urls() -> None:
    """Account ids are read only from URLs of exactly this server."""
    urls = Urls("https://ca.example")
    assert urls.of("new-order") == "https://ca.example/acme/new-order"
    assert urls.account_id("https://ca.example/acme/acct/abc") == "abc"
    for foreign in ("https://ca.example.evil/acme/acct/abc", "http://ca.example/acme/acct/abc", "abc", ""):
        assert urls.account_id(foreign) is None
