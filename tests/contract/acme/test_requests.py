"""Requests of ACME clients: their form, nonces and URLs, and what they may learn of resources (RFC 8555 §6)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from services.acme.ids import new_id
from tests.support.acme_client import JOSE, AcmeClient, Corruption, make_csr
from tests.support.acme_requests import NEW_ORDER, ORDER, assert_problem, header
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey, b64u


def sent(change: Callable[[dict[str, str]], Any]) -> Corruption:
    """Replace what is sent after signing."""

    def encode(jws: dict[str, str]) -> bytes:
        body = change(dict(jws))
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    return Corruption(after=encode)


@pytest.mark.requirement("rfc8555-6.3-01", "rfc8555-6.3-06", "rfc8555-7.1-01")
async def test_directory(server: AcmeServer) -> None:
    """The directory is the same by GET and by POST-as-GET, and does not link to itself."""
    client = await server.registered()
    got = await client.send("GET", f"{BASE}/acme/directory")
    resources = {"newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange", "renewalInfo"}
    more = got.json().keys() - resources - {"meta"}
    assert len(got.json().keys() & resources) == len(resources)
    assert len(more) == 1, "one name that nobody knows"
    assert "link" not in got.headers
    assert "replay-nonce" not in got.headers
    assert (await client.post(f"{BASE}/acme/directory")).json() == got.json()
    assert_problem_kind(await client.post_raw(f"{BASE}/acme/directory", {}), 400, "malformed")


def assert_problem_kind(response: httpx.Response, status: int, kind: str) -> None:
    """As assert_problem, without the index link, which the directory does not have."""
    assert (response.status_code, response.json()["type"]) == (status, f"urn:ietf:params:acme:error:{kind}")


@pytest.mark.requirement(
    "rfc8555-7.2-01", "rfc8555-7.2-02", "rfc8555-7.2-03", "rfc8555-7.2-04", "rfc8555-7.1-01", "rfc8555-6.3-06"
)
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)])
async def test_new_nonce(server: AcmeServer, method: str, status: int) -> None:
    """NewNonce answers HEAD with 200 and GET with 204, each time another nonce that no cache keeps."""
    answers = [await server.http.request(method, "/acme/new-nonce") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].headers["replay-nonce"] != answers[1].headers["replay-nonce"]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["link"] == f'<{BASE}/acme/directory>;rel="index"'
        assert answer.content == b""


@pytest.mark.requirement("rfc8555-6.2-19", "rfc8555-6.7-01")
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "application/jose", "jose+json"])
async def test_content_type(server: AcmeServer, content_type: str) -> None:
    """A POST that is not application/jose+json is refused with 415."""
    client = await server.registered()
    response = await client.post_raw(NEW_ORDER, ORDER, corruption=Corruption(content_type=content_type))
    assert_problem(response, 415, "malformed")


@pytest.mark.requirement("rfc8555-6.3-01")
@pytest.mark.parametrize("path", ["new-order", "new-account", "acct/x", "order/x", "cert/x", "revoke-cert", "chall/x"])
async def test_resources_are_not_for_get(server: AcmeServer, path: str) -> None:
    """Plain GET is refused with 405 wherever POST-as-GET is due, existing resource or not."""
    response = await server.http.get(f"/acme/{path}")
    assert_problem(response, 405, "malformed")
    assert response.headers["allow"] == "POST, OPTIONS"


async def test_unknown_path(server: AcmeServer) -> None:
    """Paths that lead nowhere are a problem document too, with a nonce for those who posted."""
    assert_problem(await server.http.get("/acme/nothing"), 404, "malformed")
    assert_problem(await server.http.post("/acme/nothing"), 404, "malformed")
    assert_problem(await server.http.get("/"), 404, "malformed")


async def test_oversized_bodies(server: AcmeServer) -> None:
    """More than 64 KiB is refused with 413, whether declared or streamed without a length."""
    await server.registered()
    headers = {"content-type": JOSE}
    assert_problem(await server.http.post(NEW_ORDER, content=b"x" * 65_537, headers=headers), 413, "malformed")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 4096

    assert_problem(await server.http.post(NEW_ORDER, content=stream(), headers=headers), 413, "malformed")


@pytest.mark.requirement("rfc8555-6.2-01", "rfc8555-6.7-01", "rfc8555-6.5-02")
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"\xff", b"{}", b'"x"', b"[" * 30_000, b'{"a":' * 10_000, b"9" * 6000, b"\0"],
)
async def test_bodies_that_are_no_jws(server: AcmeServer, body: bytes) -> None:
    """Anything but a JWS is malformed, never an internal error."""
    response = await server.http.post(NEW_ORDER, content=body, headers={"content-type": JOSE})
    assert_problem(response, 400, "malformed")


@pytest.mark.requirement(
    "rfc8555-6.2-02",
    "rfc8555-6.2-03",
    "rfc8555-6.2-04",
    "rfc8555-6.2-05",
    "rfc8555-6.2-06",
    "rfc8555-6.2-08",
    "rfc8555-6.2-12",
    "rfc8555-6.1-08",
    "rfc8555-6.4.1-01",
    "rfc8555-6.5.2-03",
    "rfc8555-6.5-02",
)
@pytest.mark.parametrize(
    "corruption",
    [
        sent(lambda jws: jws | {"header": {"kid": "x"}}),
        sent(lambda jws: jws | {"signatures": []}),
        sent(lambda jws: {"payload": jws["payload"], "signatures": [jws]}),
        sent(lambda jws: f"{jws['protected']}.{jws['payload']}.{jws['signature']}".encode()),
        sent(lambda jws: jws | {"signature": jws["signature"] + "=="}),
        sent(lambda jws: jws | {"signature": ""}),
        sent(lambda jws: jws | {"signature": "AAAA"}),
        sent(lambda jws: jws | {"signature": b64u(bytes(64))}),
        sent(lambda jws: jws | {"payload": b64u(b'{"identifiers":[]}')}),
        sent(lambda jws: jws | {"payload": jws["payload"] + " "}),
        sent(lambda jws: (json.dumps(jws)[:-1] + ',"payload":"e30"}').encode()),
        header(crit=["exp"], exp=1),
        header(b64=False, crit=["b64"]),
        header(url=None),
        header(nonce="not base64url!"),
        header(kid=None),
        header(alg=None),
        header(kid=1),
        header(jwk=JoseKey.generate().jwk),
    ],
)
async def test_tampered_requests(server: AcmeServer, corruption: Corruption) -> None:
    """A request in another form, with extensions, or changed after signing is malformed and does nothing."""
    client = await server.registered()
    server.commits.clear()
    response = await client.post_raw(NEW_ORDER, ORDER, corruption=corruption)
    document = response.json()
    assert document["type"].removeprefix("urn:ietf:params:acme:error:") in {"malformed", "unauthorized"}
    assert_problem(response, response.status_code, document["type"].rsplit(":", 1)[1])
    assert not server.commits


@pytest.mark.requirement("rfc8555-6.5-05", "rfc8555-6.5-06", "rfc8555-6.5-04")
async def test_nonces_are_used_once(server: AcmeServer) -> None:
    """A replayed request is refused with badNonce and a fresh nonce, and has no second effect."""
    client = await server.registered()
    bodies: list[bytes] = []

    def keep(jws: dict[str, str]) -> bytes:
        bodies.append(json.dumps(jws).encode())
        return bodies[0]

    first = await client.post_raw(NEW_ORDER, ORDER, corruption=Corruption(after=keep))
    assert first.status_code == 201
    server.commits.clear()
    replay = await server.http.post(NEW_ORDER, content=bodies[0], headers={"content-type": JOSE})
    assert_problem(replay, 400, "badNonce")
    assert replay.headers["replay-nonce"] != first.headers["replay-nonce"]
    assert not server.commits


@pytest.mark.requirement("rfc8555-6.2-08", "rfc8555-6.5-03", "rfc8555-6.5-04", "rfc8555-6.5-06", "rfc8555-6.5.2-01")
@pytest.mark.parametrize("nonce", [None, "AAAA", "", b64u(bytes(24)), b64u(bytes(8) + b"x" * 16), "A" * 1000])
async def test_nonces_that_were_never_issued(server: AcmeServer, nonce: str | None) -> None:
    """A nonce that is absent or made up is refused."""
    client = await server.registered()
    response = await client.post_raw(NEW_ORDER, ORDER, corruption=header(nonce=nonce))
    kind = "malformed" if nonce == "" else "badNonce"
    assert_problem(response, 400, kind)


@pytest.mark.requirement("rfc8555-6.2-02")
async def test_a_bad_signature_does_not_use_up_the_nonce(server: AcmeServer) -> None:
    """Strangers cannot spend a client's nonce: only a verified request does."""
    client = await server.registered()
    nonce = await client.nonce()
    spoiled = Corruption(
        before=lambda protected, payload: (protected | {"nonce": nonce}, payload),
        after=lambda jws: json.dumps(jws | {"signature": b64u(bytes(range(64)))}).encode(),
    )
    assert_problem(await client.post_raw(NEW_ORDER, ORDER, corruption=spoiled), 400, "malformed")
    honest = Corruption(before=lambda protected, payload: (protected | {"nonce": nonce}, payload))
    assert (await client.post_raw(NEW_ORDER, ORDER, corruption=honest)).status_code == 201


