"""Two ACME services on one PostgreSQL: clients may talk to either, at any moment, and one may die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from services.acme.identifiers import Identifier
from services.acme.nonces import LIFETIME
from services.acme.rate_limits.rate_limits import Limit, Limits
from services.acme.schema import used_nonces
from services.acme.store import OrderRow
from services.acme.store.rate_limits import OverrideRow, RateLimitStore
from services.acme.upkeep import alone
from services.chassis.database import AuditEvent
from tests.support.acme_client import JOSE, AcmeClient, AcmeProblemError
from tests.support.acme_orders import challenge_of, csr_for, ready_order
from tests.support.acme_server import BASE, DIRECTORY, AcmeServer
from tests.support.jose_key import JoseKey, b64u
from tests.support.postgres import PostgresServer

LIMITS = Limits(orders_per_account=Limit(7, 3600), accounts_per_address=Limit(100, 3600))


@pytest.fixture
async def pair(postgres: PostgresServer | None, tmp_path: Path) -> AsyncIterator[tuple[AcmeServer, AcmeServer]]:
    """Two services that answer `processing` soon."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    one = await AcmeServer.start(tmp_path, hold_seconds=0.05, limits=LIMITS, url=postgres.unmade_database())
    other = await one.replica()
    yield one, other
    await one.stop()
    await other.stop()


def at(server: AcmeServer, client: AcmeClient) -> AcmeClient:
    """The same account at another replica."""
    there = AcmeClient(server.http, DIRECTORY, client.key)
    there.kid = client.kid
    return there


