from __future__ import annotations

from datetime import timedelta

import pytest

from services.acme.errors import AcmeError, ValidationError, ValidationFailure
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_orders import challenge_of, csr_for, ready_order
from tests.support.acme_server import AcmeServer


@pytest.mark.requirement("rfc8555-8-01", "rfc8555-8-02", "rfc8555-7.1.4-01", "rfc8555-7.5.1-04")
async def test_a_quick_challenge_is_answered_with_its_outcome(server: AcmeServer) -> None:
    """The answer to `{}` is the valid challenge, with the link to its authorization that certbot needs."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    authorization = await client.read(order.body["authorizations"][0])
    challenge = client.challenge(authorization, "http-01")
    response = await client.post(challenge.url, {})
    document = response.json()
    assert (response.status_code, document["status"], document["url"]) == (200, "valid", challenge.url)
    assert document["validated"] == "2030-01-01T00:00:00Z"
    assert "error" not in document
    assert f'<{authorization.url}>;rel="up"' in response.headers.get_list("link")
    assert "retry-after" not in response.headers
    decided = await client.read(authorization.url)
    assert decided.body["challenges"] == [document]
    assert decided.body["expires"] == "2030-01-08T00:00:00Z"
    assert (decided.status, (await client.read(order.url)).status) == ("valid", "ready")
    attempt = server.validator.attempts[0]
    assert (attempt.type, attempt.identifier.value, attempt.wildcard) == ("http-01", "a.example", False)
    assert (attempt.token, attempt.key_authorization) == (challenge.token, challenge.key_authorization)
    assert attempt.account_url == client.kid


@pytest.mark.requirement("rfc8555-6.3-05")
async def test_reading_a_challenge_starts_nothing(server: AcmeServer) -> None:
    """POST-as-GET of a challenge shows it and does not validate."""
    client = await server.registered()
    url = await challenge_of(client, await client.new_order(["a.example"]))
    response = await client.post(url)
    assert response.json()["status"] == "pending"
    assert not server.validator.attempts


@pytest.mark.requirement("rfc8555-7.5.1-01", "rfc8555-7.5.1-02")
async def test_older_clients_answer_with_more(server: AcmeServer) -> None:
    """An answer with keyAuthorization in it is an answer; one that is no object is malformed."""
    client = await server.registered()
    url = await challenge_of(client, await client.new_order(["a.example"]))
    assert (await client.post_raw(url, [])).status_code == 400
    assert not server.validator.attempts
    assert (await client.post(url, {"keyAuthorization": "x"})).json()["status"] == "valid"


@pytest.mark.requirement("rfc8555-8-02", "rfc8555-8-03", "rfc8555-7.5.1-05", "rfc8555-8.2-04")
@pytest.mark.parametrize("kind", ["connection", "dns", "unauthorized", "incorrectResponse", "caa", "malformed"])
async def test_a_failed_challenge_ends_the_order(server: AcmeServer, kind: ValidationFailure) -> None:
    """A failed validation makes challenge, authorization and order invalid, each saying why, in one commit."""
    client = await server.registered()
    server.validator.failures["a.example"] = ValidationError(kind, "no luck")
    order = await client.new_order(["a.example", "b.example"])
    server.commits.clear()
    url = await challenge_of(client, order)
    answer = (await client.post(url, {})).json()
    assert answer["status"] == "invalid"
    assert (answer["error"]["type"], answer["error"]["detail"]) == (f"urn:ietf:params:acme:error:{kind}", "no luck")
    assert server.commits == ["challenge-invalid"]
    authorization = await client.read(order.body["authorizations"][0])
    assert (authorization.status, authorization.body["challenges"]) == ("invalid", [answer])
    failed = await client.read(order.url)
    assert failed.status == "invalid"
    assert failed.body["error"]["subproblems"][0]["identifier"] == {"type": "dns", "value": "a.example"}
    assert (await client.post(url, {})).json() == answer
    assert len(server.validator.attempts) == 1


async def test_a_validator_that_breaks_fails_the_challenge_only(server: AcmeServer) -> None:
    """An unknown fault of the validator is serverInternal in the challenge, without its text, and no order hangs."""
    client = await server.registered()
    server.validator.failures["a.example"] = RuntimeError("secret detail")
    url = await challenge_of(client, await client.new_order(["a.example"]))
    answer = await client.post(url, {})
    assert answer.json()["error"]["type"].endswith(":serverInternal")
    assert "secret" not in answer.text


async def test_a_busy_validator_asks_to_come_back(server: AcmeServer) -> None:
    """Where nothing could be tried the client gets rateLimited, and the challenge stays pending for another try."""
    client = await server.registered()
    limited = AcmeError("rateLimited", "too many", headers=[(b"retry-after", b"5")])
    server.validator.failures["a.example"] = limited
    url = await challenge_of(client, await client.new_order(["a.example"]))
    response = await client.post_raw(url, {})
    assert (response.status_code, response.headers["retry-after"]) == (429, "5")
    assert (await client.post(url)).json()["status"] == "pending"
    assert (await client.post(url, {})).json()["status"] == "valid"


@pytest.mark.requirement("rfc8555-7.5.1-07")
async def test_a_slow_challenge_goes_on_by_itself(hasty: AcmeServer) -> None:
    """A validation that takes longer is processing with Retry-After, is tried once, and ends without the client."""
    client = await hasty.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    hasty.validator.gate.clear()
    for _ in range(2):
        response = await client.post(url, {})
        assert (response.json()["status"], response.headers["retry-after"]) == ("processing", "2")
    poll = await client.post_raw(order.body["authorizations"][0])
    assert (poll.status_code, poll.json()["status"]) == (200, "pending")
    hasty.validator.gate.set()
    await client.wait(order.url, {"pending"})
    assert (await client.post(url)).json()["status"] == "valid"
    assert len(hasty.validator.attempts) == 1


async def test_a_validation_survives_a_restart(hasty: AcmeServer) -> None:
    """What was processing when the server stopped is tried again after the start."""
    client = await hasty.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    hasty.validator.gate.clear()
    assert (await client.post(url, {})).json()["status"] == "processing"
    restarted = await hasty.restart()
    hasty.validator.gate.set()
    client.http = restarted.http
    assert (await client.wait(order.url, {"pending"})).status == "ready"
    await restarted.stop()


async def test_two_challenges_of_one_authorization(hasty: AcmeServer) -> None:
    """The first proof counts; a second one that ends later changes nothing."""
    client = await hasty.registered()
    order = await client.new_order(["a.example"])
    authorization = await client.read(order.body["authorizations"][0])
    hasty.validator.gate.clear()
    for kind in ("http-01", "dns-01"):
        await client.post(client.challenge(authorization, kind).url, {})
    hasty.validator.gate.set()
    await client.wait(order.url, {"pending"})
    decided = await client.read(authorization.url)
    assert decided.status == "valid"
    assert len(decided.body["challenges"]) == 1


@pytest.mark.requirement("rfc8555-7.5.2-02")
async def test_deactivated_authorizations_are_worthless(server: AcmeServer) -> None:
    """A deactivated authorization ends its order, whether it was pending or valid, and cannot be tried again."""
    client = await server.registered()
    for order in (await client.new_order(["a.example"]), await ready_order(client, "a.example")):
        url = order.body["authorizations"][0]
        challenge = (await client.read(url)).body["challenges"][0]["url"]
        answer = await client.post(url, {"status": "deactivated"})
        assert answer.json()["status"] == "deactivated"
        assert (await client.read(order.url)).status == "invalid"
        with pytest.raises(AcmeProblemError) as refused:
            await client.finalize(order, csr_for("a.example"))
        assert (refused.value.status, refused.value.kind) == (403, "orderNotReady")
        again = await client.post_raw(url, {"status": "deactivated"})
        assert again.status_code == 400
        if order.status == "pending":
            assert (await client.post_raw(challenge, {})).status_code == 400
    assert not server.ca.requests


@pytest.mark.parametrize("payload", [{}, {"status": "valid"}, {"status": None}, {"status": ["deactivated"]}])
async def test_authorizations_change_one_way(server: AcmeServer, payload: object) -> None:
    """The only status a client can give an authorization is deactivated."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    response = await client.post_raw(order.body["authorizations"][0], payload)
    assert response.status_code == 400
    assert (await client.read(order.url)).status == "pending"


