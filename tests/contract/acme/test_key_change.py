"""keyChange (RFC 8555 §7.3.5), and who tries to abuse it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.acme_client import AcmeClient, AcmeProblemError, Corruption
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey
from tests.support.weak_keys import roca_key

URL = f"{BASE}/acme/key-change"
Change = Callable[[dict[str, Any], dict[str, Any]], None]


def inner(client: AcmeClient, new: JoseKey, change: Change | None = None, key: JoseKey | None = None) -> dict[str, str]:
    """The inner JWS of an honest client; `change` gets its header and its payload, `key` signs instead."""
    header: dict[str, Any] = {"alg": new.alg, "jwk": new.jwk, "url": URL}
    payload: dict[str, Any] = {"account": client.kid, "oldKey": client.key.jwk}
    if change is not None:
        change(header, payload)
    return (key or new).jws(json.dumps(payload).encode(), header)


@pytest.mark.requirement("rfc8555-7.3.5-15", "rfc8555-7.3.5-16", "dns-persist-7.2-01", "dns-account-3.5-01")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ES256", "EdDSA"),
        ("ES256", "ML-DSA-65"),
        ("ML-DSA-44", "ES384"),
        ("ML-DSA-65", "ML-DSA-44"),
        ("ML-DSA-87", "ML-DSA-87"),
    ],
)
async def test_an_account_gets_another_key(server: AcmeServer, old: str, new: str) -> None:
    """The new key signs for the account from then on, the old one no more; all else stays, and it is on record."""
    former, key = JoseKey.generate(old), JoseKey.generate(new)
    client = await server.registered(former)
    order = await client.new_order(["a.example"])
    await client.post(str(client.kid), {"contact": ["mailto:a@example.com"]})
    account = await client.read(str(client.kid))
    await client.change_key(key)
    assert server.commits[-1] == "account-key-changed"
    assert await client.read(account.url) == account
    assert (await client.read(order.url)).status == "pending"
    await client.authorize(order, solve)
    assert (await client.read(order.url)).status == "ready"
    with pytest.raises(AcmeProblemError) as refused:
        await client.post(client.kid or "", key=former)
    assert refused.value.status == 400
    found = server.client(key)
    assert (await found.register(onlyReturnExisting=True)).url == client.kid


async def test_the_largest_keys_have_room(server: AcmeServer) -> None:
    """A change from one ML-DSA-87 key to another is far below the limit of a body."""
    client = await server.registered(JoseKey.generate("ML-DSA-87"))
    key = JoseKey.generate("ML-DSA-87")
    seen: list[int] = []

    def measure(jws: dict[str, str]) -> bytes:
        body = json.dumps(jws).encode()
        seen.append(len(body))
        return body

    response = await client.post_raw(URL, inner(client, key), corruption=Corruption(after=measure))
    assert response.status_code == 200
    assert response.headers["location"] == client.kid
    assert response.json()["status"] == "valid"
    assert 20_000 < seen[0] < 32 * 1024


@pytest.mark.requirement("rfc8555-7.3.5-13", "rfc8555-7.3.5-14")
async def test_a_key_that_has_an_account(server: AcmeServer) -> None:
    """409 with the URL of that account, whichever state it is in."""
    client, other = await server.registered(), await server.registered()
    for _ in range(2):
        response = await client.post_raw(URL, inner(client, other.key))
        assert (response.status_code, response.headers["location"]) == (409, other.kid)
        if other.kid and server.commits[-1] != "account-deactivated":
            await other.deactivate()
    assert (await client.read(client.kid or "")).status == "valid"


def _with_nonce(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["nonce"] = "AAAA"


def _with_other_url(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["url"] = f"{BASE}/acme/new-account"


def _without_url(header: dict[str, Any], _: dict[str, Any]) -> None:
    del header["url"]


def _with_kid(header: dict[str, Any], payload: dict[str, Any]) -> None:
    del header["jwk"]
    header["kid"] = payload["account"]


def _of_another_account(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["account"] = payload["account"][:-1] + ("A" if payload["account"][-1] != "A" else "B")


def _of_the_account_spelled_otherwise(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["account"] = payload["account"].replace("https://", "HTTPS://")


def _of_another_old_key(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["oldKey"] = JoseKey.generate().jwk


def _without_old_key(_: dict[str, Any], payload: dict[str, Any]) -> None:
    del payload["oldKey"]


def _with_text_as_old_key(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["oldKey"] = json.dumps(payload["oldKey"])


def _with_private_key(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["jwk"] = {**header["jwk"], "d": "AAAA"}


@pytest.mark.requirement(
    "rfc8555-7.3.5-01",
    "rfc8555-7.3.5-04",
    "rfc8555-7.3.5-05",
    "rfc8555-7.3.5-06",
    "rfc8555-7.3.5-10",
    "rfc8555-7.3.5-11",
    "rfc8555-7.3.5-12",
)
@pytest.mark.parametrize(
    "change",
    [
        _with_nonce,
        _with_other_url,
        _without_url,
        _with_kid,
        _of_another_account,
        _of_the_account_spelled_otherwise,
        _of_another_old_key,
        _without_old_key,
        _with_text_as_old_key,
        _with_private_key,
    ],
)
async def test_an_inner_jws_that_says_something_else(server: AcmeServer, change: Change) -> None:
    """It must bring the new key, for this URL, without nonce, and name the account and its old key."""
    client = await server.registered()
    server.commits.clear()
    response = await client.post_raw(URL, inner(client, JoseKey.generate(), change))
    assert response.status_code == 400
    assert response.json()["type"].endswith(":malformed")
    assert not server.commits


@pytest.mark.requirement("rfc8555-7.3.5-03")
@pytest.mark.parametrize("alg", ["none", "HS256", "RS512"])
async def test_an_inner_jws_by_no_algorithm_of_ours(server: AcmeServer, alg: str) -> None:
    """badSignatureAlgorithm, with those that there are (RFC 8555 §6.2)."""
    client = await server.registered()
    response = await client.post_raw(URL, inner(client, JoseKey.generate(), lambda header, _: header.update(alg=alg)))
    assert response.json()["type"].endswith(":badSignatureAlgorithm")
    assert "ML-DSA-65" in response.json()["algorithms"]


@pytest.mark.requirement("rfc8555-7.3.5-09")
async def test_possession_of_the_new_key_is_proven(server: AcmeServer) -> None:
    """An inner JWS that another key has signed gives nobody's key to the account."""
    client = await server.registered()
    response = await client.post_raw(URL, inner(client, JoseKey.generate(), key=JoseKey.generate()))
    assert response.json()["type"].endswith(":malformed")
    response = await client.post_raw(URL, inner(client, JoseKey.generate(), key=client.key))
    assert response.json()["type"].endswith(":malformed")


