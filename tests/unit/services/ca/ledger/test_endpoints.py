"""The ledger over the CA's own API: issuance, refusals and revocations as operators see them, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from pkicore.clock import unix
from pkicore.identity import SpiffeId
from pkicore.x509.names import Names
from services.ca.client import CaClient
from services.ca.ledger.refusals import REFUSALS_PER_SECOND
from services.ca.wire import MAX_IDENTIFIERS, CertificateRequest, Identifier
from tests.support.ca_world import ACME, CA, OPERATOR, CaWorld, identifiers, server_request
from tests.support.pki import make_csr

PATHS = ["certificates", "certificates/0a", "refusals", "inventory"]
REQUESTER = {
    "account": "https://ca.test/acme/acct/1",
    "order": "https://ca.test/acme/order/7",
    "validated_by": "http-01",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A CA that has not issued anything."""
    opened = await CaWorld.open(tmp_path)
    yield opened
    await opened.close()


def asked(*dns: str, idempotency_key: str = "order-1", vouched: tuple[str, ...] | None = None) -> CertificateRequest:
    """A request as the ACME server makes it."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(dns=dns))
    names = identifiers(*(dns if vouched is None else vouched))
    return CertificateRequest(csr, "server", names, idempotency_key, requester=REQUESTER)


async def post(world: CaWorld, request: CertificateRequest, caller: SpiffeId = ACME) -> httpx.Response:
    """Ask for a certificate."""
    async with world.internal(caller) as http:
        return await http.post(
            "/v1/certificates", content=request.to_json(), headers={"content-type": "application/json"}
        )


async def get(world: CaWorld, path: str, caller: SpiffeId | None = OPERATOR) -> httpx.Response:
    """Read the ledger."""
    async with world.internal(caller) as http:
        return await http.get(f"/v1/ledger/{path}")


async def refusals(world: CaWorld) -> list[dict[str, Any]]:
    """What is on record as refused."""
    found: list[dict[str, Any]] = (await get(world, "refusals?limit=1000")).json()["refusals"]
    return found


@pytest.mark.parametrize("caller", [ACME, CA, SpiffeId.service("pqcpki.internal", "operator"), None])
@pytest.mark.parametrize("path", PATHS)
async def test_nobody_but_operators_reads_the_ledger(world: CaWorld, caller: SpiffeId | None, path: str) -> None:
    """A service, a name that only looks like an operator's, or nobody at all is told 403 and nothing else."""
    answer = await get(world, path, caller)
    assert answer.status_code == 403
    assert "certificate" not in answer.text.replace("forbidden", "")


async def test_an_issuance_is_found_with_who_and_how_it_was_validated(world: CaWorld) -> None:
    """What was issued is found by name, with its caller, account, validation, algorithm and certificate."""
    issued = (await post(world, asked("www.example.org"))).json()
    async with world.internal(OPERATOR) as http:
        client = CaClient(http)
        (row,) = (await client.ledger({"name": "*.example.org"})).certificates
        entry = await client.ledger_entry(issued["serial"])
    assert (row.serial, row.status, row.caller, row.profile) == (issued["serial"], "good", str(ACME), "server")
    assert (row.account, row.requester, row.algorithm) == (REQUESTER["account"], REQUESTER, "ecdsa-p256")
    assert (row.validated, row.decision) == (f"vouched for by {ACME}", "profile server, callers /service/acme")
    assert row.names["dns"] == ["www.example.org"]
    assert row.certificate is None
    assert entry.certificate == issued["certificate"]


async def test_what_the_ca_says_of_an_issuance_is_not_its_callers_to_say(world: CaWorld) -> None:
    """A requester that claims a validation or a decision changes neither."""
    wanted = asked("www.example.org")
    claims = {"validated": "by God", "decision": "anything", "order": "7"}
    forged = CertificateRequest(wanted.csr, "server", wanted.identifiers, "forged", requester=claims)
    issued = (await post(world, forged)).json()
    async with world.internal(OPERATOR) as http:
        row = await CaClient(http).ledger_entry(issued["serial"])
    assert (row.validated, row.requester) == (f"vouched for by {ACME}", {"order": "7"})
    assert row.decision == "profile server, callers /service/acme"


async def test_a_serial_that_was_never_used_is_404(world: CaWorld) -> None:
    """The ledger knows no serial but its own."""
    assert (await get(world, "certificates/0a")).status_code == 404


@pytest.mark.parametrize("query", ["name=%25", "limit=100000", "cursor=e30", "name=a.test&name=b.test", "order=1;drop"])
async def test_a_search_that_makes_no_sense_is_400(world: CaWorld, query: str) -> None:
    """Wildcards of SQL, huge pages, made-up cursors and unknown parameters are mistakes that are named."""
    answer = await get(world, f"certificates?{query}")
    assert answer.status_code == 400
    assert answer.json()["type"].endswith(":malformed")


