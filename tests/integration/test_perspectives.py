"""Remote perspectives over real mutual TLS and real DNS look-ups; each place sees a DNS of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.challenges.dns01 import txt_value
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.acme.perspectives.corroboration import UNANSWERED, Corroborated
from services.acme.perspectives.remote import RemotePerspective
from services.acme.perspectives.wire import PATH, Verdict, question_of
from services.chassis.audit import audit_records
from tests.support.acme_client import Challenge
from tests.support.acme_orders import csr_for
from tests.support.acme_server import AcmeServer
from tests.support.attempts import attempt
from tests.support.http_challenge import HttpChallengeServer
from tests.support.perspectives_world import Asgi, Perspectives
from tests.support.tls_pki import spiffe

ATTEMPT = attempt("dns-01")
RECORD = "_acme-challenge.site.test"


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Perspectives]:
    """The server alone."""
    async with Perspectives.open(tmp_path) as found:
        yield found


async def two(places: Perspectives) -> list[RemotePerspective]:
    """Two real perspectives, as the server asks them."""
    return [await places.remote(name, await places.listen(name)) for name in ("oslo", "lima")]


def show(places: Perspectives, *names: str, tried: Attempt = ATTEMPT) -> None:
    """Let these places see the proof."""
    for name in names:
        places.dns[name].set(RECORD, TXT=[txt_value(tried.key_authorization)])


def answering(body: bytes, *, status: int = 200, megabytes: int = 0) -> Asgi:
    """An application that answers everything with this, whatever it is asked."""

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
        del scope
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": []})
        for _ in range(megabytes):
            await send({"type": "http.response.body", "body": b" " * (1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": body})

    return application


async def outcome_of(validator: Corroborated) -> tuple[str, tuple[PerspectiveAnswer, ...]]:
    """What comes of the attempt, "valid" or the error type, and what the others saw."""
    try:
        return "valid", await validator.validate(ATTEMPT)
    except ValidationError as error:
        return error.acme_type, error.answers


@pytest.mark.requirement("rfc8555-10.2-01")
@pytest.mark.parametrize(
    ("seen_at", "quorum", "outcome"),
    [
        (("primary", "oslo", "lima"), 2, "valid"),
        (("primary", "oslo"), 1, "valid"),
        (("primary", "oslo"), 2, "dns"),
        (("primary",), 1, "dns"),
        (("oslo", "lima"), 1, "dns"),
    ],
)
async def test_a_hijack_of_one_view_is_detected(
    places: Perspectives, seen_at: tuple[str, ...], quorum: int, outcome: str
) -> None:
    """Who has taken over what the server sees, or some others, has no proof unless a quorum sees it as well."""
    validator = places.corroborated(await two(places), quorum)
    show(places, *seen_at)
    found, answers = await outcome_of(validator)
    assert found == outcome
    if "primary" in seen_at:
        assert {answer.perspective: answer.error for answer in answers} == {
            name: None if name in seen_at else "dns" for name in ("oslo", "lima")
        }


async def test_an_order_of_a_hijacker_fails_and_the_owners_succeeds(places: Perspectives, tmp_path: Path) -> None:
    """The whole server: an order fails for what others see; where they see the proof it succeeds and the CA is told."""
    server = await AcmeServer.start(tmp_path)
    try:
        server.validator.real = places.corroborated(await two(places), 2)
        client = await server.registered()

        async def hijack(challenge: Challenge) -> None:
            places.dns["primary"].set(RECORD, TXT=[challenge.txt_value])

        async def publish(challenge: Challenge) -> None:
            for dns in places.dns.values():
                dns.set(RECORD, TXT=[challenge.txt_value])

        order = await client.new_order(["site.test"])
        await client.authorize(order, hijack, "dns-01")
        authorization = await client.read(order.body["authorizations"][0])
        assert (await client.read(order.url)).status == authorization.status == "invalid"
        problem = authorization.body["challenges"][0]["error"]
        assert problem["type"] == "urn:ietf:params:acme:error:dns"
        assert "only 0 of 2 other places of the network did, where 2 must; at oslo" in problem["detail"]
        assert server.ca.requests == []

        order = await client.new_order(["site.test"])
        await client.authorize(order, publish, "dns-01")
        assert (await client.finalize(await client.read(order.url), csr_for("site.test"))).status == "valid"
        assert server.ca.requests[0].requester["perspectives"] == "site.test oslo=ok lima=ok"
        details = [stored.record.detail async for stored in audit_records(server.database)]
        assert [detail["perspectives"] for detail in details if "perspectives" in detail] == [
            {"oslo": "dns", "lima": "dns"},
            {"oslo": "ok", "lima": "ok"},
        ]
    finally:
        await server.stop()


async def test_a_perspective_dials_no_reserved_address(places: Perspectives) -> None:
    """Each has a guard of its own: what the server may dial, a perspective at another site does not for its sake."""
    async with HttpChallengeServer() as web:
        url = await places.listen("oslo", allowed_networks="", http01_port=web.port)
        tried = attempt("http-01")
        web.answer(tried.token, tried.key_authorization)
        places.dns["oslo"].set("site.test", A=["127.0.0.1"])
        seen = await (await places.remote("oslo", url)).look(tried)
        address = attempt("http-01", Identifier("ip", "127.0.0.1"))
        seen_address = await (await places.remote("oslo", url)).look(address)
        assert (seen.error, seen_address.error) == ("connection", "connection")
        assert "127.0.0.1 (loopback)" in seen.detail
        assert web.connections == 0


@pytest.mark.parametrize("caller", ["perspective-lima", "ca", "workload"])
async def test_only_the_acme_server_may_ask(places: Perspectives, caller: str) -> None:
    """Other services, other perspectives and workloads of the trust domain are refused before anything is looked up."""
    pki, url = places.world.pki, await places.listen("oslo")
    credentials = (
        pki.issuing.issue(uri=spiffe("x").replace("/service/", "/workload/")) if caller == "workload" else None
    )
    remote = await places.remote("oslo", url, credentials=credentials or pki.service(caller))
    show(places, "oslo")
    answer = await remote.http.request(
        "POST", PATH, content=question_of(ATTEMPT), headers={"content-type": "application/json"}, timeout=5
    )
    assert answer.status_code == 403
    assert (await remote.look(ATTEMPT)).error == UNANSWERED
    assert places.dns["oslo"].queries == []


async def test_a_perspective_with_another_identity_is_not_believed(places: Perspectives) -> None:
    """Another service of the trust domain at the perspective's address cannot vouch in its place."""
    show(places, "primary")
    url = await places.listen("oslo")
    show(places, "oslo")
    impostor = await places.remote("lima", url)
    with pytest.raises(ValidationError, match="could not be asked"):
        await places.corroborated([impostor], 1).validate(ATTEMPT)
    assert places.dns["oslo"].queries == []


