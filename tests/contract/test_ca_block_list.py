"""The block list: keys that are never certified again, and whose certificates are revoked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PrivateKey
from pkicore.identity import SpiffeId
from services.ca.block_list.blocking import PAGE
from services.ca.block_list.store import BlockListStore
from services.ca.block_list.wire import BlockRequest
from services.ca.client import (
    BadPublicKeyError,
    BlockedAccountError,
    CaClient,
    CaRefusedError,
    ForbiddenError,
    UnknownKeyError,
)
from services.ca.errors import UnknownProfileError
from services.ca.wire import RevocationRequest
from services.chassis.database import AuditEvent
from tests.support.ca_world import ACME, CA, OPERATOR, CaWorld, server_request
from tests.support.pki import TRUST_DOMAIN

JSON = {"content-type": "application/json"}


@pytest.fixture
async def operator(world: CaWorld) -> AsyncIterator[CaClient]:
    """The CA as an operator calls it."""
    async with world.internal(OPERATOR) as http:
        yield CaClient(http)


def new_key() -> PrivateKey:
    """A key as a client makes it."""
    return ec.generate_private_key(ec.SECP256R1())


def hash_of(key: PrivateKey) -> bytes:
    """What the block list knows of a key."""
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


async def test_a_blocked_key_is_never_certified_again(world: CaWorld, operator: CaClient) -> None:
    """Added, it is refused, under any name and whoever asks; removed, it is certified."""
    key = new_key()
    answer = await operator.block_key(BlockRequest(hash_of(key), "found on a web site"))
    assert (answer.is_new, list(answer.serials)) == (True, [])
    async with world.internal(ACME) as http:
        for number, name in enumerate(("a.example", "b.example")):
            with pytest.raises(BadPublicKeyError):
                await CaClient(http).issue(server_request(name, key=key, idempotency_key=f"k{number}"))
    with pytest.raises(BadPublicKeyError):
        await operator.issue(server_request("a.example", key=key, idempotency_key="operator"))
    await operator.unblock_key(hash_of(key).hex())
    assert (await world.issue("a.example", key=key)).serial


async def test_what_a_blocked_key_has_is_revoked(world: CaWorld, operator: CaClient) -> None:
    """Every certificate of the key and no other, for keyCompromise, in the feed at once."""
    key = new_key()
    mine = [await world.issue("a.example", key=key, idempotency_key=f"m{n}") for n in range(3)]
    other = await world.issue("b.example", idempotency_key="other")
    answer = await operator.block_key(BlockRequest(hash_of(key)))
    assert sorted(answer.serials) == sorted(one.serial for one in mine)
    for one in mine:
        status = await operator.certificate(one.serial)
        assert (status.status, status.reason) == ("revoked", "keyCompromise")
    assert (await operator.certificate(other.serial)).status == "good"
    assert {entry.serial for entry in (await operator.revocations(0)).entries} == {one.serial for one in mine}


async def test_what_was_revoked_before_stays_as_it_is(world: CaWorld, operator: CaClient) -> None:
    """A reason that was given is not changed, and blocking twice revokes nothing twice."""
    key = new_key()
    first = await world.issue("a.example", key=key, idempotency_key="1")
    await operator.revoke(RevocationRequest("superseded", serial=first.serial))
    second = await world.issue("a.example", key=key, idempotency_key="2")
    assert list((await operator.block_key(BlockRequest(hash_of(key)))).serials) == [second.serial]
    assert (await operator.certificate(first.serial)).reason == "superseded"
    again = await operator.block_key(BlockRequest(hash_of(key)))
    assert (again.is_new, list(again.serials)) == (False, [])


async def test_nothing_is_issued_for_an_account_whose_key_is_blocked(world: CaWorld, operator: CaClient) -> None:
    """It is refused in the commit that would have recorded the intent; unblocked, the same request is fulfilled."""
    account = hash_of(new_key())
    request = replace(server_request("a.example"), account_key=account)
    await operator.block_key(BlockRequest(account))
    async with world.internal(ACME) as http:
        with pytest.raises(BlockedAccountError, match="make an account with another key"):
            await CaClient(http).issue(request)
        assert not await world.core.store.open_intents()
        await operator.unblock_key(account.hex())
        assert (await CaClient(http).issue(request)).serial


async def test_an_issuing_ca_whose_key_is_blocked_issues_nothing(world: CaWorld, operator: CaClient) -> None:
    """While it runs and after a restart, by whichever process; other families go on, and so does it when unblocked."""
    public_key = world.issuer("ecdsa").public_key()
    key_hash = hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    world.clock.advance(timedelta(seconds=2))  # later than the CRLs
    other = await (await CaWorld.open(world.directory, clock=world.clock, families=world.families)).start()
    await operator.block_key(BlockRequest(key_hash))
    assert set(world.core.hierarchy.issuing) == {"mldsa"}
    with pytest.raises(UnknownProfileError):
        await world.issue("a.example")
    await other.core.block_list.sweep()
    assert set(other.core.hierarchy.issuing) == {"mldsa"}
    await other.close()
    world.clock.advance(timedelta(seconds=2))
    again = await (await CaWorld.open(world.directory, clock=world.clock, families=world.families)).start()
    with pytest.raises(UnknownProfileError):
        await again.issue("a.example")
    await again.close()
    await operator.unblock_key(key_hash.hex())
    assert (await world.issue("a.example")).serial


async def test_what_a_dead_process_left_is_swept(world: CaWorld) -> None:
    """Killed between the block and the revocations, the CA revokes the rest when it is next up."""
    key = new_key()
    left = await world.issue("a.example", key=key)
    ended = world.clock.now() + timedelta(days=100)
    event = AuditEvent("key.blocked", str(OPERATOR), {})
    await BlockListStore(world.database).add(hash_of(key), 1, "keyCompromise", event)
    assert await world.core.block_list.sweep() == 1
    row = await world.core.store.by_serial(int(left.serial, 16))
    assert row is not None
    assert row.reason == "keyCompromise"
    assert await world.core.block_list.sweep() == 0
    assert not await BlockListStore(world.database).overdue(int(ended.timestamp()))


async def test_a_compromise_that_is_told_of_blocks_the_key(world: CaWorld, operator: CaClient) -> None:
    """Revoking one certificate for keyCompromise puts its key on the list; its other certificates follow."""
    key = new_key()
    first, second = [await world.issue("a.example", key=key, idempotency_key=n) for n in ("1", "2")]
    await operator.revoke(RevocationRequest("keyCompromise", serial=first.serial))
    assert [entry.key_hash for entry in (await operator.blocked_keys()).keys] == [hash_of(key).hex()]
    await world.core.block_list.sweep()
    assert (await operator.certificate(second.serial)).status == "revoked"


async def test_the_list_says_who_when_and_why(world: CaWorld, operator: CaClient) -> None:
    """An entry has its time, reason and operator, and the audit log the act."""
    key = new_key()
    await operator.block_key(BlockRequest(hash_of(key), "in a Git repository"))
    (entry,) = (await operator.blocked_keys()).keys
    now = int(world.clock.now().timestamp())
    assert (entry.blocked_at, entry.reason, entry.blocked_by) == (now, "in a Git repository", str(OPERATOR))
    async with world.internal(OPERATOR) as http:
        answer = await http.post("/v1/blocked-keys", content=BlockRequest(hash_of(key), "x").to_json(), headers=JSON)
    assert answer.status_code == 200
    assert (await operator.blocked_keys()).keys == [entry]


async def test_blocked_keys_are_counted(world: CaWorld, operator: CaClient) -> None:
    """The number of entries, and of those that a sweep has to do with; neither before the first look."""
    metrics = world.core.block_list.metrics
    assert math.isnan(metrics.blocked._value.get())
    key = new_key()
    await world.issue("a.example", key=key)
    await BlockListStore(world.database).add(hash_of(key), 1, "x", AuditEvent("key.blocked", "test", {}))
    await operator.block_key(BlockRequest(hash_of(new_key())))
    assert await world.core.block_list.sweep() == 1
    assert (metrics.blocked._value.get(), metrics.overdue._value.get()) == (2, 0)


async def test_a_service_asks_about_one_key(world: CaWorld, operator: CaClient) -> None:
    """The ACME server learns whether a key is blocked, in any spelling of its hash, and nothing else of the list."""
    key_hash = hash_of(new_key())
    async with world.internal(ACME) as http:
        client = CaClient(http)
        assert not (await client.key_status(key_hash.hex())).is_blocked
        await operator.block_key(BlockRequest(key_hash, "in a Git repository"))
        assert (await client.key_status(key_hash.hex().upper())).is_blocked
        answer = await http.get(f"/v1/blocked-keys/{key_hash.hex()}")
        assert answer.json() == {"key_hash": key_hash.hex(), "is_blocked": True, "is_certified": False}
        await operator.unblock_key(key_hash.hex())
        assert not (await client.key_status(key_hash.hex())).is_blocked
        with pytest.raises(ForbiddenError):
            await client.blocked_keys()


async def test_a_service_learns_whether_a_key_is_certified(world: CaWorld, operator: CaClient) -> None:
    """From the certificate until its revocation or end; one that is held counts, that of nothing does not."""
    key, other = new_key(), new_key()
    async with world.internal(ACME) as http:

        async def certified(of: PrivateKey) -> bool:
            return (await CaClient(http).key_status(hash_of(of).hex())).is_certified

        assert not await certified(key)
        one = await world.issue("a.example", key=key, idempotency_key="1")
        await world.issue("b.example", key=other, idempotency_key="2")
        assert (await certified(key), await certified(other)) == (True, True)
        await operator.revoke(RevocationRequest("certificateHold", serial=one.serial))
        assert await certified(key)
        await operator.revoke(RevocationRequest("superseded", serial=one.serial))
        assert (await certified(key), await certified(other)) == (False, True)
        world.clock.advance(timedelta(days=100))
        assert not await certified(other)


async def test_a_long_list_comes_in_pages(world: CaWorld, operator: CaClient) -> None:
    """Each page begins behind the last; the last one says so."""
    store = BlockListStore(world.database)
    hashes = sorted(hashlib.sha256(b"%d" % n).digest() for n in range(PAGE + 3))
    for key_hash in hashes:
        await store.add(key_hash, 1, "keyCompromise", AuditEvent("key.blocked", "test", {}))
    first = await operator.blocked_keys()
    assert first.after is not None
    second = await operator.blocked_keys(first.after)
    assert second.after is None
    assert [key.key_hash for key in (*first.keys, *second.keys)] == [digest.hex() for digest in hashes]


@pytest.mark.parametrize("caller", [ACME, CA, SpiffeId.workload(TRUST_DOMAIN, "x")])
async def test_operators_alone_change_the_list(world: CaWorld, caller: SpiffeId) -> None:
    """No service blocks or unblocks a key, even where the policy file lets it through to the endpoint."""
    careless = f"""
