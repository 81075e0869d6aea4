"""What hostile, careless and foreign callers get from `/v1/signatures`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from services.signing.callers import Scopes
from services.signing.decisions import REFUSALS_PER_SECOND
from services.signing.quotas import Quota
from services.signing.wire import MAX_REQUEST
from tests.contract.test_signing_api import provenance
from tests.support.sboms import cyclonedx
from tests.support.signing_world import (
    GLOBEX,
    OPERATOR,
    POLICIES,
    QUOTA,
    STRANGER,
    SigningWorld,
    make_key,
    request,
    subject,
)

JSON = {"content-type": "application/json"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service."""
    opened = await SigningWorld.open(tmp_path)
    yield opened
    await opened.close()


async def post(world: SigningWorld, body: object, **headers: str) -> httpx.Response:
    """A request to sign, whatever it is."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    async with world.http() as http:
        return await http.post("/v1/signatures", content=content, headers=JSON | headers)


def _digest(name: str, text: str) -> dict[str, Any]:
    return request() | {"subjects": [{"name": "x", "digest": {name: text}}]}


BAD: dict[str, Callable[[], object]] = {
    "no JSON": lambda: b"{",
    "a list": list,
    "a member twice": lambda: b'{"profile":"default",' + orjson.dumps(request())[1:],
    "a nested member twice": lambda: orjson.dumps(request()).replace(b'"sha256":', b'"sha256":"00","sha256":'),
    "an unknown member": lambda: request(colour="red"),
    "no subjects": lambda: request() | {"subjects": []},
    "too many subjects": lambda: request() | {"subjects": [subject(b"x", str(number)) for number in range(1025)]},
    "two subjects of one name": lambda: request() | {"subjects": [subject(b"a"), subject(b"b")]},
    "a digest that is too short": lambda: _digest("sha256", "00" * 31),
    "a digest that is too long": lambda: _digest("sha256", "00" * 33),
    "a digest in upper case": lambda: _digest("sha256", "AB" * 32),
    "a digest without sha256": lambda: _digest("sha512", "00" * 64),
    "an unknown digest": lambda: _digest("md5", "00" * 16),
    "profile and key": lambda: request(key="acme.artefact-es256"),
    "profile and identity": lambda: request(identity=True),
    "neither": lambda: {"subjects": [subject()]},
    "a profile that is none": lambda: request(profile="../default"),
    "an unknown format": lambda: request(formats=["pgp"]),
    "a format twice": lambda: request(formats=["raw", "raw"]),
    "no formats": lambda: request(formats=[]),
    "an SBOM without content": lambda: request(sbom={"media_type": "x"}),
    "an SBOM that is a number": lambda: request(sbom={"content": 1}),
    "an SBOM in bad base64": lambda: request(sbom={"content": "e30"}),
    "a context of numbers": lambda: request(context={"ticket": 1}),
    "a context with a control character": lambda: request(context={"ticket": "a\x00b"}),
    "a resource URI that is none": lambda: request(context={"resource_uri": "not a uri"}),
    "mu of another length": lambda: request(mu={"acme.artefact-mldsa65": base64.b64encode(b"x" * 63).decode()}),
    "mu for several subjects": lambda: request(
        b"a", b"b", profile="hybrid", mu={"acme.artefact-mldsa65": base64.b64encode(b"x" * 64).decode()}
    ),
    "mu for a key that takes none": lambda: request(mu={"acme.artefact-es256": base64.b64encode(b"x" * 64).decode()}),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_request_that_makes_no_sense_is_refused(world: SigningWorld, name: str) -> None:
    """By 400 with a sentence, before anything is decided or signed."""
    answer = await post(world, BAD[name]())
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"]
    assert (world.commits, world.signer.asked) == ([], 0)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"profile": "nothing"}, 404, "key-not-found"),
        ({"profile": None, "key": "acme.nothing"}, 404, "key-not-found"),
        ({"profile": None, "key": "globex.artefact-es256"}, 404, "key-not-found"),
        ({"profile": None, "key": "signing.log"}, 404, "key-not-found"),
        ({"profile": "hybrid", "formats": ["raw"]}, 422, "digest-missing"),
        ({"formats": ["composite"]}, 422, "not-offered"),
        ({"formats": ["cms"]}, 422, "unsupported"),
        ({"formats": ["raw"], "sbom": {"content": {}}}, 422, "not-offered"),
        ({"profile": None, "identity": True}, 403, "identity-needed"),
        ({"formats": ["dsse"], "sbom": {"content": {"hello": "world"}}}, 422, "bad-sbom"),
        ({"formats": ["dsse"], "provenance": {"content": provenance(b"another")}}, 422, "subject-mismatch"),
        ({"formats": ["dsse"], "provenance": {"content": provenance()}}, 400, "malformed"),
    ],
)
async def test_what_cannot_be_signed_is_refused(
    world: SigningWorld, change: dict[str, Any], status: int, kind: str
) -> None:
    """With a problem that says which; nothing was signed, and no file is left."""
    answer = await post(world, {name: value for name, value in (request() | change).items() if value is not None})
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:pqcpki:problem:{kind}"), answer.text
    assert world.signer.asked == 0
    assert "signature" not in world.commits
    assert world.files() == []


async def test_a_digest_that_the_key_needs_is_named(world: SigningWorld) -> None:
    """A P-384 key signs SHA-384: the refusal says so, and a request that has it is signed."""
    await make_key(world.signer_world, "acme.p384", "ecdsa-p384")
    artefact = subject()
    asked = {"subjects": [artefact], "key": "acme.p384", "formats": ["raw"]}
    answer = await post(world, asked)
    assert answer.status_code == 422
    assert "sha384" in answer.json()["detail"]
    artefact["digest"]["sha384"] = "00" * 48
    assert (await post(world, asked)).status_code == 201


async def test_callers_without_one_good_credential_get_nowhere(world: SigningWorld) -> None:
    """None, a bad one, two at once, or one of nobody: 401 before the body is read."""
    shown: list[dict[str, Any]] = [{"peer": None}, {"peer": STRANGER}, {"peer": None, "authorization": "Bearer x"}]
    shown.append({"peer": OPERATOR, "authorization": "Bearer x"})
    for who in shown:
        async with world.http(**who) as http:
            for method, url in (("POST", "/v1/signatures"), ("GET", "/v1/signatures"), ("GET", "/v1/api-keys")):
                answer = await http.request(method, url, content=b"{" if method == "POST" else None, headers=JSON)
                assert answer.status_code == 401, (who, method, url)
                assert answer.headers["www-authenticate"].startswith("Bearer")
    assert world.commits == []


async def test_bad_credentials_have_their_budget(world: SigningWorld) -> None:
    """So many of an address in a second, then 429; a good one from there is let in all the same."""
    async with world.http(STRANGER) as http:
        answers = [(await http.get("/v1/signatures")).status_code for _ in range(REFUSALS_PER_SECOND + 3)]
    assert answers == [401] * REFUSALS_PER_SECOND + [429] * 3
    assert (await world.fetch("/v1/signatures")).status_code == 200


async def test_another_tenants_signature_looks_like_none(world: SigningWorld) -> None:
    """The same answer, octet for octet, for record and artefact."""
    record = await world.sign(request(formats=["raw"]))
    unknown = record.id[:-1] + ("0" if record.id[-1] != "0" else "1")
    for url in (record.urls["self"], record.signatures[0].url):
        theirs = await world.fetch(url, GLOBEX)
        nobodys = await world.fetch(url.replace(record.id, unknown), GLOBEX)
        assert (theirs.status_code, theirs.content) == (nobodys.status_code, nobodys.content) == (404, theirs.content)


async def test_a_refusal_of_the_policy_is_on_record(world: SigningWorld) -> None:
    """The forbidding policy is in the audit log, not in the answer; beyond the budget nothing is even decided."""
    await make_key(world.signer_world, "acme.secret", "ecdsa-p256")
    asked = {"subjects": [subject()], "key": "acme.secret", "formats": ["raw"]}
    answer = await post(world, asked)
    assert answer.status_code == 403
    assert "not-the-secret-key" not in answer.text
    (decision,) = await world.audit("sign.decision")
    assert decision["answers"][0]["policies"] == ["not-the-secret-key"]
    assert decision["answers"][0]["result"] == "refused"
    answers = [(await post(world, asked)).status_code for _ in range(REFUSALS_PER_SECOND + 2)]
    assert answers == [403] * (REFUSALS_PER_SECOND - 1) + [429] * 3
    assert world.signer.asked == 0


async def test_scopes_narrow_what_the_policy_grants(world: SigningWorld) -> None:
    """A key for reading does not sign, and one for another key does not sign with this."""
    for scopes in (Scopes(actions=frozenset({"read"})), Scopes(frozenset({"sign"}), frozenset({"release-*"}))):
        async with world.http(api_key=await world.api_key(scopes=scopes)) as http:
            assert (await http.post("/v1/signatures", json=request(formats=["raw"]))).status_code == 403


async def test_a_key_for_signing_reads_what_it_signed_and_nothing_else(world: SigningWorld) -> None:
    """Its own record and artefacts; another caller's, the search and its tenant's list stay closed to it."""
    scopes = Scopes(frozenset({"sign"}), frozenset({"artefact-*"}), frozenset({"raw"}))
    others = await world.sign(request(formats=["raw"]))
    async with world.http(api_key=await world.api_key(scopes=scopes)) as http:
        record = (await http.post("/v1/signatures", json=request(formats=["raw"]))).json()
        assert (await http.get(record["urls"]["self"])).json() == record
        signature = await http.get(record["signatures"][0]["url"])
        assert base64.b64encode(signature.content).decode() == record["signatures"][0]["signature"]
        refused = [others.urls["self"], others.signatures[0].url, f"/v1/signatures/{'0' * 26}", "/v1/signatures"]
        answers = [await http.get(url) for url in refused]
        assert [answer.status_code for answer in answers] == [403] * len(refused)
        assert len({answer.content for answer in answers}) == 1
    async with world.http(api_key=await world.api_key(scopes=scopes)) as another:
        assert (await another.get(record["urls"]["self"])).status_code == 403


async def test_what_the_policy_forbids_is_not_read_by_its_maker_either(tmp_path: Path) -> None:
    """Scopes leave a maker its own records; policies go before that."""
    forbids = '@id("no-reading") forbid (principal, action == Action::"read", resource);'
    world = await SigningWorld.open(tmp_path, policies={**POLICIES, "third.cedar": forbids})
    async with world.http(api_key=await world.api_key(scopes=Scopes(frozenset({"sign"})))) as http:
        record = (await http.post("/v1/signatures", json=request(formats=["raw"]))).json()
        assert (await http.get(record["urls"]["self"])).status_code == 403
    (refused,) = await world.audit("read.decision")
    assert refused["answers"][0]["policies"] == ["no-reading"]
    await world.close()


async def test_an_api_key_acts_for_its_tenant_alone(world: SigningWorld) -> None:
    """Records of another one are not there for it, and it cannot make keys beyond its own scopes."""
    record = await world.sign(request(formats=["raw"]))
    async with world.http(api_key=await world.api_key("globex")) as http:
        assert (await http.get(record.urls["self"])).status_code == 404
        wanted = {"scopes": {"actions": ["manage_api_keys"]}, "life_seconds": 60}
        assert (await http.post("/v1/api-keys", json=wanted)).status_code == 403


async def test_a_request_that_is_too_long_is_cut_off(world: SigningWorld) -> None:
    """413 without reading on."""
    assert (await post(world, b" " * (MAX_REQUEST + 1))).status_code == 413


async def test_the_same_idempotency_key_has_the_same_answer(world: SigningWorld) -> None:
    """Signed once; the answer is the same octets, from before and at the same time."""
    first = await post(world, request(formats=["raw"]), **{"idempotency-key": "one"})
    assert first.status_code == 201
    together = await asyncio.gather(
        *(post(world, request(formats=["raw"]), **{"idempotency-key": "one"}) for _ in range(4))
    )
    assert {answer.content for answer in together} == {first.content}
    assert world.commits.count("signature") == 1
    others = await asyncio.gather(
        *(post(world, request(b"x", formats=["raw"]), **{"idempotency-key": "two"}) for _ in range(4))
    )
    assert len({answer.content for answer in others}) == 1
    assert world.signer.asked == 2


async def test_an_idempotency_key_with_another_body_is_a_conflict(world: SigningWorld) -> None:
    """409; the same key of another caller is another key; a key twice, or one that is none, is refused."""
    assert (await post(world, request(formats=["raw"]), **{"idempotency-key": "k"})).status_code == 201
    answer = await post(world, request(b"other", formats=["raw"]), **{"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:pqcpki:problem:idempotency-conflict")
    await world.sign(request(b"other", formats=["raw"]), GLOBEX, **{"idempotency-key": "k"})
    assert (await post(world, request(), **{"idempotency-key": "k" * 201})).status_code == 400
    async with world.http() as http:
        headers = [*JSON.items(), ("idempotency-key", "a"), ("idempotency-key", "b")]
        twice = await http.post("/v1/signatures", content=orjson.dumps(request()), headers=headers)
    assert twice.status_code == 400


async def test_a_failed_request_frees_its_idempotency_key(world: SigningWorld) -> None:
    """What was refused can be corrected under the same key."""
    assert (await post(world, request(profile="nothing"), **{"idempotency-key": "k"})).status_code == 404
    assert (await post(world, request(formats=["raw"]), **{"idempotency-key": "k"})).status_code == 201


async def test_a_tenant_has_its_rate_and_its_places(tmp_path: Path) -> None:
    """Beyond them 429 with Retry-After; another tenant is not concerned."""
    world = await SigningWorld.open(tmp_path, quota=QUOTA._replace(per_second=1.0, burst=2))
    answers = [await post(world, request(formats=["raw"])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[2].headers["retry-after"] == "1"
    await world.sign(request(formats=["raw"]), GLOBEX)
    world.monotonic[0] += 1.0
    assert (await post(world, request(formats=["raw"]))).status_code == 201
    await world.close()


async def test_requests_under_way_are_bounded(tmp_path: Path) -> None:
    """While one waits for signer-hsm, a second is told to come back; the place is free afterwards."""
    world = await SigningWorld.open(tmp_path, quota=QUOTA._replace(in_flight=1))
    gate, reached = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await gate.wait()

    world.signer.gate = wait
    first = asyncio.create_task(post(world, request(formats=["raw"])))
    await reached.wait()
    assert (await post(world, request(formats=["raw"]))).status_code == 429
    gate.set()
    assert (await first).status_code == 201
    assert (await post(world, request(formats=["raw"]))).status_code == 201
    await world.close()


async def test_a_tenant_has_so_many_octets_a_day(tmp_path: Path) -> None:
    """Counted over restarts from what is on record; the refused document is not kept."""
    small = Quota(1000.0, 1000, 16, 40_000)
    world = await SigningWorld.open(tmp_path, quota=small)
    body = request(formats=["dsse"], sbom={"content": cyclonedx(components=20)})
    statuses = []
    while 429 not in statuses:
        statuses.append((await post(world, body)).status_code)
        assert len(statuses) < 10
    again = await world.reopen(quota=small)
    answer = await post(again, body)
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:pqcpki:problem:volume-exceeded")
    assert int(answer.headers["retry-after"]) <= 86_400
    await again.close()


async def test_an_answer_from_the_record_costs_no_octets(tmp_path: Path) -> None:
    """A job that repeats its upload under its idempotency key does not use up the day; new uploads do."""
    world = await SigningWorld.open(tmp_path, quota=Quota(1000.0, 1000, 16, 60_000))
    built = provenance(b"an artefact")
    built["predicate"]["buildDefinition"]["externalParameters"] = {"notes": "x" * 6000}
    body = request(b"an artefact", formats=["dsse"], provenance={"content": built})
    first = await post(world, body, **{"idempotency-key": "k"})
    answers = [await post(world, body, **{"idempotency-key": "k"}) for _ in range(12)]
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, first.content)}
    statuses = [(await post(world, body)).status_code for _ in range(8)]
    assert (statuses[0], statuses[-1]) == (201, 429)
    await world.close()
