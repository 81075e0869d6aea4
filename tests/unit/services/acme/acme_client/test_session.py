"""The client's requests, before a server that says what a test tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.jose.jws import UnverifiedJws
from services.acme.acme_client.errors import RequestInputError, RequestRefusedError, ServerAnswerError
from services.acme.acme_client.session import (
    MAX_ANSWER,
    NONCE_TRIES,
    ExternalAccount,
    Session,
    http_client,
)

SERVER = "https://ca.test"
DIRECTORY = {name: f"{SERVER}/{name}" for name in ("newNonce", "newAccount", "newOrder")}
KEY = mldsa.MLDSA65PrivateKey.generate()
NONCE = {"Replay-Nonce": "bm9uY2U"}
BAD_NONCE = {"type": "urn:ietf:params:acme:error:badNonce", "detail": "stale"}


def session(
    answer: Callable[[httpx.Request], httpx.Response], waited: list[float] | None = None, **members: object
) -> Session:
    """A session whose requests beyond directory and nonces get this answer."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={**DIRECTORY, **members})
        return httpx.Response(200, headers=NONCE) if request.method == "HEAD" else answer(request)

    http = httpx.Client(transport=httpx.MockTransport(handle))
    pauses: list[float] = [] if waited is None else waited
    return Session(http, f"{SERVER}/directory", KEY, pause=pauses.append)


def test_requests_are_signed_for_their_url() -> None:
    """A POST bears a JWS by the account key for the URL, with the nonce that was given (RFC 8555 §6.2)."""
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/jose+json"
        sent.append(request.content)
        return httpx.Response(200, json={})

    session(answer).post(f"{SERVER}/order", {"a": 1})
    verified = UnverifiedJws.parse(sent[0]).verify(KEY.public_key())
    assert (verified.alg, verified.url, verified.nonce) == ("ML-DSA-65", f"{SERVER}/order", NONCE["Replay-Nonce"])
    assert json.loads(verified.payload) == {"a": 1}


@pytest.mark.parametrize(("refusals", "succeeds"), [(NONCE_TRIES - 1, True), (NONCE_TRIES, False)])
def test_another_nonce_is_tried_a_few_times(refusals: int, succeeds: bool) -> None:  # noqa: FBT001 - a test's parameter
    """`badNonce` leads to another try with the nonce that comes with it, and not to endless ones."""
    tries = iter([httpx.Response(400, json=BAD_NONCE, headers=NONCE)] * refusals + [httpx.Response(200, json={})])
    asked = session(lambda _: next(tries))
    if succeeds:
        assert asked.post(f"{SERVER}/x").status == 200
        return
    with pytest.raises(RequestRefusedError) as caught:
        asked.post(f"{SERVER}/x")
    assert caught.value.kind == "badNonce"


def test_a_refusal_tells_all_reasons_and_moves_no_cursor() -> None:
    """The sentence has the sub-problems, and nothing that a terminal obeys."""
    problem = {
        "type": "urn:ietf:params:acme:error:compound",
        "detail": "no\x1b[2J",
        "subproblems": [{"detail": "a.test"}],
    }
    with pytest.raises(RequestRefusedError) as caught:
        session(lambda _: httpx.Response(403, json=problem)).post(f"{SERVER}/x")
    assert str(caught.value) == "the server refuses: compound: no?[2J; a.test"


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (httpx.Response(200, content=b"x" * (MAX_ANSWER + 1)), "larger than"),
        (httpx.Response(502, content=b"<html>"), "status 502, and the answer is not JSON"),
        (httpx.Response(200, json=[]), "is not a JSON object"),
    ],
    ids=["large", "html", "list"],
)
def test_answers_that_make_no_sense(response: httpx.Response, sentence: str) -> None:
    """What is too large, or no JSON object, is told as such."""
    with pytest.raises(ServerAnswerError, match=sentence):
        session(lambda _: response).post(f"{SERVER}/x").document()


def test_no_answer_names_the_url() -> None:
    """Where nobody answers, the sentence says where."""

    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServerAnswerError, match=f"no answer from {SERVER}/x: refused"):
        session(gone).post(f"{SERVER}/x")


