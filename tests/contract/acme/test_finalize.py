from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.acme.errors import ValidationError
from services.ca.client import BadCsrError, CaRefusedError, ForbiddenError, RejectedNamesError
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_orders import challenge_of, csr_for, ready_order
from tests.support.acme_server import AcmeServer, solve
from tests.support.jose_key import b64u


async def test_finalize_before_ready(server: AcmeServer) -> None:
    """An order that is not ready answers 403 orderNotReady, by exactly that name."""
    client = await server.registered()
    order = await client.new_order(["a.example", "b.example"])
    await client.post(await challenge_of(client, order), {})
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_for("a.example", "b.example"))
    assert (refused.value.status, refused.value.kind) == (403, "orderNotReady")
    assert not server.ca.requests


async def test_finalize_twice_at_once(server: AcmeServer) -> None:
    """Two different CSRs at the same time: one wins, the other is told orderNotReady, one certificate is issued."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    twin = server.client(client.key)
    twin.kid = client.kid
    await twin.nonce()
    answers = await asyncio.gather(
        *(one.post_raw(order.body["finalize"], {"csr": b64u(csr_for("a.example"))}) for one in (client, twin))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    assert len(server.ca.issued) == 1


async def test_the_same_csr_at_once(server: AcmeServer) -> None:
    """Repetitions of finalize that race with the first one are told of the same certificate."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    twins = [server.client(client.key) for _ in range(4)]
    for twin in twins:
        twin.kid = client.kid
        await twin.nonce()
    csr = {"csr": b64u(csr_for("a.example"))}
    answers = await asyncio.gather(*(twin.post_raw(order.body["finalize"], csr) for twin in twins))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["certificate"] for answer in answers}) == 1
    assert len(server.ca.issued) == 1
    assert server.commits.count("order-processing") == 1