async def test_a_liar_makes_nothing_valid_alone(places: Perspectives) -> None:
    """A perspective that vouches for everything changes nothing where the server or the quorum sees no proof."""
    proof = Verdict.of(question_of(ATTEMPT), None).to_json()
    liar = await places.remote("oslo", await places.serve("oslo", answering(proof)))
    honest = await places.remote("lima", await places.listen("lima"))
    with pytest.raises(ValidationError):
        await places.corroborated([liar], 1).validate(ATTEMPT)
    show(places, "primary")
    with pytest.raises(ValidationError) as failure:
        await places.corroborated([liar, honest], 2).validate(ATTEMPT)
    assert [answer.error for answer in failure.value.answers] == [None, "dns"]


@pytest.mark.parametrize(
    ("body", "status", "megabytes"),
    [
        (b'{"valid": true}', 200, 0),
        (Verdict.of(question_of(attempt("dns-01", Identifier("dns", "other.test"))), None).to_json(), 200, 0),
        (Verdict.of(question_of(ATTEMPT), None).to_json(), 500, 0),
        (Verdict.of(question_of(ATTEMPT), None).to_json(), 302, 0),
        (Verdict.of(question_of(ATTEMPT), None).to_json(), 201, 0),
        (Verdict.of(question_of(ATTEMPT), None).to_json(), 206, 0),
        (Verdict.of(question_of(ATTEMPT), None).to_json(), 200, 1),
        (b"[" * 4000, 200, 0),
        (b"", 200, 0),
    ],
    ids=["terse", "replayed", "failed", "redirected", "created", "partial", "huge", "nested", "empty"],
)
async def test_an_answer_that_makes_no_sense_is_none(
    places: Perspectives, body: bytes, status: int, megabytes: int
) -> None:
    """What is not a short answer to this very question counts as no answer, and is told of without its content."""
    url = await places.serve("oslo", answering(body, status=status, megabytes=megabytes))
    seen = await (await places.remote("oslo", url)).look(ATTEMPT)
    assert (seen.error, seen.detail) == (UNANSWERED, "it could not be asked")


async def test_a_silent_perspective_has_its_time(places: Perspectives) -> None:
    """One that takes the question and does not answer counts as failed, in time."""

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
        await asyncio.sleep(1)
        await answering(b"")(scope, receive, send)

    remote = await places.remote("oslo", await places.serve("oslo", application), seconds=0.3)
    async with asyncio.timeout(30):
        assert (await remote.look(ATTEMPT)).error == UNANSWERED


async def test_one_that_is_down_counts_as_failed(places: Perspectives) -> None:
    """With one of two out of reach the other one is enough for a quorum of one, and not for both."""
    away = await places.remote("lima", "https://localhost:1")
    here = await places.remote("oslo", await places.listen("oslo"))
    show(places, "primary", "oslo")
    answers = await places.corroborated([away, here], 1).validate(ATTEMPT)
    assert [answer.error for answer in answers] == [UNANSWERED, None]
    with pytest.raises(ValidationError) as failure:
        await places.corroborated([away, here], 2).validate(ATTEMPT)
    assert failure.value.acme_type == UNANSWERED


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 400),
        (b"[]", 400),
        (orjson.dumps(orjson.loads(question_of(ATTEMPT)) | {"resolver": "203.0.113.1"}), 400),
        (b" " * 5000, 413),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(places: Perspectives, body: bytes, status: int) -> None:
    """The perspective tells even the ACME server so, and looks nothing up."""
    remote = await places.remote("oslo", await places.listen("oslo"))
    answer = await remote.http.request(
        "POST", PATH, content=body, headers={"content-type": "application/json"}, timeout=5
    )
    assert answer.status_code == status
    assert places.dns["oslo"].queries == []
