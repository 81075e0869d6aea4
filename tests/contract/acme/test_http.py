"""What HTTP itself asks of the public listener: browsers, caches, limits told in headers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.acme.errors import ValidationError
from services.acme.rate_limits.rate_limits import Limit, Limits
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_orders import challenge_of
from tests.support.acme_server import BASE, AcmeServer, solve


@pytest.mark.requirement("rfc8555-6.1-06")
async def test_every_origin_may_ask(server: AcmeServer) -> None:
    """Answers and refusals may be read by scripts of every origin, with the headers that a client needs."""
    client = await server.registered()
    for response in (
        await server.http.get("/acme/directory"),
        await server.http.head("/acme/new-nonce"),
        await client.post_raw(f"{BASE}/acme/new-order", {}),
        await server.http.get("/acme/nothing"),
    ):
        assert response.headers["access-control-allow-origin"] == "*"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert set(exposed) == {"Link", "Location", "Replay-Nonce", "Retry-After"}


@pytest.mark.parametrize(
    ("path", "methods"), [("directory", "GET, POST"), ("new-nonce", "GET, HEAD, POST"), ("order/x", "POST")]
)
async def test_a_preflight_is_answered_without_a_nonce(server: AcmeServer, path: str, methods: str) -> None:
    """OPTIONS says what a script may send, costs no nonce, and opens no private network to pages of the Internet."""
    headers = {
        "origin": "https://app.test",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
        "access-control-request-private-network": "true",
    }
    response = await server.http.options(f"/acme/{path}", headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-methods"] == methods
    assert response.headers["access-control-allow-headers"] == "Content-Type"
    assert response.headers["access-control-allow-origin"] == "*"
    assert {"replay-nonce", "access-control-allow-private-network", "access-control-allow-credentials"}.isdisjoint(
        response.headers
    )


async def test_what_caches_may_keep(server: AcmeServer) -> None:
    """The directory may be kept for minutes; what is answered to a POST may not, a certificate neither."""
    client = await server.registered()
    got = [await server.http.request(method, "/acme/directory") for method in ("GET", "HEAD")]
    assert [response.headers["cache-control"] for response in got] == ["public, max-age=300"] * 2
    assert (got[1].content, got[1].headers["content-length"]) == (b"", str(len(got[0].content)))
    assert (await client.post(f"{BASE}/acme/directory")).headers["cache-control"] == "no-store"
    order = await client.new_order(["a.test"])
    await client.authorize(order, solve)
    assert (await client.post(order.url)).headers["cache-control"] == "no-store"


async def test_neither_user_agent_nor_language_is_asked_for(server: AcmeServer) -> None:
    """A client that sends no User-Agent and no Accept-Language is served like any other."""
    client = await server.registered()
    for name in ("user-agent", "accept-language", "accept"):
        server.http.headers.pop(name, None)
    assert (await client.new_order(["a.test"])).status == "pending"


@pytest.mark.requirement("rfc8555-6.6-01", "rfc8555-6.6-02")
async def test_new_accounts_of_one_address_are_limited(tmp_path: Path) -> None:
    """Past the limit a new account is refused with 429; one that there is is found still, and nothing was made."""
    server = await AcmeServer.start(tmp_path, limits=Limits(accounts_per_address=Limit(2, 3600)))
    clients = [await server.registered() for _ in range(2)]
    with pytest.raises(AcmeProblemError, match=r"new accounts from 127\.0\.0\.1") as refused:
        await server.registered()
    assert (refused.value.status, refused.value.kind) == (429, "rateLimited")
    assert refused.value.response.headers["retry-after"] == "1800"
    await clients[0].register()
    assert server.commits.count("account-created") == 2
    await server.stop()


async def test_failed_validations_close_a_name(tmp_path: Path) -> None:
    """A failure is counted in the unit that stores it, and after too many the name is not taken in orders."""
    server = await AcmeServer.start(tmp_path, limits=Limits(failed_validations=Limit(1, 3600)))
    client = await server.registered()
    for failure in (RuntimeError("the server's own fault"), ValidationError("connection", "refused")):
        server.validator.failures["a.test"] = failure
        order = await client.new_order(["a.test"])
        await client.authorize(order, solve)
        assert (await client.read(order.url)).status == "invalid"
    before = list(server.commits)
    with pytest.raises(AcmeProblemError, match=r"failed validations of a\.test"):
        await client.new_order(["a.test"])
    with pytest.raises(AcmeProblemError, match=r"failed validations of a\.test"):
        await client.post(f"{BASE}/acme/new-authz", {"identifier": {"type": "dns", "value": "a.test"}})
    assert server.commits == before
    assert (await client.new_order(["b.test"])).status == "pending"
    await server.stop()


@pytest.mark.requirement("rfc8555-6.6-01", "rfc8555-6.6-02")
async def test_what_was_ordered_before_is_not_tried_beyond_the_limit(tmp_path: Path) -> None:
    """Pending challenges of a name that failed too often are not tried until Retry-After, and nothing of them changes.

    Otherwise whoever orders a name a thousand times beforehand could try it a thousand times.
    """
    server = await AcmeServer.start(tmp_path, limits=Limits(failed_validations=Limit(1, 3600)))
    client = await server.registered()
    server.validator.failures["a.test"] = ValidationError("connection", "refused")
    orders = [await client.new_order(["a.test"]) for _ in range(2)]
    failing, waiting = [await challenge_of(client, order) for order in orders]
    await client.post(failing, {})
    before = list(server.commits)
    refused = await client.post_raw(waiting, {})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    assert (await client.post(waiting)).json()["status"] == "pending"
    assert (server.commits, len(server.validator.attempts)) == (before, 1)
    server.clock.advance(timedelta(hours=1))
    client.nonces.clear()
    server.validator.failures.clear()
    assert (await client.post(waiting, {})).json()["status"] == "valid"
    await server.stop()