@pytest.mark.requirement("rfc8555-6.4-01", "rfc8555-6.4-02", "rfc8555-6.4-04", "rfc8555-6.4-05")
@pytest.mark.parametrize(
    "url",
    [
        f"{BASE}/acme/new-account",
        f"{BASE}/acme/new-order/",
        f"{BASE}/acme/new-order?x=1",
        f"{BASE}:443/acme/new-order",
        "https://evil.test/acme/new-order",
        "http://acme.test/acme/new-order",
        "/acme/new-order",
        "HTTPS://ACME.TEST/acme/new-order",
    ],
)
async def test_the_signed_url_is_the_url_used(server: AcmeServer, url: str) -> None:
    """A request signed for another URL is unauthorized (RFC 8555 §6.4)."""
    client = await server.registered()
    assert_problem(await client.post_raw(NEW_ORDER, ORDER, corruption=header(url=url)), 403, "unauthorized")


@pytest.mark.requirement("rfc8555-6.4-04")
@pytest.mark.parametrize(
    "target", ["/acme/new-order?x=1", "/acme/new-order?", "/acme/%6eew-order", "/%61cme/new-order", "/acme/new%2Dorder"]
)
async def test_a_query_belongs_to_the_url(server: AcmeServer, target: str) -> None:
    """What is signed without a query is not good with one, nor without the escapes in a path that has some."""
    client = await server.registered()
    bodies: list[bytes] = []

    def keep(jws: dict[str, str]) -> bytes:
        bodies.append(json.dumps(jws).encode())
        return b"{}"

    await client.post_raw(NEW_ORDER, ORDER, corruption=Corruption(after=keep))
    response = await server.http.post(target, content=bodies[0], headers={"content-type": JOSE})
    if target.endswith("?"):  # an empty query does not reach the application
        assert response.status_code == 201
    else:
        assert_problem(response, 403, "unauthorized")


