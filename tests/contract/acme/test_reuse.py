"""Authorizations that serve several orders, and those that are made ahead of any (RFC 8555 §7.4.1)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.acme.errors import ValidationError
from services.acme.profiles.profiles import BUILT_IN, Profile
from tests.support.acme_client import AcmeClient, AcmeProblemError, Resource
from tests.support.acme_orders import csr_for, ready_order
from tests.support.acme_server import BASE, AcmeServer, solve


async def new_authz(client: AcmeClient, value: str = "a.example", kind: str = "dns") -> Resource:
    """An authorization ahead of an order."""
    response = await client.post(f"{BASE}/acme/new-authz", {"identifier": {"type": kind, "value": value}})
    return Resource(response.headers["location"], response.json())


@pytest.mark.requirement("rfc8555-7.1.3-06", "rfc8555-7.1.3-07")
async def test_paired_orders(server: AcmeServer) -> None:
    """A second order for names that were proven is ready at once, by the same authorizations, in one commit."""
    client = await server.registered()
    first = await ready_order(client, "a.example", "b.example")
    server.commits.clear()
    second = await client.new_order(["b.example", "a.example"])
    assert second.status == "ready"
    assert second.body["authorizations"] == first.body["authorizations"][::-1]
    assert server.commits == ["order-created"]
    for order in (first, second):
        assert (await client.finalize(order, csr_for("a.example", "b.example"))).status == "valid"
    assert len(server.validator.attempts) == 2


@pytest.mark.requirement("rfc8555-7.1.3-06")
async def test_an_order_partly_proven(server: AcmeServer) -> None:
    """Names that were not proven have new authorizations beside the one that is taken up; then the order is ready."""
    client = await server.registered()
    first = await ready_order(client, "a.example")
    second = await client.new_order(["a.example", "b.example", "*.a.example"])
    assert second.status == "pending"
    assert second.body["authorizations"][0] == first.body["authorizations"][0]
    statuses = [(await client.read(url)).status for url in second.body["authorizations"]]
    assert statuses == ["valid", "pending", "pending"]
    await client.authorize(second, solve, "dns-01")
    assert (await client.read(second.url)).status == "ready"


async def test_what_is_not_taken_up(tmp_path: Path) -> None:
    """No order takes up a proof of another account, a wildcard's, an old one, or one of a type it does not take."""
    strict = Profile("strict", "by DNS alone", "server", challenges=("dns-01",))
    server = await AcmeServer.start(tmp_path, profiles={**BUILT_IN, "strict": strict}, reuse_seconds=3600)
    client, other = await server.registered(), await server.registered()
    await ready_order(client, "a.example")
    await ready_order(client, "*.b.example", challenge="dns-01")
    assert (await other.new_order(["a.example"])).status == "pending"
    assert (await client.new_order(["b.example"])).status == "pending"
    assert (await client.new_order(["a.example"], profile="strict")).status == "pending"
    assert (await client.new_order(["*.b.example"], profile="strict")).status == "ready"
    server.clock.advance(timedelta(seconds=3599))
    assert (await client.new_order(["a.example"])).status == "ready"
    server.clock.advance(timedelta(seconds=1))
    assert (await client.new_order(["a.example"])).status == "pending"
    await server.stop()


async def test_none_is_taken_up_where_the_operator_says_so(tmp_path: Path) -> None:
    """With authorization_reuse_seconds = 0 each order is proven by itself."""
    server = await AcmeServer.start(tmp_path, reuse_seconds=0)
    client = await server.registered()
    await ready_order(client, "a.example")
    assert (await client.new_order(["a.example"])).status == "pending"
    await server.stop()


async def test_an_order_lasts_no_longer_than_its_proofs(server: AcmeServer) -> None:
    """An order expires with the first of the authorizations that it took up, and one that ends soon is not taken up."""
    client = await server.registered()
    first = await client.new_order(["a.example"])
    server.clock.advance(timedelta(days=6))
    await client.authorize(first, solve)
    second = await client.new_order(["a.example"])
    assert (second.status, second.body["expires"]) == ("ready", first.body["expires"])
    server.clock.advance(timedelta(hours=7, minutes=30))
    assert (await client.new_order(["a.example"])).status == "pending"


@pytest.mark.requirement("rfc8555-7.5.2-02")
async def test_giving_up_ends_every_order_served(server: AcmeServer) -> None:
    """A deactivated authorization takes all its unfinished orders with it, and no later order takes it up."""
    client = await server.registered()
    first = await ready_order(client, "a.example")
    second = await client.new_order(["a.example"])
    done = await client.finalize(first, csr_for("a.example"))
    third = await client.new_order(["a.example"])
    await client.post(first.body["authorizations"][0], {"status": "deactivated"})
    assert [(await client.read(order.url)).status for order in (done, second, third)] == ["valid", "invalid", "invalid"]
    assert (await client.new_order(["a.example"])).status == "pending"
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(second, csr_for("a.example"))
    assert refused.value.kind == "orderNotReady"


async def test_given_up_while_it_is_taken_up(server: AcmeServer) -> None:
    """Whichever of a new order and the deactivation of what it takes up is first, no order is ready without a proof."""
    client = await server.registered()
    first = await ready_order(client, "a.example")
    twin = server.client(client.key)
    twin.kid = client.kid
    for _ in range(3):
        twin.nonces.clear()
        await twin.nonce()
    order, _ = await asyncio.gather(
        client.new_order(["a.example"]), twin.post(first.body["authorizations"][0], {"status": "deactivated"})
    )
    assert (await client.read(order.url)).status in {"pending", "invalid"}