def test_nothing_is_sent_without_tls() -> None:
    """A URL of the server that is not https is refused."""
    with pytest.raises(ServerAnswerError, match="is no https URL"):
        session(lambda _: httpx.Response(200)).post("http://ca.test/x")


def test_polling_waits_as_the_server_asks_within_bounds() -> None:
    """Retry-After counts up to five seconds; a date in it, or none, leaves our own pauses."""
    headers: list[dict[str, str]] = [{}, {"Retry-After": "3"}, {"Retry-After": "3600"}, {"Retry-After": "Sun, 22 Nov"}]
    answers = [httpx.Response(200, json={"status": "processing"}, headers=header) for header in headers]
    turn = iter([*answers, httpx.Response(200, json={"status": "valid"})])
    waited: list[float] = []
    assert session(lambda _: next(turn), waited).poll(f"{SERVER}/o", {"processing"}) == {"status": "valid"}
    assert waited == [0.1, 3.0, 5.0, 0.8]


def test_polling_ends() -> None:
    """An order that stays as it is comes to an error that says so."""
    stuck = session(lambda _: httpx.Response(200, json={"status": "processing"}))
    with pytest.raises(ServerAnswerError, match="is still processing after -1 seconds"):
        stuck.poll(f"{SERVER}/o", {"processing"}, seconds=-1)


@pytest.mark.parametrize(("status", "said", "updates"), [(200, False, 1), (200, True, 0), (201, False, 0)])
def test_an_account_agrees_to_changed_terms(status: int, said: bool, updates: int) -> None:  # noqa: FBT001 - a test's parameter
    """An account that was found, and has not agreed to the terms in force, is updated (RFC 8555 §7.3.3)."""
    sent: list[UnverifiedJws] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(UnverifiedJws.parse(request.content))
        document = {"termsOfServiceAgreed": True} if said else {}
        return httpx.Response(status, json=document, headers={"Location": f"{SERVER}/acct/1"})

    session(answer, meta={"termsOfService": f"{SERVER}/terms/2"}).register(agreed=True)
    later = [jws.verify(KEY.public_key()) for jws in sent[1:]]
    assert [(jws.url, json.loads(jws.payload)) for jws in later] == [
        (f"{SERVER}/acct/1", {"termsOfServiceAgreed": True})
    ] * updates


def test_registration_binds_the_external_account() -> None:
    """The binding is a MAC over the account key for the same URL, without nonce; afterwards the account URL signs."""
    sent: list[UnverifiedJws] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(UnverifiedJws.parse(request.content))
        return httpx.Response(201, json={}, headers={"Location": f"{SERVER}/acct/1"})

    opened = session(answer)
    opened.register(["a@b.test"], ExternalAccount("kid-1", b"k" * 32))
    opened.post(f"{SERVER}/x")
    wanted = json.loads(sent[0].payload)
    assert wanted["contact"] == ["mailto:a@b.test"]
    header = json.loads(base64url_decode(wanted["externalAccountBinding"]["protected"]))
    assert header == {"alg": "HS256", "kid": "kid-1", "url": DIRECTORY["newAccount"]}
    assert base64url_encode(base64url_decode(wanted["externalAccountBinding"]["payload"])) == base64url_encode(
        json.dumps(sent[0].jwk, separators=(",", ":")).encode()
    )
    assert (sent[0].kid, sent[1].kid, sent[1].jwk) == (None, f"{SERVER}/acct/1", None)


def test_terms_are_agreed_to_by_the_user_alone() -> None:
    """Where there are terms nothing is sent before the user agrees; then the server is told so."""
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(UnverifiedJws.parse(request.content).payload)
        return httpx.Response(201, json={}, headers={"Location": f"{SERVER}/acct/1", **NONCE})

    opened = session(answer, meta={"termsOfService": "https://ca.test/terms"})
    with pytest.raises(RequestInputError, match=r"read https://ca\.test/terms, and say --agree-terms"):
        opened.register()
    assert sent == []
    opened.register(agreed=True)
    opened.sign_in()
    assert json.loads(sent[0])["termsOfServiceAgreed"] is True


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    """A missing file, and one without certificates, are told by their name."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(RequestInputError, match=f"{name} is no bundle of certificates"):
            http_client(tmp_path / name)