@pytest.mark.parametrize("payload", [b"[]", b"null", b'"x"', b"{", b"\xff", b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b" "])
async def test_payloads_that_are_no_object(server: AcmeServer, payload: bytes) -> None:
    """A signed payload is held to the same JSON as everything else."""
    client = await server.registered()
    assert_problem(await client.post_raw(NEW_ORDER, payload), 400, "malformed")


@pytest.mark.requirement("rfc8555-6.3-01", "rfc8555-6.3-03", "rfc8555-6.3-06")
async def test_post_as_get_is_strict(server: AcmeServer) -> None:
    """Resources that are only read refuse any payload, even an empty object; those of accounts refuse GET."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    for url in (order.url, order.body["authorizations"][0], f"{client.kid}/orders", str(client.kid)):
        assert_problem(await server.http.get(url), 405, "malformed")
    for url in (order.url, f"{client.kid}/orders", f"{BASE}/acme/new-nonce"):
        assert_problem(await client.post_raw(url, {}), 400, "malformed")
        assert (await client.post_raw(url)).is_success


async def test_a_request_id_is_taken_and_bounded(server: AcmeServer) -> None:
    """A sane X-Request-Id comes back, a hostile one is replaced."""
    kept = await server.http.get("/acme/directory", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    replaced = await server.http.get("/acme/directory", headers={"x-request-id": "a b"})
    assert replaced.headers["x-request-id"] != "a b"


async def foreign_and_missing(owner: AcmeClient, stranger: AcmeClient) -> list[tuple[str, str]]:
    """Pairs of URLs: one of the owner's, and one of the same kind that does not exist."""
    order = await owner.new_order(["a.example"])
    authorization = await owner.read(order.body["authorizations"][0])
    challenge = authorization.body["challenges"][0]["url"]
    await stranger.new_order(["a.example"])
    csr = make_csr(["b.example"], ec.generate_private_key(ec.SECP256R1()))
    certificate = (await owner.obtain(["b.example"], csr, solve)).order.body["certificate"]
    urls = [order.url, authorization.url, challenge, order.body["finalize"], certificate]
    return [(url, f"{url.rsplit('/', 1)[0]}/{new_id()}") for url in urls]