@pytest.mark.requirement("rfc8555-7.3.5-11")
async def test_the_inner_jws_of_somebody_else(server: AcmeServer) -> None:
    """Whoever sees another account's inner JWS cannot give that key to an account of his own."""
    client, thief = await server.registered(), await server.registered()
    response = await thief.post_raw(URL, inner(client, JoseKey.generate()))
    assert response.status_code == 400
    assert "account" in response.json()["detail"]


async def test_a_replayed_inner_jws(server: AcmeServer) -> None:
    """After the change it names a key that the account has no more."""
    client, key = await server.registered(), JoseKey.generate()
    used = inner(client, key)
    await client.post(URL, used)
    client.key = key
    response = await client.post_raw(URL, used)
    assert response.status_code == 400
    assert (await client.read(client.kid or "")).status == "valid"


@pytest.mark.requirement("rfc8555-7.3.5-08")
@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"x", b'{"protected":"","payload":"","signature":""}', b'{"protected":"e30","payload":"e30"}'],
)
async def test_a_payload_that_is_no_jws(server: AcmeServer, body: bytes) -> None:
    """It is malformed, and no internal error."""
    client = await server.registered()
    response = await client.post_raw(URL, body)
    assert response.status_code == 400
    assert response.json()["type"].endswith(":malformed")


@pytest.mark.requirement("rfc8555-7.3.5-10")
async def test_duplicate_members_of_the_inner_payload(server: AcmeServer) -> None:
    """A payload that two parsers read differently is refused whole."""
    client, key = await server.registered(), JoseKey.generate()
    payload = f'{{"account":"{client.kid}","account":"{client.kid}","oldKey":{json.dumps(client.key.jwk)}}}'
    twice = key.jws(payload.encode(), {"alg": key.alg, "jwk": key.jwk, "url": URL})
    response = await client.post_raw(URL, twice)
    assert "twice" in response.json()["detail"]


@pytest.mark.requirement("rfc8555-7.3.5-02")
async def test_the_outer_jws_names_its_account(server: AcmeServer) -> None:
    """A request that brings its key instead of the account's URL is refused."""
    client = await server.registered()
    response = await client.post_raw(URL, inner(client, JoseKey.generate()), use_jwk=True)
    assert response.json()["type"].endswith(":malformed")


