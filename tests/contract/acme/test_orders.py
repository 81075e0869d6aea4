from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from services.chassis.audit import audit_records, verify_audit
from services.chassis.database import AuditEvent
from tests.support.acme_client import AcmeProblemError, make_csr
from tests.support.acme_orders import csr_for, new_key
from tests.support.acme_server import BASE, AcmeServer, solve


@pytest.mark.requirement("rfc8555-7.4-02")
async def test_an_order_ends_in_a_certificate_for_its_names(server: AcmeServer) -> None:
    """A client gets a certificate for exactly the names it ordered and proved, in five requests and four commits."""
    client = await server.registered()
    before = client.requests
    server.commits.clear()
    key = new_key()
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], key), solve)
    assert obtained.order.status == "valid"
    assert obtained.certificates[0].public_key() == key.public_key()
    assert server.commits == ["order-created", "challenge-valid", "order-processing", "order-valid"]
    assert client.requests - before == 5
    assert server.ca.requests[0].requester["account"] == client.kid


@pytest.mark.requirement("rfc8555-7.1.3-01", "rfc8555-7.1.4-03")
async def test_the_shape_of_a_new_order(server: AcmeServer) -> None:
    """NewOrder answers 201 with the order's URL and every member of RFC 8555 §7.1.3, and nothing empty."""
    client = await server.registered()
    payload = {"identifiers": [{"type": "dns", "value": name} for name in ("B.example", "a.example", "b.EXAMPLE")]}
    response = await client.post(f"{BASE}/acme/new-order", payload)
    assert response.status_code == 201
    document = response.json()
    assert set(document) == {"status", "expires", "identifiers", "profile", "authorizations", "finalize"}
    assert document["identifiers"] == [{"type": "dns", "value": "b.example"}, {"type": "dns", "value": "a.example"}]
    assert document["expires"] == "2030-01-08T00:00:00Z"
    assert len(document["authorizations"]) == 2
    read = await client.post(response.headers["location"])
    assert read.json() == document
    assert "retry-after" not in read.headers


