"""The signing service's store on both engines: whole commits, searches, policies, numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.chassis.database import AuditEvent, Database
from services.chassis.errors import ConflictError, DuplicateError
from services.signing.app import MIGRATIONS
from services.signing.callers import Caller, Scopes
from services.signing.callers.api_keys import new_api_key
from services.signing.store import Artefact, Claim, NewSignature, Numbers, SigningStore, StoredSignature
from tests.support.clock import ManualClock
from tests.support.migrated import migrated

EVENT = AuditEvent("test", "test")


@pytest.fixture
async def store(empty_url: str) -> AsyncIterator[SigningStore]:
    """A store over a fresh database."""
    await migrated(empty_url, MIGRATIONS)
    clock = ManualClock()
    database = await Database.open(empty_url, clock=clock)
    yield SigningStore(database, clock)
    await database.close()


def new(name: str, *found_by: str, tenant: str = "acme") -> NewSignature:
    """A signature with two artefacts, one of them a file."""
    stored = StoredSignature(name, tenant, 7, b'{"id":"%b"}' % name.encode())
    inline = Artefact("raw.sig", "application/octet-stream", 3, "aa" * 32, b"sig")
    return NewSignature(stored, found_by, [inline, Artefact("sbom", "a/b", 9, name[:1] * 64, None)])


async def test_a_signature_is_kept_whole_or_not_at_all(store: SigningStore) -> None:
    """One whose idempotency key is taken leaves nothing: no record, no artefact, no entry of the index."""
    claim = Claim("acme", "me", "k", b"hash", "1a", 7)
    await store.keep(new("1a", "sha256:x"), EVENT, claim)
    with pytest.raises(DuplicateError):
        await store.keep(new("2b", "sha256:x"), EVENT, Claim("acme", "me", "k", b"other", "2b", 7))
    assert await store.signature("acme", "2b") is None
    assert await store.artefacts("2b") == []
    assert [one.id for one in await store.page("acme", ["sha256:x"])] == ["1a"]
    assert await store.claimed("acme", "me", "k") == claim
    await store.keep(new("3c"), EVENT, Claim("globex", "me", "k", b"hash", "3c", 7))


async def test_artefacts_are_found_for_their_tenant_alone(store: SigningStore) -> None:
    """By signature and name; files are known to be in use as long as a record names them."""
    await store.keep(new("1a"), EVENT)
    found = await store.artefact("acme", "1a", "raw.sig")
    assert found is not None
    assert found.content == b"sig"
    assert await store.artefact("globex", "1a", "raw.sig") is None
    assert await store.signature("globex", "1a") is None
    assert await store.object_is_used("1" * 64)
    assert not await store.object_is_used("aa" * 32)  # that one is a column
    assert await store.octets_since("acme", "1") == 12
    assert await store.octets_since("acme", "2") == 0


async def test_pages_are_of_one_tenant_newest_first(store: SigningStore) -> None:
    """By nothing, one or two names at once, from behind an id on."""
    for name, found_by in (("1a", ("d", "t")), ("2b", ("d",)), ("3c", ("t",)), ("4d", ("d", "t"))):
        await store.keep(new(name, *found_by), EVENT)
    await store.keep(new("5e", "d", "t", tenant="globex"), EVENT)

    async def ids(*found_by: str, after: str | None = None, most: int = 10) -> list[str]:
        return [one.id for one in await store.page("acme", found_by, after=after, most=most)]

    assert await ids() == ["4d", "3c", "2b", "1a"]
    assert await ids("d") == ["4d", "2b", "1a"]
    assert await ids("d", "t") == ["4d", "1a"]
    assert await ids("d", "t", after="4d") == ["1a"]
    assert await ids(after="3c", most=1) == ["2b"]
    assert await ids("nothing") == []


async def test_policies_have_a_version_each_time_they_come_into_force(store: SigningStore) -> None:
    """The same set again changes nothing; an old one that comes back is a new version."""
    assert await store.policy_in_force("a" * 64, {"a.cedar": "1"}) == 1
    assert await store.policy_in_force("a" * 64, {"a.cedar": "1"}) == 1
    assert await store.policy_in_force("b" * 64, {"b.cedar": "2"}) == 2
    assert await store.policy_in_force("a" * 64, {"a.cedar": "1"}) == 3
    found = await store.policies("a" * 64)
    assert found is not None
    assert (found.version, found.files) == (3, {"a.cedar": "1"})
    assert await store.policies("c" * 64) is None


async def test_numbers_are_never_given_twice(store: SigningStore) -> None:
    """However many ask at the same time; each counter has its own."""
    blocks = await asyncio.gather(*(store.take_numbers("serials", 10) for _ in range(8)))
    taken = [number for block in blocks for number in block]
    assert sorted(taken) == list(range(1, 81))
    assert await Numbers(store, "others").reserve(5) == 1
    assert await Numbers(store, "others").reserve(5) == 6


async def test_an_api_key_is_revoked_once_and_by_its_tenant(store: SigningStore) -> None:
    """A second time, or by another tenant, is a conflict."""
    scopes = Scopes(actions=frozenset({"sign"}))
    record = new_api_key(Caller("mtls", "me", "acme"), scopes, 60, 100).record
    await store.add_api_key(record, EVENT)
    assert await store.find_api_key(record.id) == record
    with pytest.raises(ConflictError):
        await store.revoke_api_key("globex", record.id, EVENT)
    await store.api_key_used(record.id, 3600)
    await store.revoke_api_key("acme", record.id, EVENT)
    with pytest.raises(ConflictError):
        await store.revoke_api_key("acme", record.id, EVENT)
    (found,) = await store.api_keys("acme")
    assert (found.last_used_at, found.revoked_at is None) == (3600, False)


async def test_api_keys_go_with_the_key_that_made_them(store: SigningStore) -> None:
    """And what those made; not what a certificate made, nor another key, and who was revoked before stays so."""
    top, other = await made(store, Caller("mtls", "me", "acme")), await made(store, Caller("oidc", "me", "acme"))
    child, gone, stranger = await made(store, top), await made(store, top), await made(store, other)
    grandchild = await made(store, child)
    await store.revoke_api_key("acme", gone, EVENT)
    with pytest.raises(ConflictError):
        await store.revoke_api_key("globex", top, EVENT)
    assert await good(store) == {top, other, child, grandchild, stranger}
    await store.revoke_api_key("acme", top, EVENT)
    assert await good(store) == {other, stranger}
    with pytest.raises(ConflictError):
        await store.revoke_api_key("acme", grandchild, EVENT)


@pytest.mark.parametrize("revoked", ["top", "child"])
async def test_a_key_that_is_revoked_meanwhile_makes_none(store: SigningStore, revoked: str) -> None:
    """However far above: nothing is written, even where its revocation comes after the request's beginning."""
    top = await made(store, Caller("mtls", "me", "acme"))
    child = await made(store, top)
    await store.revoke_api_key("acme", {"top": top, "child": child}[revoked], EVENT)
    with pytest.raises(ConflictError):
        await made(store, child)
    assert len(await store.api_keys("acme")) == 2


async def test_making_and_revoking_at_once_leave_no_good_key(store: SigningStore) -> None:
    """Whichever comes first."""
    top = await made(store, Caller("mtls", "me", "acme"))
    child = await made(store, top)
    acts = [made(store, child), store.revoke_api_key("acme", top, EVENT), made(store, child), made(store, top)]
    await asyncio.gather(*acts, return_exceptions=True)
    assert await good(store) == set()


async def made(store: SigningStore, maker: Caller | str) -> str:
    """The id of a key that a caller, or the key of that id, has made."""
    if isinstance(maker, str):
        maker = Caller("api-key", maker, "acme", ends_at=160)
    record = new_api_key(maker, Scopes(actions=frozenset({"sign"})), 60, 100).record
    await store.add_api_key(record, EVENT)
    return record.id


async def good(store: SigningStore) -> set[str]:
    """The ids of keys that are not revoked."""
    return {one.id for one in await store.api_keys("acme") if one.revoked_at is None}


async def test_a_probe_leaves_nothing_behind(store: SigningStore) -> None:
    """However often, and by two at once."""
    await asyncio.gather(*(store.probe() for _ in range(4)))
    assert await store.claimed("", "", "probe") is None