@pytest.mark.requirement("rfc8555-6.3-04", "rfc8555-7.5.2-01")
@pytest.mark.parametrize("payload", [None, {}, {"status": "deactivated"}, {"csr": b64u(b"x")}])
async def test_foreign_things_look_like_missing_ones(server: AcmeServer, payload: object) -> None:
    """Another account's object and one that does not exist get the same answer, to the byte, and no change."""
    owner, stranger = await server.registered(), await server.registered()
    for foreign, missing in await foreign_and_missing(owner, stranger):
        server.commits.clear()
        answers = [await stranger.post_raw(url, payload) for url in (foreign, missing)]
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].content == answers[1].content
        assert {name for name, _ in answers[0].headers.items()} == {name for name, _ in answers[1].headers.items()}
        assert answers[0].status_code in ({404} if payload is None else {400, 404})
        assert not server.commits
    assert len(server.validator.attempts) == 1


@pytest.mark.parametrize("kind", ["order", "authz", "chall", "finalize", "cert", "acct"])
@pytest.mark.parametrize("name", ["x", "..", "%2e%2e", "a" * 500, "%00", "x'--", "ä", "AAAAAAAAAAAAAAAAAAAAA="])
async def test_ids_of_another_form(server: AcmeServer, kind: str, name: str) -> None:
    """Ids that could never have been issued are answered without asking the database, and never with 500."""
    client = await server.registered()
    url = f"{BASE}/acme/{kind}/{name}"
    response = await client.post_raw(url, None)
    assert response.status_code in {400, 403, 404, 405}, response.text
    assert response.json()["type"].startswith("urn:ietf:params:acme:error:")


async def test_unsigned_requests_cannot_tell_what_exists(server: AcmeServer) -> None:
    """Without a good signature the answer does not depend on whether the object exists."""
    owner = await server.registered()
    order = await owner.new_order(["a.example"])
    missing = f"{order.url.rsplit('/', 1)[0]}/{new_id()}"
    stranger = server.client()
    stranger.kid = f"{BASE}/acme/acct/{new_id()}"
    for url in (order.url, missing):
        assert_problem(await stranger.post_raw(url), 400, "accountDoesNotExist")
    stranger.kid = owner.kid
    answers = [await stranger.post_raw(url) for url in (order.url, missing)]
    assert answers[0].content == answers[1].content


@pytest.mark.requirement("rfc8555-6.1-08")
async def test_base64_of_python_is_not_ours(server: AcmeServer) -> None:
    """Characters that lenient decoders drop do not slip through."""
    client = await server.registered()

    def sprinkle(jws: dict[str, str]) -> bytes:
        text = jws["payload"]
        assert base64.urlsafe_b64decode(f"{text[:4]}\n{text[4:]}==")
        return json.dumps(jws | {"payload": f"{text[:4]}\n{text[4:]}"}).encode()

    assert_problem(await client.post_raw(NEW_ORDER, ORDER, corruption=Corruption(after=sprinkle)), 400, "malformed")