@pytest.mark.requirement("rfc8555-8-02", "rfc8555-7.4.1-03", "rfc8555-7.1.3-02")
async def test_the_shape_of_an_authorization(server: AcmeServer) -> None:
    """A pending authorization offers http-01 and dns-01 with tokens of their own, and says when to come back."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    response = await client.post(order.body["authorizations"][0])
    document = response.json()
    assert set(document) == {"identifier", "status", "expires", "challenges"}
    assert (document["identifier"], document["status"]) == ({"type": "dns", "value": "a.example"}, "pending")
    assert [challenge["type"] for challenge in document["challenges"]] == ["http-01", "dns-01"]
    assert all(set(challenge) == {"type", "url", "status", "token"} for challenge in document["challenges"])
    assert len({challenge["token"] for challenge in document["challenges"]}) == 2
    assert all(len(challenge["token"]) == 43 for challenge in document["challenges"])
    assert response.headers["retry-after"]


@pytest.mark.requirement(
    "rfc8555-7.1.3-02", "rfc8555-7.1.3-03", "rfc8555-7.1.4-02", "rfc8555-7.1.4-06", "rfc8555-7.1.4-07"
)
async def test_wildcards(server: AcmeServer) -> None:
    """A wildcard is proven in the DNS only, at its base name, and marked; the base name itself is another matter."""
    client = await server.registered()
    order = await client.new_order(["*.a.example", "a.example"])
    wildcard, plain = [await client.read(url) for url in order.body["authorizations"]]
    assert wildcard.body["identifier"] == plain.body["identifier"] == {"type": "dns", "value": "a.example"}
    assert wildcard.body["wildcard"] is True
    assert "wildcard" not in plain.body
    assert [challenge["type"] for challenge in wildcard.body["challenges"]] == ["dns-01"]
    await client.post(client.challenge(plain, "dns-01").url, {})
    assert (await client.read(order.url)).status == "pending"
    await client.post(client.challenge(wildcard, "dns-01").url, {})
    finalized = await client.finalize(order, csr_for("*.a.example", "a.example"))
    assert finalized.status == "valid"
    assert {attempt.identifier.value for attempt in server.validator.attempts} == {"a.example"}


@pytest.mark.requirement("rfc8555-7.1.4-04", "rfc8555-7.1.4-05", "rfc8555-7.4-01", "rfc8738-3-02")
@pytest.mark.parametrize(
    ("identifiers", "kind"),
    [
        ([], "malformed"),
        (None, "malformed"),
        ("a.example", "malformed"),
        ([{}], "malformed"),
        ([{"type": "dns"}], "malformed"),
        ([{"type": "dns", "value": 1}], "malformed"),
        (["a.example"], "malformed"),
        ([{"type": "dns", "value": "a" * 400}], "malformed"),
        ([{"type": "dns", "value": f"{number}.example"} for number in range(11)], "malformed"),
        ([{"type": "ip", "value": "127.0.0.01"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "127.0.0.1/8"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "2001:DB8::1"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "2001:db8:0:0:0:0:0:1"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "fe80::1%eth0"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "::ffff:10.0.0.1"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "*.10.0.0.1"}], "rejectedIdentifier"),
        ([{"type": "ip", "value": "a.example"}], "rejectedIdentifier"),
        ([{"type": "email", "value": "a@example.com"}], "unsupportedIdentifier"),
        ([{"type": "dns", "value": "127.0.0.1"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "::1"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": ""}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a..example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.example."}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "-a.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a_b.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*.com"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "bücher.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "xn--a.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "ab--c.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a\0.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.example/x"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "\u212aa.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": f"{'a' * 64}.example"}], "rejectedIdentifier"),
    ],
)
async def test_identifiers_that_are_refused(server: AcmeServer, identifiers: object, kind: str) -> None:
    """Each wrong identifier is refused with its type, and no order is made."""
    client = await server.registered()
    server.commits.clear()
    response = await client.post_raw(f"{BASE}/acme/new-order", {"identifiers": identifiers})
    assert (response.status_code, response.json()["type"]) == (400, f"urn:ietf:params:acme:error:{kind}")
    assert not server.commits


@pytest.mark.requirement("rfc8555-6.7.1-01")
async def test_several_refused_identifiers_are_listed(server: AcmeServer) -> None:
    """Every refused name stands in a sub-problem; types that differ make the whole compound."""
    client = await server.registered()
    names = [("uri", "a:1"), ("dns", "good.example"), ("uri", "a:2")]
    for extra, kind in (([], "unsupportedIdentifier"), ([("dns", "a_b.example")], "compound")):
        identifiers = [{"type": what, "value": value} for what, value in [*names, *extra]]
        document = (await client.post_raw(f"{BASE}/acme/new-order", {"identifiers": identifiers})).json()
        assert document["type"].endswith(f":{kind}")
        refused = [item["identifier"]["value"] for item in document["subproblems"]]
        assert refused == ["a:1", "a:2", *(value for _, value in extra)]
        assert all(item["type"] and item["detail"] for item in document["subproblems"])


@pytest.mark.parametrize("member", ["notBefore", "notAfter"])
async def test_a_validity_is_not_for_clients(server: AcmeServer, member: str) -> None:
    """What cannot be honoured exactly is refused and not ignored (RFC 8555 §7.4)."""
    client = await server.registered()
    with pytest.raises(AcmeProblemError, match=member) as refused:
        await client.new_order(["a.example"], **{member: "2031-01-01T00:00:00Z"})
    assert (refused.value.status, refused.value.kind) == (400, "malformed")


async def test_unfinished_orders_are_limited(tmp_path: Path) -> None:
    """An account with too many unfinished orders is told to wait; finished and expired ones do not count."""
    server = await AcmeServer.start(tmp_path, max_pending=2)
    client = await server.registered()
    await client.obtain(["z.example"], csr_for("z.example"), solve)
    orders = [await client.new_order([f"{name}.example"]) for name in "ab"]
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["c.example"])
    assert (refused.value.status, refused.value.kind) == (429, "rateLimited")
    assert refused.value.response.headers["retry-after"] == "3600"
    assert (await (await server.registered()).new_order(["c.example"])).status == "pending"
    await client.post(orders[0].body["authorizations"][0], {"status": "deactivated"})
    await client.new_order(["c.example"])
    server.clock.advance(timedelta(days=8))
    await client.new_order(["d.example"])
    await server.stop()


@pytest.mark.parametrize("resource", ["new-order", "new-authz"])
async def test_unfinished_work_is_limited_at_once(tmp_path: Path, resource: str) -> None:
    """Requests at the same moment find no more room than one after another: the count is part of the write."""
    server = await AcmeServer.start(tmp_path, max_pending=2)
    client = await server.registered()
    client.nonces.extend([(await server.http.head("/acme/new-nonce")).headers["replay-nonce"] for _ in range(6)])
    url = f"{BASE}/acme/{resource}"
    answers = await asyncio.gather(*(client.post_raw(url, asked(resource, f"{number}.example")) for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 4
    await server.stop()


@pytest.mark.parametrize("resource", ["new-order", "new-authz"])
async def test_nothing_is_stored_for_an_account_that_has_just_ended(server: AcmeServer, resource: str) -> None:
    """Its request was believed a moment before: the write needs the account to be valid still."""
    client = await server.registered()
    await client.read(str(client.kid))  # known as valid to the server
    audit = AuditEvent("account.deactivated", "test")
    await server.service.store.deactivate_account(str(client.kid).rsplit("/", 1)[1], audit)
    refused = await client.post_raw(f"{BASE}/acme/{resource}", asked(resource, "a.example"))
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[1]) == (401, "unauthorized")
    assert server.commits[-1] == "account-deactivated"


def asked(resource: str, name: str) -> dict[str, object]:
    """The payload that asks for a name."""
    identifier = {"type": "dns", "value": name}
    return {"identifiers": [identifier]} if resource == "new-order" else {"identifier": identifier}


async def test_clean_up_removes_what_nobody_asks_for(server: AcmeServer) -> None:
    """Orders long expired without a certificate go with all that hangs on them; others stay."""
    client = await server.registered()
    old = [await client.new_order([f"{number}.example"]) for number in range(3)]
    done = await client.obtain(["z.example"], csr_for("z.example"), solve)
    server.clock.advance(timedelta(days=13))
    fresh = await client.new_order(["new.example"])
    assert await server.service.clean_up() == 0
    server.clock.advance(timedelta(days=2))
    client.nonces.clear()  # too old by now
    assert await server.service.clean_up() == 3
    for order in old:
        assert (await client.post_raw(order.url)).status_code == 404
        assert (await client.post_raw(order.body["authorizations"][0])).status_code == 404
    assert (await client.read(done.order.url)).status == "valid"
    assert (await client.read(fresh.url)).status == "pending"
    assert await server.service.clean_up() == 0


async def test_every_change_is_audited(server: AcmeServer) -> None:
    """Each act of the path leaves one record in the log, in its order, and the chain verifies."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    await client.revoke(obtained.certificates[0], 1)
    await client.deactivate()
    events = [stored.record.event async for stored in audit_records(server.database)]
    assert events == [
        "account.created",
        "order.created",
        "authorization.valid",
        "order.finalized",
        "certificate.issued",
        "certificate.revoked",
        "account.deactivated",
    ]
    head = await verify_audit(server.database, [], None)
    assert head.sequence == len(events)
