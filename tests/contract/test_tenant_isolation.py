"""Two tenants from the attacker's side: `right` would name, list, use, approve for, exhaust and time `left`'s keys."""

from __future__ import annotations

import asyncio
import base64
import shutil
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from pkicore.clock import unix
from services.chassis.audit import audit_records
from services.chassis.oidc import OidcIssuerSettings
from tests.support.clock import ManualClock
from tests.support.jose_key import JoseKey
from tests.support.signer_tenants import BURST, DIGEST, TenantsWorld, tenants_world

EXISTING, MISSING, NO_TENANT = "left.signing-1", "left.missing-1", "lost.signing-1"


class Probe(NamedTuple):
    """A request about a key; `{id}`, `{tenant}` and `{name}` stand for the key's."""

    method: str
    path: str
    body: dict[str, Any] | None = None


_ONCE = {"idempotency_key": "probe"}
PROBES = {
    "show": Probe("GET", "/v1/keys/{id}"),
    "pubkey": Probe("GET", "/v1/keys/{id}/pubkey"),
    "pubkey of a version": Probe("GET", "/v1/keys/{id}/pubkey?version=1"),
    "pubkey, short": Probe("GET", "/pubkey?key={id}"),
    "sign": Probe("POST", "/v1/keys/{id}/sign", {"kind": "digest", "payload": DIGEST}),
    "sign under the victim's idempotency key": Probe(
        "POST", "/v1/keys/{id}/sign", {"kind": "digest", "payload": DIGEST, "idempotency_key": "victim"}
    ),
    "sign, a bad payload": Probe("POST", "/v1/keys/{id}/sign", {"kind": "digest", "payload": "AA=="}),
    "sign, a batch": Probe("POST", "/v1/keys/{id}/sign", {"kind": "digest", "payloads": [DIGEST, DIGEST]}),
    "sign with mu": Probe("POST", "/v1/keys/{id}/sign", {"kind": "mu", "payload": DIGEST}),
    "sign, another scheme": Probe("POST", "/v1/keys/{id}/sign", {"kind": "digest", "payload": DIGEST, "scheme": "X"}),
    "sign, short": Probe("POST", "/sign", {"key": "{id}", "kind": "digest", "payload": DIGEST}),
    "create": Probe("POST", "/v1/keys", {"tenant": "{tenant}", "name": "{name}", "algorithm": "ecdsa-p256", **_ONCE}),
    "import": Probe(
        "POST",
        "/v1/keys",
        {"tenant": "{tenant}", "name": "{name}", "algorithm": "ecdsa-p256", "private_key": "AAAA", **_ONCE},
    ),
    "rotate": Probe("POST", "/v1/keys/{id}/rotate", _ONCE),
    "disable": Probe("POST", "/v1/keys/{id}/disable", _ONCE),
    "enable": Probe("POST", "/v1/keys/{id}/enable", _ONCE),
    "destroy": Probe("POST", "/v1/keys/{id}/destroy", {"version": 1, **_ONCE}),
    "attestation": Probe("GET", "/v1/keys/{id}/attestation"),
    "hand in an attestation": Probe("POST", "/v1/keys/{id}/attestation", {"format": "yubihsm2", "chain": ["AAAA"]}),
    "approve": Probe("POST", "/v1/approvals", {"act": "destroy", "key": "{id}", "version": 1}),
    "list": Probe("GET", "/v1/keys?tenant={tenant}"),
    "list approvals": Probe("GET", "/v1/approvals?tenant={tenant}"),
}


async def send(http: httpx.AsyncClient, probe: Probe, key_id: str) -> httpx.Response:
    """The probe about this key."""
    tenant, _, name = key_id.partition(".")

    def fill(text: str) -> str:
        return text.replace("{id}", key_id).replace("{tenant}", tenant).replace("{name}", name)

    body = None if probe.body is None else orjson.loads(fill(orjson.dumps(probe.body).decode()))
    return await http.request(probe.method, fill(probe.path), json=body)


async def prepare(world: TenantsWorld) -> None:
    """Two keys for each tenant; the victim has signed under an idempotency key."""
    for tenant in ("left", "right"):
        for name in ("signing-1", "pub-1"):
            await world.create(tenant, name)
    async with world.caller("/workload/left") as victim:
        answer = await send(victim, PROBES["sign under the victim's idempotency key"], EXISTING)
    assert answer.status_code == 200, answer.text
    world.seconds += 60  # so that what this took counts no more


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[TenantsWorld]:
    """A service with these keys."""
    async with tenants_world(tmp_path) as made:
        await prepare(made)
        yield made


@pytest.fixture
async def attacker(world: TenantsWorld) -> AsyncIterator[httpx.AsyncClient]:
    """The other tenant's workload, which may do everything with its own keys."""
    async with world.caller("/workload/right") as http:
        yield http