@pytest.mark.parametrize("query", ["cursor=zzz", "cursor=" + "g" * 26, "since=-1", "limit=0", "name=a.test"])
async def test_a_look_at_refusals_that_makes_no_sense_is_400(world: CaWorld, query: str) -> None:
    """Refusals take their own few parameters."""
    assert (await get(world, f"refusals?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("request_", "caller", "problem", "rule"),
    [
        (CertificateRequest(b"\x30\x00", "server", (), "k"), ACME, "bad-csr", ""),
        (asked("a.test", vouched=("b.test",)), ACME, "rejected-names", "2"),
        (replace(asked("a.test"), profile="client"), ACME, "forbidden", "1"),
    ],
    ids=["csr", "names", "profile"],
)
async def test_a_refusal_is_on_record_with_its_rule(
    world: CaWorld, request_: CertificateRequest, caller: SpiffeId, problem: str, rule: str
) -> None:
    """Who asked for what, what was answered, and which rule of authorisation refused it."""
    answer = await post(world, request_, caller)
    (refused,) = await refusals(world)
    assert (refused["problem"], refused["rule"], refused["caller"]) == (problem, rule, str(caller))
    assert refused["detail"] == answer.json()["detail"]
    assert refused["names"] == [name.value for name in request_.identifiers]
    assert refused["at"] == unix(world.clock.now())


async def test_an_issuance_is_no_refusal_and_costs_no_other_commit(tmp_path: Path) -> None:
    """The success path commits what it did before there were refusals: serials, intent, certificate."""
    labels: list[str] = []
    world = await CaWorld.open(
        tmp_path, observer=lambda moment, label: labels.append(label) if moment == "after" else None
    )
    await post(world, asked("a.test"))
    assert labels == ["serials", "intent", "certificate"]
    assert await refusals(world) == []
    await world.close()


async def test_a_caller_has_a_budget_of_refusals(world: CaWorld) -> None:
    """Beyond its budget of a second a caller is refused as before, and nothing is written for it."""
    wrong = asked("a.test", vouched=("b.test",))
    answers = [await post(world, wrong) for _ in range(REFUSALS_PER_SECOND * 3)]
    assert {answer.status_code for answer in answers} == {400}
    assert REFUSALS_PER_SECOND <= len(await refusals(world)) < REFUSALS_PER_SECOND * 3


async def test_a_refusal_takes_bounded_room(world: CaWorld) -> None:
    """The largest request that can be made leaves a small record."""
    names = tuple(Identifier("uri", "x" * 1000 + str(number)) for number in range(MAX_IDENTIFIERS - 100))
    request = CertificateRequest(asked("a.test").csr, "p" * 200, names, "k", requester={"account": "a" * 1000})
    assert (await post(world, request)).status_code == 400
    (refused,) = await refusals(world)
    assert len(str(refused)) < 5000
    assert len(refused["names"]) == 10


async def test_a_refused_revocation_is_on_record(world: CaWorld) -> None:
    """Who wanted to revoke what, and why that was refused: another's certificate, one twice, one that never was."""
    serial = (await post(world, asked("a.test"), OPERATOR)).json()["serial"]
    async with world.internal(ACME) as acme, world.internal(OPERATOR) as operator:
        answers = [
            await http.post("/v1/revocations", json=body)
            for http, body in (
                (acme, {"serial": serial}),
                (operator, {"serial": serial, "reason": "nonsense"}),
                (operator, {"serial": "0a"}),
                (operator, {"serial": serial}),
                (operator, {"serial": serial}),
                (acme, {"selector": {"spiffe_id": str(ACME)}}),
            )
        ]
    assert [answer.status_code for answer in answers] == [403, 400, 404, 200, 409, 403]
    found = {(row["caller"], row["act"], row["names"][0], row["problem"]) for row in await refusals(world)}
    assert found == {
        (str(ACME), "revoke", serial, "forbidden"),
        (str(OPERATOR), "revoke", serial, "bad-revocation-reason"),
        (str(OPERATOR), "revoke", "0a", "unknown-certificate"),
        (str(OPERATOR), "revoke", serial, "already-revoked"),
        (str(ACME), "revoke", f"spiffe_id {ACME}", "forbidden"),
    }


async def test_a_call_that_the_policy_refuses_is_on_record(world: CaWorld) -> None:
    """Who called what, for plain routes and operators' ones; a caller without identity, too."""
    for caller, method, path in (
        (ACME, "POST", "/v1/blocked-keys"),
        (ACME, "POST", "/v1/crls"),
        (None, "GET", "/v1/ledger/certificates/0a"),
    ):
        async with world.internal(caller) as http:
            assert (await http.request(method, path)).status_code == 403
    found = {(row["caller"], row["act"], row["names"][0], row["problem"]) for row in await refusals(world)}
    assert found == {
        (str(ACME), "call", "POST /v1/blocked-keys", "forbidden"),
        (str(ACME), "call", "POST /v1/crls", "forbidden"),
        ("", "call", "GET /v1/ledger/certificates/{serial}", "forbidden"),
    }


async def test_refused_calls_fill_no_disk(world: CaWorld) -> None:
    """Whatever is refused counts against one budget of the caller's."""
    async with world.internal(ACME) as http:
        for _ in range(REFUSALS_PER_SECOND * 3):
            assert (await http.post("/v1/crls")).status_code == 403
    assert REFUSALS_PER_SECOND <= len(await refusals(world)) < REFUSALS_PER_SECOND * 3


async def test_a_refusal_stands_where_it_cannot_be_recorded(world: CaWorld) -> None:
    """A database that is gone makes of a 403 neither a 200 nor a crash."""
    await world.database.close()
    async with world.internal(ACME) as http:
        assert (await http.post("/v1/crls")).status_code == 403


async def test_refusals_come_in_pages(world: CaWorld) -> None:
    """Pages of two hold every refusal once, the newest second first."""
    for second in range(3):
        await post(world, asked("a.test", vouched=(f"b{second}.test",)))
        world.clock.advance(timedelta(seconds=1))
    first = (await get(world, "refusals?limit=2")).json()
    rest = (await get(world, f"refusals?limit=2&cursor={first['next']}")).json()
    found = [row["names"][0] for row in first["refusals"] + rest["refusals"]]
    assert found == ["b2.test", "b1.test", "b0.test"]
    assert rest["next"] is None


async def test_old_refusals_are_forgotten(world: CaWorld) -> None:
    """A record is deleted when it has been kept for as long as was asked, and not before."""
    await post(world, asked("a.test", vouched=("old.test",)))
    world.clock.advance(timedelta(days=89))
    await post(world, asked("a.test", vouched=("new.test",)))
    await world.core.refusals.clean_up()
    assert len(await refusals(world)) == 2
    world.clock.advance(timedelta(days=2))
    await world.core.refusals.clean_up()
    assert [row["names"] for row in await refusals(world)] == [["new.test"]]


async def test_the_inventory_counts_live_certificates_by_algorithm(world: CaWorld) -> None:
    """What is live counts by the key's algorithm and profile; what has ended does not; issuers and roots are named."""
    await post(world, asked("a.test"))
    await post(world, asked("b.test", idempotency_key="order-2"))
    async with world.internal(OPERATOR) as http:
        found = await CaClient(http).inventory()
    assert [(row.algorithm, row.profile, row.count) for row in found.certificates] == [("ecdsa-p256", "server", 2)]
    assert {(issuer.role, issuer.algorithm) for issuer in found.issuers} >= {
        ("root", "ecdsa-p384"),
        ("root", "ml-dsa-87"),
    }


async def test_what_ends_soon_is_counted(world: CaWorld) -> None:
    """The metrics say how many live certificates end within a day, a week and thirty days, and when the first does."""
    await post(world, server_request("a.test"))
    await world.core.expiry.count()
    assert _sample(world, "pqcpki_ca_certificates_ending", within="30d") == 0
    (row,) = (await get(world, "certificates")).json()["certificates"]
    world.clock.advance(timedelta(seconds=row["not_after"] - unix(world.clock.now()) - 3 * 86_400))
    await world.core.expiry.count()
    found = [_sample(world, "pqcpki_ca_certificates_ending", within=within) for within in ("1d", "7d", "30d")]
    assert found == [0, 1, 1]
    assert _sample(world, "pqcpki_ca_earliest_end_timestamp_seconds") == row["not_after"]


async def test_the_ends_of_issuers_and_crls_are_shown(world: CaWorld) -> None:
    """Each CA's end with its role; the end of the first of its lists to end, and 0 before it has one."""
    registry = CollectorRegistry()
    world.core.watch.register(registry)
    world.core.watch.look()
    name = "pqcpki_ca_crl_next_update_timestamp_seconds"
    assert registry.get_sample_value(name, {"issuer": "issuing-ecdsa"}) == 0
    await world.start()
    world.core.watch.look()
    end = registry.get_sample_value(name, {"issuer": "issuing-ecdsa"})
    assert end == world.core.publisher.current["issuing-ecdsa"].next_update
    ends = "pqcpki_ca_issuer_end_timestamp_seconds"
    labels = {"issuer": "issuing-ecdsa", "role": "active"}
    assert registry.get_sample_value(ends, labels) == world.issuer().not_valid_after_utc.timestamp()
    root = world.families["mldsa"].root
    found = registry.get_sample_value(ends, {"issuer": root.id, "role": "root"})
    assert found == root.certificate.not_valid_after_utc.timestamp()


def _sample(world: CaWorld, name: str, **labels: str) -> float:
    """A metric of the one profile and issuer; 0 where it has no sample."""
    registry = CollectorRegistry()
    world.core.expiry.register(registry)
    return registry.get_sample_value(name, {"profile": "server", "issuer": "issuing-ecdsa", **labels}) or 0