async def test_the_same_key_again(server: AcmeServer) -> None:
    """A change to the key that the account has is none."""
    client = await server.registered()
    response = await client.post_raw(URL, inner(client, client.key))
    assert (response.status_code, response.json()["detail"]) == (400, "the new key is the old key")


@pytest.mark.requirement("rfc8555-7.3.5-03")
async def test_the_new_key_is_judged_as_that_of_a_new_account(server: AcmeServer) -> None:
    """A weak key, a blocked one and the key of a certificate are badPublicKey; without the CA nothing is changed."""
    client = await server.registered()
    server.commits.clear()
    weak, blocked = JoseKey(roca_key()), JoseKey.generate()
    server.ca.blocked.add(_hash_of(blocked))
    for key in (weak, blocked):
        response = await client.post_raw(URL, inner(client, key))
        assert response.json()["type"].endswith(":badPublicKey")
    server.ca.away = True
    assert (await client.post_raw(URL, inner(client, JoseKey.generate()))).status_code == 500
    assert not server.commits


async def test_an_account_whose_key_is_blocked_does_not_flee_into_another_key(server: AcmeServer) -> None:
    """Whoever has the stolen key must not keep the account by changing its key."""
    client = await server.registered()
    server.ca.blocked.add(_hash_of(client.key))
    restarted = await server.restart()  # half a minute later, as it were: what the CA said before holds no more
    client.http = restarted.http
    client.nonces.clear()
    response = await client.post_raw(URL, inner(client, JoseKey.generate()))
    await restarted.stop()
    assert response.status_code == 403
    assert response.json()["type"].endswith(":unauthorized")


@pytest.mark.requirement("rfc8555-7.3.5-07")
async def test_a_deactivated_account_gets_no_other_key(server: AcmeServer) -> None:
    """Deactivation is final (RFC 8555 §7.3.6)."""
    client = await server.registered()
    await client.deactivate()
    response = await client.post_raw(URL, inner(client, JoseKey.generate()))
    assert response.status_code == 401


async def test_two_changes_at_once(server: AcmeServer) -> None:
    """One of them wins; the account has one key, and the key of the other has no account."""
    client = await server.registered()
    twin = server.client(client.key)
    twin.kid = client.kid
    keys = JoseKey.generate(), JoseKey.generate()
    await twin.nonce()
    pairs = ((client, keys[0]), (twin, keys[1]))
    answers = await asyncio.gather(*(one.post_raw(URL, inner(one, key)) for one, key in pairs))
    assert sorted(answer.status_code for answer in answers) in ([200, 400], [200, 403])
    assert server.commits.count("account-key-changed") == 1
    won = keys[0] if answers[0].status_code == 200 else keys[1]
    client.key = won
    assert (await client.read(client.kid or "")).status == "valid"
    lost = server.client(keys[1] if won is keys[0] else keys[0])
    with pytest.raises(AcmeProblemError) as refused:
        await lost.register(onlyReturnExisting=True)
    assert refused.value.kind == "accountDoesNotExist"


@pytest.mark.requirement("rfc8555-7.3.5-13", "rfc8555-11.1-07")
async def test_two_accounts_want_one_key_at_once(server: AcmeServer) -> None:
    """One gets it, the other learns who has it."""
    clients, key = [await server.registered(), await server.registered()], JoseKey.generate()
    answers = await asyncio.gather(*(client.post_raw(URL, inner(client, key)) for client in clients))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    winner = clients[0] if answers[0].status_code == 200 else clients[1]
    assert next(answer for answer in answers if answer.status_code == 409).headers["location"] == winner.kid


@pytest.mark.requirement("rfc8555-11.1-07")
async def test_a_new_account_for_the_key_at_the_same_time(server: AcmeServer) -> None:
    """A key has one account, whichever request comes first."""
    client, key = await server.registered(), JoseKey.generate()
    fresh = server.client(key)
    await fresh.nonce()
    made, changed = await asyncio.gather(
        fresh.post_raw(f"{BASE}/acme/new-account", {}, use_jwk=True), client.post_raw(URL, inner(client, key))
    )
    assert (made.status_code, changed.status_code) in {(201, 409), (200, 200)}


def _hash_of(key: JoseKey) -> str:
    """What the block list knows of a key."""
    der = key.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