async def test_a_lost_answer_does_no_harm(server: AcmeServer) -> None:
    """Repeating finalize with the same CSR tells how the order stands; another CSR is refused."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    csr = csr_for("a.example")
    first = await client.finalize(order, csr)
    again = await client.finalize(order, csr)
    assert first.body == again.body
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_for("a.example"))
    assert refused.value.kind == "orderNotReady"
    assert len(server.ca.requests) == 1


async def test_a_slow_ca(hasty: AcmeServer) -> None:
    """While the CA works the order is processing with Retry-After; then it is valid without another finalize."""
    client = await hasty.registered()
    order = await ready_order(client, "a.example")
    hasty.ca.gate.clear()
    response = await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    assert (response.json()["status"], response.headers["retry-after"]) == ("processing", "2")
    assert response.headers["location"] == order.url
    assert (await client.post(order.url)).headers["retry-after"] == "2"
    hasty.ca.gate.set()
    done = await client.wait(order.url, {"processing"})
    assert done.status == "valid"
    assert "BEGIN CERTIFICATE" in await client.download(done)


async def test_a_ca_that_is_away_is_asked_again(hasty: AcmeServer) -> None:
    """An order waits for a CA that does not answer, and an answer that got lost yields the same certificate."""
    client = await hasty.registered()
    order = await ready_order(client, "a.example")
    hasty.ca.lost_answers = 1
    response = await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    assert response.json()["status"] == "processing"
    assert (await client.wait(order.url, {"processing"})).status == "valid"
    assert len(hasty.ca.issued) == 1
    assert len({request.idempotency_key for request in hasty.ca.requests}) == 1


async def test_caa_is_looked_at_again_where_an_order_waited_for_long(hasty: AcmeServer) -> None:
    """After eight hours: it waits while the records cannot be had, and is refused with what they forbid."""
    client = await hasty.registered()
    orders = [await ready_order(client, name) for name in ("a.example", "b.example")]
    hasty.ca.away = True
    for order in orders:
        csr = csr_for(order.body["identifiers"][0]["value"])
        assert (await client.post(order.body["finalize"], {"csr": b64u(csr)})).json()["status"] == "processing"
    hasty = await hasty.restart()
    await hasty.settled(lambda: len(hasty.ca.requests) >= 4)
    assert not hasty.caa.checks, "the proofs are young"
    await hasty.stop()
    hasty.clock.advance(timedelta(hours=9))
    hasty.caa.refusals["a.example"] = ValidationError("caa", "somebody else's")
    hasty.caa.refusals["b.example"] = ValidationError("dns", "no answer")
    hasty.ca.requests.clear()
    hasty.ca.away = False
    hasty = await hasty.replica()
    client.http = hasty.http
    client.nonces.clear()
    refused = await client.wait(orders[0].url, {"processing"})
    assert (refused.status, refused.body["error"]["type"].rsplit(":", 1)[1]) == ("invalid", "caa")
    assert refused.body["error"]["detail"] == "somebody else's"
    await hasty.settled(lambda: ("b.example", False, "http-01", client.kid) in hasty.caa.checks)
    assert (await client.read(orders[1].url)).status == "processing"
    assert not hasty.ca.requests
    hasty.caa.refusals.clear()
    assert (await client.wait(orders[1].url, {"processing"})).status == "valid"
    await hasty.stop()


async def test_processing_orders_survive_a_restart(hasty: AcmeServer) -> None:
    """An order that was processing when the server stopped is finished after the start, under the same key."""
    client = await hasty.registered()
    order = await ready_order(client, "a.example")
    hasty.ca.away = True
    await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    restarted = await hasty.restart()
    hasty.ca.away = False
    client.http = restarted.http
    assert (await client.wait(order.url, {"processing"})).status == "valid"
    assert len({request.idempotency_key for request in hasty.ca.requests}) == 1
    await restarted.stop()


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (BadCsrError("bad-csr", 400, "no good"), "badCSR"),
        (RejectedNamesError("rejected-names", 400, "no good"), "rejectedIdentifier"),
        (ForbiddenError("forbidden", 403, "secret"), "serverInternal"),
        (CaRefusedError("something-new", 400, "secret"), "serverInternal"),
    ],
)
async def test_a_ca_that_refuses(server: AcmeServer, refusal: CaRefusedError, kind: str) -> None:
    """The CA's no makes the order invalid and says why, as far as it is the client's business."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.refusal = refusal
    failed = await client.finalize(order, csr_for("a.example"))
    assert failed.status == "invalid"
    assert failed.body["error"]["type"].endswith(f":{kind}")
    assert "secret" not in str(failed.body)
    assert "certificate" not in failed.body


@pytest.mark.requirement("rfc8555-7.4-02")
async def test_a_certificate_for_another_key_is_not_delivered(server: AcmeServer) -> None:
    """A CA that answers with the wrong certificate makes the order invalid."""
    client = await server.registered()
    first, second = await ready_order(client, "a.example"), await ready_order(client, "b.example")
    await client.finalize(first, csr_for("a.example"))
    wrong = server.ca.issued[0]
    server.ca.answer_with = wrong
    failed = await client.finalize(second, csr_for("b.example"))
    assert (failed.status, failed.body["error"]["type"].rsplit(":")[-1]) == ("invalid", "serverInternal")


@pytest.mark.requirement("rfc8555-9.1-01", "rfc8555-9.1-02", "rfc8555-9.1-03", "rfc8555-9.1-04")
async def test_the_download(server: AcmeServer) -> None:
    """The chain is PEM, leaf first, without the root, under its own media type."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    response = await client.post(obtained.order.body["certificate"])
    assert response.headers["content-type"] == "application/pem-certificate-chain"
    leaf, issuer = x509.load_pem_x509_certificates(response.content)
    strict = "".join(each.public_bytes(Encoding.PEM).decode() for each in (leaf, issuer))  # lines of 64, nothing else
    assert response.text == strict
    leaf.verify_directly_issued_by(issuer)
    assert issuer.subject != issuer.issuer