@pytest.mark.requirement("rfc8555-7.4.1-03", "rfc8555-7.1.3-06")
async def test_ahead_of_an_order(server: AcmeServer) -> None:
    """NewAuthz makes a pending authorization; once valid, it is shown again for 200, and an order is ready by it."""
    client = await server.registered()
    response = await client.post(f"{BASE}/acme/new-authz", {"identifier": {"type": "dns", "value": "A.example"}})
    assert response.status_code == 201
    authorization = Resource(response.headers["location"], response.json())
    assert authorization.body["identifier"] == {"type": "dns", "value": "a.example"}
    assert authorization.status == "pending"
    assert server.commits[-1] == "authorization-created"
    await client.post(client.challenge(authorization, "dns-01").url, {})
    again = await client.post(f"{BASE}/acme/new-authz", {"identifier": {"type": "dns", "value": "a.example"}})
    assert (again.status_code, again.headers["location"]) == (200, authorization.url)
    order = await client.new_order(["a.example"])
    assert (order.status, order.body["authorizations"]) == ("ready", [authorization.url])
    assert (await client.finalize(order, csr_for("a.example"))).status == "valid"


@pytest.mark.requirement("rfc8555-7.4.1-01", "rfc8555-7.4.1-02")
@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({}, "malformed"),
        ({"identifier": "a.example"}, "malformed"),
        ({"identifier": {"type": "dns", "value": "*.a.example"}}, "rejectedIdentifier"),
        ({"identifier": {"type": "dns", "value": "a_b"}}, "rejectedIdentifier"),
        ({"identifier": {"type": "ip", "value": "2001:DB8::1"}}, "rejectedIdentifier"),
        ({"identifier": {"type": "uri", "value": "a"}}, "unsupportedIdentifier"),
    ],
)
async def test_what_is_not_authorized_ahead(server: AcmeServer, payload: dict[str, Any], kind: str) -> None:
    """A wildcard, or what could not be ordered either, is refused with 403; what is no identifier, with 400."""
    client = await server.registered()
    with pytest.raises(AcmeProblemError) as refused:
        await client.post(f"{BASE}/acme/new-authz", payload)
    assert (refused.value.status, refused.value.kind) == (400 if kind == "malformed" else 403, kind)


@pytest.mark.requirement("rfc8555-7.1.1-01")
async def test_nothing_is_authorized_ahead_where_no_order_takes_it_up(tmp_path: Path) -> None:
    """Without reuse newAuthz would serve no order: it is neither in the directory nor there."""
    server = await AcmeServer.start(tmp_path, reuse_seconds=0)
    client = await server.registered()
    assert "newAuthz" not in await client.directory()
    payload = {"identifier": {"type": "dns", "value": "a.example"}}
    assert (await client.post_raw(f"{BASE}/acme/new-authz", payload)).status_code == 404
    await server.stop()


async def test_authorizations_ahead_are_bounded_and_cleaned_up(tmp_path: Path) -> None:
    """An account has so many pending ones without an order, and what expired long ago is deleted."""
    server = await AcmeServer.start(tmp_path, max_pending=2)
    client = await server.registered()
    made = [await new_authz(client, f"{number}.example") for number in range(2)]
    with pytest.raises(AcmeProblemError) as refused:
        await new_authz(client, "c.example")
    assert (refused.value.kind, refused.value.response.headers["retry-after"]) == ("rateLimited", "3600")
    assert (await client.read(made[0].url)).status == "pending"
    server.clock.advance(timedelta(days=15))
    client.nonces.clear()
    await server.service.clean_up()
    assert [(await client.post_raw(each.url)).status_code for each in made] == [404, 404]
    await server.stop()


async def test_clean_up_leaves_what_serves_an_order(server: AcmeServer) -> None:
    """An authorization that two orders share stays as long as one of them does."""
    client = await server.registered()
    first = await ready_order(client, "a.example")
    second = await client.new_order(["a.example"])
    await client.finalize(second, csr_for("a.example"))
    server.clock.advance(timedelta(days=15))
    client.nonces.clear()
    assert await server.service.clean_up() == 1
    assert (await client.post_raw(first.url)).status_code == 404
    assert (await client.read(second.body["authorizations"][0])).status == "expired"


@pytest.mark.requirement("rfc8657-5.5-01", "rfc8659-3-01")
async def test_caa_is_looked_at_again_where_the_proof_is_old(server: AcmeServer) -> None:
    """An order whose names were validated more than 8 hours ago is finalized only where CAA still allows it."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.clock.advance(timedelta(hours=8))
    young = await ready_order(client, "b.example")
    server.clock.advance(timedelta(seconds=1))
    assert (await client.finalize(young, csr_for("b.example"))).status == "valid"
    assert not server.caa.checks
    server.caa.refusals["a.example"] = ValidationError("caa", "somebody else's")
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_for("a.example"))
    assert refused.value.kind == "caa"
    assert refused.value.document["subproblems"][0]["identifier"]["value"] == "a.example"
    assert (await client.read(order.url)).status == "ready"
    server.caa.refusals.clear()
    assert (await client.finalize(order, csr_for("a.example"))).status == "valid"
    assert server.caa.checks == [("a.example", False, "http-01", client.kid)] * 2
