from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.acme.ids import new_id
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey

NEW_ACCOUNT = f"{BASE}/acme/new-account"
TERMS = "https://ca.example/terms"


@pytest.mark.requirement("rfc8555-7.3-07")
async def test_a_new_account(server: AcmeServer) -> None:
    """A new key makes an account: 201, its URL, and what the server keeps."""
    client = server.client()
    payload = {"contact": ["mailto:a@example.com", "mailto:a@example.com"]}
    response = await client.post_raw(NEW_ACCOUNT, payload, use_jwk=True)
    assert response.status_code == 201
    url = response.headers["location"]
    assert response.json() == {"status": "valid", "contact": ["mailto:a@example.com"], "orders": f"{url}/orders"}
    assert server.commits == ["account-created"]


@pytest.mark.requirement("rfc8555-7.3.1-01", "rfc8555-7.3.1-02", "rfc8555-11.1-07")
async def test_a_key_has_one_account(server: AcmeServer) -> None:
    """The same key finds its account again: 200, the same URL, nothing written."""
    client = await server.registered()
    server.commits.clear()
    for payload in ({}, {"onlyReturnExisting": True}, {"contact": ["mailto:new@example.com"]}):
        response = await client.post_raw(NEW_ACCOUNT, payload, use_jwk=True)
        assert (response.status_code, response.headers["location"]) == (200, client.kid)
        assert "contact" not in response.json()
    assert not server.commits


@pytest.mark.requirement("rfc8555-11.1-07")
async def test_the_same_key_at_once(server: AcmeServer) -> None:
    """Many requests with one key at the same time make one account, and all learn its URL."""
    key = JoseKey.generate()
    clients = [server.client(key) for _ in range(8)]
    for client in clients:
        await client.nonce()
    answers = await asyncio.gather(*(client.post_raw(NEW_ACCOUNT, {}, use_jwk=True) for client in clients))
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


@pytest.mark.requirement("rfc8555-7.3-01", "rfc8555-7.3.1-04")
async def test_only_return_existing(server: AcmeServer) -> None:
    """A client that only looks gets accountDoesNotExist, and no account."""
    client = server.client()
    with pytest.raises(AcmeProblemError) as refused:
        await client.register(onlyReturnExisting=True)
    assert (refused.value.status, refused.value.kind) == (400, "accountDoesNotExist")
    assert not server.commits


@pytest.mark.requirement("rfc8555-7.3-06", "rfc8555-7.3-09", "rfc8555-7.3-10", "rfc8555-7.3-11")
@pytest.mark.parametrize(
    ("contact", "kind"),
    [
        (["tel:+1"], "unsupportedContact"),
        (["https://example.com"], "unsupportedContact"),
        (["a@example.com"], "unsupportedContact"),
        ([""], "unsupportedContact"),
        (["mailto:"], "invalidContact"),
        (["mailto:a"], "invalidContact"),
        (["mailto:a@b@c"], "invalidContact"),
        (["mailto:a@example.com,b@example.com"], "invalidContact"),
        (["mailto:a@example.com?subject=x"], "invalidContact"),
        (["mailto:a@example.com\r\nBcc: b@example.com"], "invalidContact"),
        (["mailto:a%0D%0ABcc%3Ab@example.com"], "invalidContact"),
        (["mailto:ä@example.com"], "invalidContact"),
        ([f"mailto:{'a' * 64}@{'b' * 300}"], "invalidContact"),
        (["mailto:a@example.com"] * 4, "invalidContact"),
        ("mailto:a@example.com", "malformed"),
        ([1], "malformed"),
        ({"a": "b"}, "malformed"),
        (None, "malformed"),
    ],
)
async def test_contacts(server: AcmeServer, contact: object, kind: str) -> None:
    """Contacts are at most a few plain mailto addresses; each fault has its type, at creation and at update."""
    fresh, known = server.client(), await server.registered()
    assert known.kid is not None
    server.commits.clear()
    made = await fresh.post_raw(NEW_ACCOUNT, {"contact": contact}, use_jwk=True)
    changed = await known.post_raw(known.kid, {"contact": contact})
    for response in (made, changed):
        assert response.status_code == 400
        assert response.json()["type"].endswith(f":{kind}")
        if kind == "unsupportedContact":
            assert "mailto" in response.json()["detail"], "which are taken"
    assert not server.commits


@pytest.mark.parametrize("members", [{"termsOfServiceAgreed": "yes"}, {"onlyReturnExisting": 1}])
async def test_flags_are_booleans(server: AcmeServer, members: dict[str, Any]) -> None:
    """Truthy is not true."""
    response = await server.client().post_raw(NEW_ACCOUNT, members, use_jwk=True)
    assert response.status_code == 400
    assert response.json()["type"].endswith(":malformed")


@pytest.mark.requirement("rfc8555-7.3-12", "rfc8555-7.3-13")
async def test_terms_of_service(tmp_path: Path) -> None:
    """Where there are terms, the directory names them, and an account needs the agreement."""
    server = await AcmeServer.start(tmp_path, terms=TERMS)
    client = server.client()
    assert (await client.directory())["meta"]["termsOfService"] == TERMS
    refused = await client.post_raw(NEW_ACCOUNT, {}, use_jwk=True)
    assert refused.status_code == 403
    assert refused.json()["type"].endswith(":userActionRequired")
    assert f'<{TERMS}>;rel="terms-of-service"' in refused.headers.get_list("link")
    assert (await client.register()).body["termsOfServiceAgreed"] is True
    await server.stop()