async def test_validation_after_deactivation_comes_too_late(hasty: AcmeServer) -> None:
    """A proof that arrives when the authorization is given up makes nothing valid."""
    client = await hasty.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    hasty.validator.gate.clear()
    await client.post(url, {})
    await client.post(order.body["authorizations"][0], {"status": "deactivated"})
    hasty.validator.gate.set()
    await hasty.settled(lambda: not hasty.service.background.is_busy)
    assert (await client.read(order.url)).status == "invalid"
    assert (await client.read(order.body["authorizations"][0])).status == "deactivated"


@pytest.mark.requirement("rfc8555-7.4-03")
async def test_expiry_is_judged_at_use(server: AcmeServer) -> None:
    """After its time a pending order cannot be proved, a ready one not finalized; nothing had to be cleaned up."""
    client = await server.registered()
    pending, ready = await client.new_order(["a.example"]), await ready_order(client, "b.example")
    challenge = await challenge_of(client, pending)
    server.clock.advance(timedelta(days=7))
    attempts = len(server.validator.attempts)
    assert (await client.post_raw(challenge, {})).status_code == 400
    assert len(server.validator.attempts) == attempts
    assert (await client.read(pending.url)).status == "invalid"
    assert (await client.read(pending.body["authorizations"][0])).status == "invalid"
    assert (await client.read(ready.body["authorizations"][0])).status == "expired"
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(ready, csr_for("b.example"))
    assert refused.value.kind == "orderNotReady"
    assert not server.ca.requests
