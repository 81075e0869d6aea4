"""The CA's block list reaches account keys: a blocked one makes no account, and the account that has it is dead."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.acme_client import AcmeProblemError, make_csr
from tests.support.acme_orders import csr_for, ready_order
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey, b64u

NEW_ACCOUNT = f"{BASE}/acme/new-account"
ERROR = "urn:ietf:params:acme:error:"


def account_key() -> tuple[JoseKey, str]:
    """A key, and what the block list knows of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return JoseKey(key), hashlib.sha256(der).hexdigest()


async def test_a_blocked_key_makes_no_account(server: AcmeServer) -> None:
    """It is refused as a bad public key, makes no account, and is no way to find one."""
    key, key_hash = account_key()
    server.ca.blocked.add(key_hash)
    client = server.client(key)
    for payload in ({}, {"onlyReturnExisting": True}):
        refused = await client.post_raw(NEW_ACCOUNT, payload, use_jwk=True)
        assert (refused.status_code, refused.json()["type"]) == (400, f"{ERROR}badPublicKey")
        assert "block list" in refused.json()["detail"]
    assert "account-created" not in server.commits


async def test_an_account_whose_key_becomes_blocked_is_dead(server: AcmeServer) -> None:
    """Nothing that it signs is done or shown any more, and the sentence says why; others go on."""
    key, key_hash = account_key()
    client, other = await server.registered(key), await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.blocked.add(key_hash)
    restarted = await server.restart()  # half a minute later, as it were: what the CA said before holds no more
    for each in (client, other):
        each.http = restarted.http
        each.nonces.clear()
    for url, payload in (
        (order.body["finalize"], {"csr": b64u(csr_for("a.example"))}),
        (order.url, None),
        (f"{BASE}/acme/new-order", {"identifiers": [{"type": "dns", "value": "b.example"}]}),
        (str(client.kid), {"contact": ["mailto:a@b.example"]}),
        (str(client.kid), {"status": "deactivated"}),
        (NEW_ACCOUNT, {}),
    ):
        refused = await client.post_raw(url, payload, use_jwk=url == NEW_ACCOUNT)
        assert (refused.status_code, refused.json()["type"]) == (403, f"{ERROR}unauthorized"), url
        assert "block list" in refused.json()["detail"]
    assert not restarted.ca.requests
    assert (await other.obtain(["c.example"], csr_for("c.example"), solve)).certificates
    await restarted.stop()


async def test_a_blocked_key_is_not_changed_for_another(server: AcmeServer) -> None:
    """A block that came a moment ago counts: the CA is asked again; and where it cannot be, the key stays."""
    key, key_hash = account_key()
    client = await server.registered(key)
    assert (await client.post_raw(str(client.kid), None)).status_code == 200  # the CA's answer is known now
    server.ca.away = True
    with pytest.raises(AcmeProblemError) as refused:
        await client.change_key(JoseKey.generate())
    assert refused.value.kind == "serverInternal"
    server.ca.away = False
    server.ca.blocked.add(key_hash)
    with pytest.raises(AcmeProblemError, match="block list") as refused:
        await client.change_key(JoseKey.generate())
    assert (refused.value.status, refused.value.kind) == (403, "unauthorized")
    assert "account-key-changed" not in server.commits


async def test_an_order_under_way_is_not_fulfilled_for_a_blocked_key(hasty: AcmeServer) -> None:
    """The CA was away when the order was finalized; when it is back, the account's key is blocked: no certificate."""
    key, key_hash = account_key()
    client = await hasty.registered(key)
    order = await ready_order(client, "a.example")
    hasty.ca.away = True
    answer = await client.post_raw(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    assert answer.json()["status"] == "processing"
    hasty.ca.blocked.add(key_hash)
    hasty.ca.away = False
    restarted = await hasty.restart()
    await restarted.settled(lambda: "order-invalid" in restarted.commits)
    assert {request.account_key for request in restarted.ca.requests} == {bytes.fromhex(key_hash)}
    assert not restarted.ca.issued
    await restarted.stop()


async def test_a_certificate_is_revoked_by_its_own_blocked_key(server: AcmeServer) -> None:
    """The block list never keeps a holder from telling of a compromise."""
    client = await server.registered()
    certificate_key = ec.generate_private_key(ec.SECP256R1())
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], certificate_key), solve)
    der = certificate_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    server.ca.blocked.add(hashlib.sha256(der).hexdigest())
    answer = await server.client().revoke(obtained.certificates[0], 1, certificate_key=certificate_key)
    assert answer.status_code == 200
    assert list(server.ca.revoked.values()) == ["keyCompromise"]