[[allow]]
caller = "{caller}"
service = "ca"
endpoints = ["POST /v1/blocked-keys", "DELETE /v1/blocked-keys/{{key_hash}}"]
"""
    for policy in (None, careless):
        async with world.internal(caller, *([] if policy is None else [policy])) as http:
            client = CaClient(http)
            with pytest.raises(ForbiddenError):
                await client.block_key(BlockRequest(bytes(32)))
            with pytest.raises(ForbiddenError):
                await client.unblock_key(bytes(32).hex())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"key_hash": "abc"}',
        b'{"key_hash": "' + b"0" * 62 + b'"}',
        b'{"key_hash": 5}',
        b'{"key_hash": "' + b"0" * 64 + b'", "reason": 5}',
        b'{"key_hash": "' + b"0" * 64 + b'", "reason": "' + b"x" * 201 + b'"}',
        b'{"key_hash": "' + b"0" * 64 + b'", "more": 1}',
        b'{"key_hash": "' + b"0" * 5000 + b'"}',
    ],
)
async def test_bad_requests(world: CaWorld, body: bytes) -> None:
    """Whatever is no request is refused by name, and nothing is blocked."""
    async with world.internal(OPERATOR) as http:
        answer = await http.post("/v1/blocked-keys", content=body, headers=JSON)
        assert answer.status_code in {400, 413}
        assert answer.headers["content-type"] == "application/problem+json"
        assert not (await CaClient(http).blocked_keys()).keys


@pytest.mark.parametrize("path", ["xyz", "0" * 63, "%00", "0" * 66])
async def test_a_key_that_is_no_hash(world: CaWorld, path: str) -> None:
    """What cannot be a key's hash is malformed, and one that is not on the list is not found."""
    async with world.internal(OPERATOR) as http:
        assert (await http.delete(f"/v1/blocked-keys/{path}")).status_code == 400
        assert (await http.get(f"/v1/blocked-keys?after={path}")).status_code == 400
        with pytest.raises(UnknownKeyError) as caught:
            await CaClient(http).unblock_key("0" * 64)
    assert isinstance(caught.value, CaRefusedError)
    async with world.internal(ACME) as http:
        assert (await http.get(f"/v1/blocked-keys/{path}")).status_code == 400


@pytest.mark.parametrize("spell", [bytes.hex, lambda digest: digest.hex().upper(), lambda digest: digest.hex(":")])
async def test_a_hash_in_any_spelling(operator: CaClient, spell: Callable[[bytes], str]) -> None:
    """Case and colons do not tell keys apart."""
    digest = hashlib.sha256(b"k").digest()
    await operator.block_key(BlockRequest(digest))
    await operator.unblock_key(spell(digest))
    assert not (await operator.blocked_keys()).keys