@pytest.mark.requirement("rfc8555-7.3-02", "rfc8555-7.3-04", "rfc8555-7.3.2-01", "rfc8555-7.3.2-02", "rfc8555-6.3-05")
async def test_reading_and_changing(server: AcmeServer) -> None:
    """The account reads itself by POST-as-GET and changes its contacts; unknown members change nothing."""
    client = await server.registered()
    assert client.kid is not None
    assert (await client.read(client.kid)).status == "valid"
    changed = await client.post(client.kid, {"contact": ["mailto:b@example.com"]})
    assert changed.json()["contact"] == ["mailto:b@example.com"]
    assert (await client.read(client.kid)).body["contact"] == ["mailto:b@example.com"]
    assert (await client.post(client.kid, {"orders": "x", "extra": 1})).json()["contact"] == ["mailto:b@example.com"]
    removed = await client.post(client.kid, {"contact": []})
    assert "contact" not in removed.json()


@pytest.mark.requirement("rfc8555-7.3.2-01", "rfc8555-7.3.2-02")
@pytest.mark.parametrize("status", ["valid", "revoked", None, 1, ""])
async def test_the_only_way_is_down(server: AcmeServer, status: object) -> None:
    """Any status but deactivated is ignored, and the contacts beside it are taken (RFC 8555 §7.3.2)."""
    client = await server.registered()
    assert client.kid is not None
    contact = ["mailto:b@example.com"]
    response = await client.post_raw(client.kid, {"status": status, "contact": contact})
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["contact"]) == ("valid", contact)


@pytest.mark.requirement("rfc8555-7.3.6-01", "rfc8555-7.3.6-03", "rfc8555-7.3.6-04", "dns-persist-7.2-01")
async def test_deactivation(server: AcmeServer) -> None:
    """A deactivated account signs nothing any more, its key gets no new account, its orders end."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    assert (await client.deactivate()).status == "deactivated"
    for url, use_jwk in ((order.url, False), (f"{BASE}/acme/new-order", False), (NEW_ACCOUNT, True)):
        response = await client.post_raw(url, {} if use_jwk else None, use_jwk=use_jwk)
        assert response.status_code == 401
        assert response.json()["type"].endswith(":unauthorized")
    order_id = order.url.rsplit("/", 1)[1]
    stored = await server.service.store.order_by_id(order_id)
    assert stored is not None
    assert stored.status == "invalid"


async def test_deactivation_ends_authorizations(server: AcmeServer) -> None:
    """Pending and valid ones of the account alike; those of others stay (RFC 8555 §7.3.6)."""
    client, other = await server.registered(), await server.registered()
    orders = [await client.new_order([name]) for name in ("a.example", "b.example")]
    await client.authorize(orders[0], solve)
    theirs = await other.new_order(["a.example"])
    await client.deactivate()
    for order in orders:
        authorization_id = order.body["authorizations"][0].rsplit("/", 1)[1]
        stored = await server.service.store.authorization(authorization_id, (client.kid or "").rsplit("/", 1)[1])
        assert stored is not None
        assert stored[0].status == "deactivated"
    assert (await other.read(theirs.body["authorizations"][0])).status == "pending"


async def test_deactivation_twice_at_once(server: AcmeServer) -> None:
    """Two deactivations at the same time: one does it, the other learns that it is done."""
    client = await server.registered()
    assert client.kid is not None
    twin = server.client(client.key)
    twin.kid = client.kid
    await twin.nonce()
    answers = await asyncio.gather(*(one.post_raw(client.kid, {"status": "deactivated"}) for one in (client, twin)))
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    assert server.commits.count("account-deactivated") == 1


@pytest.mark.requirement("rfc8555-7.3.6-02", "rfc8555-6.3-04")
async def test_other_accounts(server: AcmeServer) -> None:
    """An account reads and changes itself only; others and unknown ones are the same 403."""
    client, other = await server.registered(), await server.registered()
    payloads: list[object] = [None, {"status": "deactivated"}, {"contact": []}]
    for payload in payloads:
        answers = [await client.post_raw(url, payload) for url in (other.kid or "", f"{BASE}/acme/acct/{new_id()}")]
        assert {answer.status_code for answer in answers} == {403}
        assert answers[0].content == answers[1].content
    assert (await other.read(other.kid or "")).status == "valid"
    assert (await client.post_raw(f"{other.kid}/orders")).status_code == 403


@pytest.mark.requirement("rfc8555-7.1.2.1-01", "rfc8555-7.1.2.1-02", "rfc8555-7.1.2.1-03")
async def test_the_order_list(server: AcmeServer) -> None:
    """The list holds the account's own orders without the invalid ones."""
    client, other = await server.registered(), await server.registered()
    orders = [await client.new_order([f"{name}.example"]) for name in "ab"]
    await other.new_order(["c.example"])
    listed = (await client.post(f"{client.kid}/orders")).json()
    assert sorted(listed["orders"]) == sorted(order.url for order in orders)
    await client.post(orders[0].body["authorizations"][0], {"status": "deactivated"})
    assert (await client.post(f"{client.kid}/orders")).json() == {"orders": [orders[1].url]}


async def test_accounts_outlive_a_restart(server: AcmeServer) -> None:
    """After a restart the same key and URL are good; only nonces are new."""
    client = await server.registered()
    restarted = await server.restart()
    client.http = restarted.http
    assert (await client.read(client.kid or "")).status == "valid"
    await restarted.stop()