async def test_without_the_ca_no_account_is_made_and_accounts_are_read(server: AcmeServer) -> None:
    """A new key waits for the CA's word; an account that was there is answered, from what the CA said last."""
    client = await server.registered()
    server.ca.away = True
    refused = await server.client().post_raw(NEW_ACCOUNT, {}, use_jwk=True)
    assert (refused.status_code, refused.json()["type"]) == (500, f"{ERROR}serverInternal")
    assert refused.headers["retry-after"] == "5"
    restarted = await server.restart()
    client.http = restarted.http
    client.nonces.clear()
    for _ in range(3):
        assert (await client.post_raw(str(client.kid), None)).status_code == 200
        assert (await client.post_raw(NEW_ACCOUNT, {}, use_jwk=True)).status_code == 200
    assert restarted.ca.asked == 3, "twice for new keys; once for the account, whose every request does not wait again"
    await restarted.stop()


async def test_a_key_that_was_blocked_a_moment_ago_revokes_nothing(server: AcmeServer) -> None:
    """A revocation cannot be undone: the CA is asked again about the account's key."""
    key, key_hash = account_key()
    client = await server.registered(key)
    certificates = (await client.obtain(["a.example"], csr_for("a.example"), solve)).certificates
    server.ca.blocked.add(key_hash)
    assert (await client.post_raw(str(client.kid), None)).status_code == 200, "what the CA said last holds"
    der = certificates[0].public_bytes(Encoding.DER)
    refused = await client.post_raw(f"{BASE}/acme/revoke-cert", {"certificate": b64u(der)})
    assert (refused.status_code, refused.json()["type"]) == (403, f"{ERROR}unauthorized")
    assert not server.ca.revoked


async def test_the_key_of_an_order_that_waits_makes_no_account(hasty: AcmeServer) -> None:
    """Neither by newAccount nor by keyChange, while the CA has no record of it."""
    client = await hasty.registered()
    order = await ready_order(client, "a.example")
    certificate_key = ec.generate_private_key(ec.SECP256R1())
    hasty.ca.gate.clear()
    answer = await client.post_raw(order.body["finalize"], {"csr": b64u(make_csr(["a.example"], certificate_key))})
    assert answer.json()["status"] == "processing"
    refused = await hasty.client(JoseKey(certificate_key)).post_raw(NEW_ACCOUNT, {}, use_jwk=True)
    assert (refused.status_code, refused.json()["type"]) == (400, f"{ERROR}badPublicKey")
    with pytest.raises(AcmeProblemError, match="being issued") as changed:
        await client.change_key(JoseKey(certificate_key))
    assert changed.value.kind == "badPublicKey"
    assert (await hasty.registered()).kid, "other keys go on"
    hasty.ca.gate.set()
    assert (await client.wait(order.url, {"processing"})).status == "valid"


@pytest.mark.requirement("rfc8555-11.1-05")
async def test_an_account_key_in_anybodys_csr_is_refused(server: AcmeServer) -> None:
    """Its own account, another one, and its account after deactivation: an account key is never certified."""
    victim = ec.generate_private_key(ec.SECP256R1())
    owner, attacker = await server.registered(JoseKey(victim)), await server.registered()
    csr = {"csr": b64u(make_csr(["a.example"], victim))}
    own, foreign = await ready_order(owner, "a.example"), await ready_order(attacker, "a.example")
    answers = [
        await owner.post_raw(own.body["finalize"], csr),
        await attacker.post_raw(foreign.body["finalize"], csr),
    ]
    await owner.post_raw(str(owner.kid), {"status": "deactivated"})
    answers.append(await attacker.post_raw(foreign.body["finalize"], csr))
    assert {(answer.status_code, answer.json()["type"]) for answer in answers} == {(400, f"{ERROR}badCSR")}
    assert not server.ca.requests