def seen(answer: httpx.Response) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """All of an answer that a caller can look at, but for the number that every request has."""
    headers = [(name, value) for name, value in sorted(answer.headers.raw) if name != b"x-request-id"]
    return answer.status_code, answer.content, headers


async def test_existing_missing_and_no_tenant_look_the_same(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """Status, every header and every octet of the answer; as many commits and queries; one audit record each."""
    for what, probe in PROBES.items():
        world.seconds += 1
        answers, works = [], []
        for key_id in (EXISTING, MISSING, NO_TENANT, EXISTING):
            before = world.work()
            answers.append(await send(attacker, probe, key_id))
            works.append((world.work()[0] - before[0], world.work()[1] - before[1]))
        assert (answers[0].status_code, answers[0].json()["type"]) == (403, "urn:pqcpki:problem:forbidden"), what
        assert [seen(answer) for answer in answers] == [seen(answers[0])] * 4, what
        assert works == [(1, 0)] * 4, what
    records = [stored.record async for stored in audit_records(world.database)][-4 * len(PROBES) :]
    assert {(record.actor, record.detail["result"], record.detail["reason"]) for record in records} == {
        ("spiffe://test/workload/right", "refused", "no-rule")
    }


async def test_keys_outside_of_a_callers_globs_look_the_same(world: TenantsWorld) -> None:
    """Within one tenant too: who may use `pub-*` learns nothing of other names."""
    async with world.caller("/workload/left-some") as http:
        for what in [what for what in PROBES if not what.startswith("list")]:
            world.seconds += 1
            answers = [await send(http, PROBES[what], key_id) for key_id in (EXISTING, MISSING)]
            assert answers[0].status_code == 403, what
            assert seen(answers[0]) == seen(answers[1]), what


async def test_nothing_was_done_by_any_probe(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """After all of them the victim's keys are what they were."""
    async with world.caller("/workload/left") as victim:
        before = (await victim.get("/v1/keys?tenant=left")).content
        for probe in PROBES.values():
            await send(attacker, probe, EXISTING)
            await send(attacker, probe, MISSING)
        assert (await victim.get("/v1/keys?tenant=left")).content == before


async def test_lists_show_ones_own_only(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """Whatever the cursor: one that names another tenant's key, existing or not, opens nothing."""
    for after in (None, EXISTING, MISSING, "left.a", "a.a", "right.a"):
        answer = await attacker.get("/v1/keys", params={"tenant": "right"} | ({"after": after} if after else {}))
        assert answer.status_code == 200
        assert {key["id"] for key in answer.json()["keys"]} == {"right.pub-1", "right.signing-1"}
    async with world.caller("/workload/left-some") as some:
        listed = (await some.get("/v1/keys?tenant=left")).json()
    assert [key["id"] for key in listed["keys"]] == ["left.pub-1"]
    assert listed["next"] is None


async def test_odd_spellings_name_nothing(attacker: httpx.AsyncClient) -> None:
    """A key has one spelling; others are malformed or refused, never another way to the same key."""
    spellings = (
        "left.signing-1.x",
        "left.",
        ".signing-1",
        "LEFT.signing-1",
        "left%2esigning-1",
        "right.%2e%2e",
        "l*.a",
    )
    for key_id in spellings:
        for path in (f"/v1/keys/{key_id}", f"/v1/keys/{key_id}/pubkey", f"/pubkey?key={key_id}"):
            assert (await attacker.get(path)).status_code in {400, 403, 404}, path


async def test_health_and_back_ends_of_others_stay_unknown(tmp_path: Path) -> None:
    """A caller sees its tenants' back ends, can put no key elsewhere, and is not told what else there is."""
    async with tenants_world(tmp_path, files=True) as world, world.caller("/workload/right") as attacker:
        await world.create("left", "signing-1")
        await back_ends_of_others_stay_unknown(world, attacker)


async def back_ends_of_others_stay_unknown(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """To `right`, while `left` has a key."""
    health = (await attacker.get("/health")).json()
    assert set(health["backends"]) == {"beta"}
    assert health["backends"]["beta"]["detail"].keys() == {"breaker", "directory"}  # no count of what others have or do
    answers = []
    for backend in ("alpha", "gamma"):
        body = {"tenant": "right", "name": "x", "algorithm": "ecdsa-p256", "backend": backend, "idempotency_key": "x"}
        answers.append(await attacker.post("/v1/keys", json=body))
    assert answers[0].status_code == 501
    assert answers[0].content == answers[1].content
    assert b"alpha" not in answers[0].content
    async with world.caller("/workload/nobody") as stranger:
        assert (await stranger.get("/health")).json()["backends"] == {}


async def test_keys_in_a_directory_that_was_not_mounted_are_not_destroyed(tmp_path: Path) -> None:
    """A start over an empty directory says where its keys are; destroyed is what was there to be destroyed."""
    state, away = tmp_path / "state", tmp_path / "away"
    state.mkdir()
    async with tenants_world(state, files=True) as world:
        await world.create("right", "pub-1")
    (state / "beta").rename(away)
    async with tenants_world(state, files=True) as world, world.caller("/workload/right-some") as http:
        seen = (await http.get("/health")).json()
        assert (seen["status"], seen["backends"]["beta"]["ready"]) == ("degraded", False)
        answer = await http.post("/v1/keys/right.pub-1/destroy", json={"idempotency_key": "d"})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:pqcpki:problem:backend-unavailable")
        assert (await http.get("/v1/keys/right.pub-1")).json()["state"] == "destroying"
    shutil.rmtree(state / "beta")
    away.rename(state / "beta")
    async with tenants_world(state, files=True) as world, world.caller("/workload/right-some") as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        await world.core.versions.recover()
        gone = (await http.get("/v1/keys/right.pub-1")).json()["versions"][0]
    assert gone["destruction"]["proof"]["file"] == "right.pub-1.v1.key"
    assert gone["destruction"]["proof"]["directory"] == gone["evidence"]["directory"]


async def test_idempotency_keys_are_each_callers_own(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """The victim's idempotency key is free for the attacker's keys, and gives no signature of the victim's."""
    probe = PROBES["sign under the victim's idempotency key"]
    own = await send(attacker, probe, "right.signing-1")
    assert own.status_code == 200, own.text
    async with world.caller("/workload/left") as victim:
        victims = await send(victim, probe, EXISTING)
    assert own.json()["signature"] != victims.json()["signature"]
    await _verify(attacker, "right.signing-1", own.json()["signature"])
    async with world.caller("/workload/left-some") as colleague:
        assert (await send(colleague, probe, "left.pub-1")).status_code == 200


async def _verify(http: httpx.AsyncClient, key_id: str, signature: str) -> None:
    answer = (await http.get(f"/v1/keys/{key_id}/pubkey")).json()
    key = serialization.load_der_public_key(base64.b64decode(answer["public_key"]))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    digest = base64.b64decode(DIGEST)
    key.verify(base64.b64decode(signature), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


async def test_an_approver_approves_for_its_own_tenant(world: TenantsWorld) -> None:
    """The other tenant's operator cannot; nor do approvals for a key of the same name in its own tenant count."""
    destroy = {"version": 1, "idempotency_key": "gone"}
    async with (
        world.caller("/workload/left") as victim,
        world.caller("/operator/right") as foreign,
        world.caller("/operator/left") as own,
    ):
        assert (await send(foreign, PROBES["approve"], EXISTING)).status_code == 403
        assert (await send(foreign, PROBES["approve"], "right.signing-1")).status_code == 201
        assert (await foreign.get("/v1/approvals?tenant=left")).status_code == 403
        refused = await victim.post(f"/v1/keys/{EXISTING}/destroy", json=destroy)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:pqcpki:problem:approvals-missing")
        assert (await send(own, PROBES["approve"], EXISTING)).status_code == 201
        listed = (await foreign.get("/v1/approvals?tenant=right")).json()
        assert {item["key"] for item in listed["approvals"]} == {"right.signing-1"}
        assert (await victim.post(f"/v1/keys/{EXISTING}/destroy", json=destroy)).status_code == 200


async def test_a_hammering_tenant_costs_the_other_nothing(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """While one tenant is far over its rate, the other has its whole burst and then its whole rate."""
    async with world.caller("/workload/left") as victim:
        hammered = Counter([(await send(attacker, PROBES["sign"], "right.signing-1")).status_code for _ in range(120)])
        assert hammered == {200: BURST, 429: 120 - BURST}
        assert {(await send(victim, PROBES["sign"], EXISTING)).status_code for _ in range(BURST)} == {200}
        world.seconds += 1
        for _ in range(10):
            await send(attacker, PROBES["sign"], "right.signing-1")
            assert (await send(victim, PROBES["sign"], EXISTING)).status_code == 200


async def test_refused_requests_drain_nobody(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """However many foreign requests are refused, the victim has its whole burst."""
    for _ in range(3):
        answers = [(await send(attacker, PROBES["sign"], EXISTING)).status_code for _ in range(60)]
        assert set(answers) <= {403, 429}
        world.seconds += 1
    async with world.caller("/workload/left") as victim:
        assert {(await send(victim, PROBES["sign"], EXISTING)).status_code for _ in range(BURST)} == {200}


async def test_places_under_way_are_each_tenants_own(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """Of thirty requests of one tenant at once most are told to wait; the other tenant's two are served."""
    async with world.caller("/workload/left") as victim:
        sent = [send(attacker, PROBES["sign"], "right.signing-1") for _ in range(30)]
        sent += [send(victim, PROBES["sign"], EXISTING) for _ in range(2)]
        answers = await asyncio.gather(*sent)
    codes = Counter(answer.status_code for answer in answers[:30])
    assert codes[503] > 0
    assert codes[200] >= 2
    assert codes[200] + codes[503] == 30
    assert {answer.json()["type"] for answer in answers[:30] if answer.status_code == 503} == {
        "urn:pqcpki:problem:busy"
    }
    assert [answer.status_code for answer in answers[30:]] == [200, 200]


async def test_places_for_keys_are_each_tenants_own(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """A tenant that has filled its places cannot make more, and takes none of another's."""
    for number in range(2, 6):
        body = {"tenant": "right", "name": f"k-{number}", "algorithm": "ecdsa-p256", "idempotency_key": f"n{number}"}
        made = await attacker.post("/v1/keys", json=body)
        assert made.status_code == (201 if number < 4 else 409)
    await world.create("left", "another")


async def test_a_tenant_does_not_rotate_for_ever(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """A key has so many versions, and one place more for each that is destroyed."""
    rotate = "/v1/keys/right.pub-1/rotate"
    statuses = [(await attacker.post(rotate, json={"idempotency_key": f"r{n}"})).status_code for n in range(4)]
    assert statuses == [200, 200, 409, 409]
    async with world.caller("/workload/right-some") as other:
        gone = await other.post("/v1/keys/right.pub-1/destroy", json={"version": 1, "idempotency_key": "d"})
        assert gone.status_code == 200, gone.text
    statuses = [(await attacker.post(rotate, json={"idempotency_key": f"s{n}"})).status_code for n in range(2)]
    assert statuses == [200, 409]


async def test_a_bad_token_is_refused_alike_for_any_key(attacker: httpx.AsyncClient) -> None:
    """It is no fall-back to the certificate, for one's own key either, and tells nothing of others'."""
    attacker.headers["authorization"] = "Bearer a.b.c"
    answers = [await send(attacker, PROBES["show"], key) for key in ("right.signing-1", EXISTING, MISSING, NO_TENANT)]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


_JOBS = """
[[rules]]
id = "left-jobs"
tenant = "left"
callers = ["spiffe://test/workload/right"]
subjects = [{ issuer = "https://ci.test", subject = "job" }]
acts = ["sign"]
keys = ["pub-*"]
kinds = ["digest"]
"""


async def test_a_token_opens_what_its_rule_says(tmp_path: Path) -> None:
    """In its tenant alone; it takes the bearer's own rights away, and stands in the record."""
    key, jwks = JoseKey.generate(), tmp_path / "jwks.json"
    jwks.write_bytes(orjson.dumps({"keys": [key.jwk | {"kid": "1"}]}))
    issuer = OidcIssuerSettings.model_validate(
        {"issuer": "https://ci.test", "audience": "signer-hsm", "jwks_file": jwks}
    )
    at = unix(ManualClock().now())
    claims = {"iss": "https://ci.test", "aud": "signer-hsm", "sub": "job", "iat": at, "exp": at + 60}
    token = key.jws(orjson.dumps(claims), {"alg": "ES256", "kid": "1"})
    async with (
        tenants_world(tmp_path, issuers=[issuer], more_rules=_JOBS) as world,
        world.caller("/workload/right") as http,
    ):
        await prepare(world)
        http.headers["authorization"] = f"Bearer {token['protected']}.{token['payload']}.{token['signature']}"
        assert (await send(http, PROBES["sign"], "left.pub-1")).status_code == 200
        refused = [await send(http, PROBES["sign"], key_id) for key_id in (EXISTING, MISSING, "right.signing-1")]
        assert [seen(answer) for answer in refused] == [seen(refused[0])] * 3
        records = [stored.record async for stored in audit_records(world.database)][-4:]
    assert [record.detail["result"] for record in records] == ["allowed", *["refused"] * 3]
    assert {orjson.dumps(record.detail["subject"]) for record in records} == {
        b'{"issuer":"https://ci.test","subject":"job"}'
    }


async def test_times_tell_nothing(world: TenantsWorld, attacker: httpx.AsyncClient) -> None:
    """Interleaved refusals for existing and missing keys differ by less than half of what one takes, in the median."""
    took: dict[str, list[float]] = {EXISTING: [], MISSING: []}
    for _ in range(100):
        for key_id, times in took.items():
            world.seconds += 1
            began = time.perf_counter()
            await send(attacker, PROBES["show"], key_id)
            times.append(time.perf_counter() - began)
    medians = [statistics.median(times) for times in took.values()]
    assert abs(medians[0] - medians[1]) < min(medians) / 2