async def test_a_nonce_is_good_at_either_replica_and_once(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """A nonce that one issued is redeemed at the other; the same request again is refused at both."""
    client = await pair[0].registered()
    assert client.kid is not None
    nonce = (await pair[0].http.head("/acme/new-nonce")).headers["replay-nonce"]
    body = json.dumps(
        client.key.jws(b"", {"alg": client.key.alg, "nonce": nonce, "url": client.kid, "kid": client.kid})
    )
    answers = [
        await server.http.post(client.kid, content=body, headers={"content-type": JOSE})
        for server in (pair[1], pair[1], pair[0])
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 400]
    assert all("used before" in answer.json()["detail"] for answer in answers[1:])


async def test_a_nonce_is_stored_when_it_is_used_and_removed_when_it_has_expired(
    pair: tuple[AcmeServer, AcmeServer],
) -> None:
    """Nonces that nobody used, or with a signature that is bad, fill no table; used ones go once they have expired."""
    one, _ = pair
    client = await one.registered()
    count = one.database.prepare(select(func.count().label("n")).select_from(used_nonces))
    before = await one.database.fetch_one(count)
    for _ in range(5):
        await one.http.head("/acme/new-nonce")
    assert client.kid is not None
    forged = await client.post_raw(client.kid, key=JoseKey.generate())
    assert forged.status_code == 400
    assert await one.database.fetch_one(count) == before != {"n": 0}
    one.clock.advance(timedelta(seconds=LIFETIME + 599))
    await one.service.upkeep.sweep()
    assert await one.database.fetch_one(count) == before  # the clocks of replicas may differ
    one.clock.advance(timedelta(seconds=2))
    await one.service.upkeep.sweep()
    assert await one.database.fetch_one(count) == {"n": 0}


async def test_an_account_is_the_same_at_either(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """What one changes of an account counts at the other at once: its making, its key, its end."""
    here = await pair[0].registered()
    there = at(pair[1], here)
    assert (await there.new_order(["a.test"])).status == "pending"
    await here.change_key(JoseKey.generate())
    with pytest.raises(AcmeProblemError, match="does not verify"):
        await there.new_order(["b.test"])
    there = at(pair[1], here)
    assert (await there.new_order(["b.test"])).status == "pending"
    await here.deactivate()
    with pytest.raises(AcmeProblemError, match="deactivated") as refused:
        await there.new_order(["c.test"])
    assert (refused.value.status, refused.value.kind) == (401, "unauthorized")


async def test_the_work_of_the_dead_is_taken_up(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """An order and a challenge that a replica left processing are finished by the other, without a restart."""
    dying, living = pair
    here = await dying.registered()
    finalized, challenged = await ready_order(here, "a.test"), await here.new_order(["b.test"])
    dying.ca.away = True
    await here.post(finalized.body["finalize"], {"csr": b64u(csr_for("a.test"))})
    dying.validator.gate.clear()
    await here.post(await challenge_of(here, challenged), {})
    await dying.service.close()
    dying.ca.away = False
    dying.validator.gate.set()
    there, upkeep = at(living, here), living.service.upkeep
    await upkeep.look()
    assert not living.service.background.is_busy  # the other one may live
    assert (await there.read(finalized.url)).status == "processing"
    await upkeep.look()
    await living.settled(lambda: not living.service.background.is_busy)
    assert [(await there.read(order.url)).status for order in (finalized, challenged)] == ["valid", "ready"]


async def test_two_proofs_of_one_order_at_both(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """Each replica stores one of the two proofs that an order waits for, at the same moment: the order is ready."""
    here = await pair[0].registered()
    there = at(pair[1], here)
    orders = [await here.new_order([f"a{number}.test", f"b{number}.test"]) for number in range(5)]
    urls = []
    for order in orders:
        for client, of in zip((here, there), order.body["authorizations"], strict=True):
            urls.append((client, client.challenge(await client.read(of), "http-01").url))
    pair[0].validator.gate.clear()  # that of both
    for client, url in urls:
        assert (await client.post(url, {})).json()["status"] == "processing"
    pair[0].validator.gate.set()
    await pair[0].settled(lambda: not any(server.service.background.is_busy for server in pair))
    assert [(await here.read(order.url)).status for order in orders] == ["ready"] * len(orders)


async def test_a_nonce_is_used_up_though_the_database_crashed(
    pair: tuple[AcmeServer, AcmeServer], postgres: PostgresServer
) -> None:
    """What a request changed is there after a crash, and so is the nonce that it used: it cannot be replayed."""
    client = await pair[0].registered()
    url, nonce = f"{BASE}/acme/new-order", (await pair[0].http.head("/acme/new-nonce")).headers["replay-nonce"]
    header = {"alg": client.key.alg, "nonce": nonce, "url": url, "kid": client.kid}
    wanted = json.dumps({"identifiers": [{"type": "dns", "value": "a.test"}]}).encode()
    body = json.dumps(client.key.jws(wanted, header))
    made = await pair[0].http.post(url, content=body, headers={"content-type": JOSE})
    assert made.status_code == 201
    postgres.kill()
    postgres.launch()
    for server in pair:
        answer = made
        async with asyncio.timeout(30):
            while answer is made or answer.status_code >= 500:  # a connection from before the crash
                answer = await server.http.post(url, content=body, headers={"content-type": JOSE})
        assert answer.json()["type"].endswith(":badNonce")
    assert (await client.read(made.headers["location"])).status == "pending"


async def test_both_may_take_up_the_same(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """Two replicas that finish one order at once make one certificate of it."""
    one, other = pair
    client = await one.registered()
    order = await ready_order(client, "a.test")
    one.ca.gate.clear()
    await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.test"))})
    for _ in range(2):
        await other.service.upkeep.look()
    one.ca.gate.set()
    await one.settled(lambda: not (one.service.background.is_busy or other.service.background.is_busy))
    assert (len(one.ca.requests), len(one.ca.issued)) == (2, 1)
    assert (await client.read(order.url)).status == "valid"


async def test_limits_are_exact_across_both(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """Of many orders at once at both, as many as the limit are taken, and the others told when to come again."""
    here = await pair[0].registered()
    clients = [at(server, here) for server in pair for _ in range(8)]
    answers = await asyncio.gather(
        *(client.new_order([f"{number}.test"]) for number, client in enumerate(clients)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, AcmeProblemError)]
    assert len(refused) == len(clients) - 7
    assert {(one.status, one.kind, one.response.headers["retry-after"]) for one in refused} == {
        (429, "rateLimited", "515")
    }


async def test_unfinished_orders_are_exact_across_both(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """Two processes that insert at the same moment leave no more unfinished orders than an account may have."""
    account = str((await pair[0].registered()).kid).rsplit("/", 1)[1]
    audit, names = AuditEvent("order.created", "test"), (Identifier("dns", "a.example"),)
    outcomes = await asyncio.gather(
        *(
            pair[number % 2].service.store.create_order(
                OrderRow(f"order-{number}", account, "pending", names, 2**33, 0), [], [], 3, audit
            )
            for number in range(8)
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError"] * 5 + ["NoneType"] * 3


async def test_an_override_is_learned_by_all(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """Who has another limit than usual is known to a replica that did not set it at its next look."""
    here = await pair[0].registered()
    account = (here.kid or "").rsplit("/", 1)[1]
    override = OverrideRow(f"account:{account}", "orders_per_account", 1, 3600)
    await RateLimitStore(pair[0].database).set_override(override, AuditEvent("limit.set", "operator"))
    there = at(pair[1], here)
    await there.new_order(["a.test"])
    await pair[1].service.upkeep.look()
    with pytest.raises(AcmeProblemError, match="orders_per_account is 1/1h"):
        await there.new_order(["b.test"])


async def test_one_cleans_up(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """While one replica cleans up, the other does not."""
    async with alone(pair[0].database, "acme-sweep") as first, alone(pair[1].database, "acme-sweep") as second:
        assert (first, second) == (True, False)
