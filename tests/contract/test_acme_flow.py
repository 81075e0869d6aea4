from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from services.acme.errors import AcmeError, ValidationError, ValidationFailure
from services.ca.client import BadCsrError, CaRefusedError, ForbiddenError, RejectedNamesError
from services.chassis.audit import audit_records, verify_audit
from tests.support.acme_client import AcmeClient, AcmeProblemError, Resource, make_csr
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import b64u


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A fresh service that answers `processing` at once where the outside world is slow."""
    running = await AcmeServer.start(tmp_path, hold_seconds=0.05)
    yield running
    await running.stop()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A certificate key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr_for(*names: str) -> bytes:
    """A CSR with a fresh key."""
    return make_csr(names, new_key())


async def ready_order(client: AcmeClient, *names: str, challenge: str = "http-01") -> Resource:
    """An order whose authorizations are valid."""
    order = await client.new_order(names)
    await client.authorize(order, solve, challenge)
    return await client.read(order.url)


async def challenge_of(client: AcmeClient, order: Resource, kind: str = "http-01") -> str:
    """The URL of the first authorization's challenge."""
    authorization = await client.read(order.body["authorizations"][0])
    return client.challenge(authorization, kind).url


# Orders


async def test_an_order_ends_in_a_certificate_for_its_names(server: AcmeServer) -> None:
    """A client gets a certificate for exactly the names it ordered and proved, in five requests and four commits."""
    client = await server.registered()
    before = client.requests
    server.commits.clear()
    key = new_key()
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], key), solve)
    assert obtained.order.status == "valid"
    assert obtained.certificates[0].public_key() == key.public_key()
    assert server.commits == ["order-created", "challenge-valid", "order-processing", "order-valid"]
    assert client.requests - before == 5
    assert server.ca.requests[0].requester["account"] == client.kid


async def test_the_shape_of_a_new_order(server: AcmeServer) -> None:
    """NewOrder answers 201 with the order's URL and every member of RFC 8555 §7.1.3, and nothing empty."""
    client = await server.registered()
    payload = {"identifiers": [{"type": "dns", "value": name} for name in ("B.example", "a.example", "b.EXAMPLE")]}
    response = await client.post(f"{BASE}/acme/new-order", payload)
    assert response.status_code == 201
    document = response.json()
    assert set(document) == {"status", "expires", "identifiers", "authorizations", "finalize"}
    assert document["identifiers"] == [{"type": "dns", "value": "b.example"}, {"type": "dns", "value": "a.example"}]
    assert document["expires"] == "2030-01-08T00:00:00Z"
    assert len(document["authorizations"]) == 2
    read = await client.post(response.headers["location"])
    assert read.json() == document
    assert "retry-after" not in read.headers


async def test_the_shape_of_an_authorization(server: AcmeServer) -> None:
    """A pending authorization offers http-01 and dns-01 with tokens of their own, and says when to come back."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    response = await client.post(order.body["authorizations"][0])
    document = response.json()
    assert set(document) == {"identifier", "status", "expires", "challenges"}
    assert (document["identifier"], document["status"]) == ({"type": "dns", "value": "a.example"}, "pending")
    assert [challenge["type"] for challenge in document["challenges"]] == ["http-01", "dns-01"]
    assert all(set(challenge) == {"type", "url", "status", "token"} for challenge in document["challenges"])
    assert len({challenge["token"] for challenge in document["challenges"]}) == 2
    assert all(len(challenge["token"]) == 43 for challenge in document["challenges"])
    assert response.headers["retry-after"]


async def test_wildcards(server: AcmeServer) -> None:
    """A wildcard is proven in the DNS only, at its base name, and marked; the base name itself is another matter."""
    client = await server.registered()
    order = await client.new_order(["*.a.example", "a.example"])
    wildcard, plain = [await client.read(url) for url in order.body["authorizations"]]
    assert wildcard.body["identifier"] == plain.body["identifier"] == {"type": "dns", "value": "a.example"}
    assert wildcard.body["wildcard"] is True
    assert "wildcard" not in plain.body
    assert [challenge["type"] for challenge in wildcard.body["challenges"]] == ["dns-01"]
    await client.post(client.challenge(plain, "dns-01").url, {})
    assert (await client.read(order.url)).status == "pending"
    await client.post(client.challenge(wildcard, "dns-01").url, {})
    finalized = await client.finalize(order, csr_for("*.a.example", "a.example"))
    assert finalized.status == "valid"
    assert {attempt[1].value for attempt in server.validator.attempts} == {"a.example"}


@pytest.mark.parametrize(
    ("identifiers", "kind"),
    [
        ([], "malformed"),
        (None, "malformed"),
        ("a.example", "malformed"),
        ([{}], "malformed"),
        ([{"type": "dns"}], "malformed"),
        ([{"type": "dns", "value": 1}], "malformed"),
        (["a.example"], "malformed"),
        ([{"type": "dns", "value": "a" * 400}], "malformed"),
        ([{"type": "dns", "value": f"{number}.example"} for number in range(11)], "malformed"),
        ([{"type": "ip", "value": "127.0.0.1"}], "unsupportedIdentifier"),
        ([{"type": "email", "value": "a@example.com"}], "unsupportedIdentifier"),
        ([{"type": "dns", "value": "127.0.0.1"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "::1"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": ""}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a..example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.example."}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "-a.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a_b.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*.*.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*.com"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "*"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "bücher.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "xn--a.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "ab--c.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a\0.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "a.example/x"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": "\u212aa.example"}], "rejectedIdentifier"),
        ([{"type": "dns", "value": f"{'a' * 64}.example"}], "rejectedIdentifier"),
    ],
)
async def test_identifiers_that_are_refused(server: AcmeServer, identifiers: object, kind: str) -> None:
    """Each wrong identifier is refused with its type, and no order is made."""
    client = await server.registered()
    server.commits.clear()
    response = await client.post_raw(f"{BASE}/acme/new-order", {"identifiers": identifiers})
    assert (response.status_code, response.json()["type"]) == (400, f"urn:ietf:params:acme:error:{kind}")
    assert not server.commits


async def test_several_refused_identifiers_are_listed(server: AcmeServer) -> None:
    """Every refused name stands in a sub-problem; types that differ make the whole compound."""
    client = await server.registered()
    names = [("ip", "10.0.0.1"), ("dns", "good.example"), ("ip", "10.0.0.2")]
    for extra, kind in (([], "unsupportedIdentifier"), ([("dns", "a_b.example")], "compound")):
        identifiers = [{"type": what, "value": value} for what, value in [*names, *extra]]
        document = (await client.post_raw(f"{BASE}/acme/new-order", {"identifiers": identifiers})).json()
        assert document["type"].endswith(f":{kind}")
        refused = [item["identifier"]["value"] for item in document["subproblems"]]
        assert refused == ["10.0.0.1", "10.0.0.2", *(value for _, value in extra)]
        assert all(item["type"] and item["detail"] for item in document["subproblems"])


@pytest.mark.parametrize("member", ["notBefore", "notAfter"])
async def test_a_validity_is_not_for_clients(server: AcmeServer, member: str) -> None:
    """What cannot be honoured exactly is refused and not ignored (RFC 8555 §7.4)."""
    client = await server.registered()
    with pytest.raises(AcmeProblemError, match=member) as refused:
        await client.new_order(["a.example"], **{member: "2031-01-01T00:00:00Z"})
    assert (refused.value.status, refused.value.kind) == (400, "malformed")


async def test_unfinished_orders_are_limited(tmp_path: Path) -> None:
    """An account with too many unfinished orders is told to wait; finished and expired ones do not count."""
    server = await AcmeServer.start(tmp_path, max_pending=2)
    client = await server.registered()
    await client.obtain(["z.example"], csr_for("z.example"), solve)
    orders = [await client.new_order([f"{name}.example"]) for name in "ab"]
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["c.example"])
    assert (refused.value.status, refused.value.kind) == (429, "rateLimited")
    assert refused.value.response.headers["retry-after"] == "3600"
    assert (await (await server.registered()).new_order(["c.example"])).status == "pending"
    await client.post(orders[0].body["authorizations"][0], {"status": "deactivated"})
    await client.new_order(["c.example"])
    server.clock.advance(timedelta(days=8))
    await client.new_order(["d.example"])
    await server.stop()


# Authorizations and challenges


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
    assert f'<{authorization.url}>;rel="up"' in response.headers.get_list("link")
    assert "retry-after" not in response.headers
    decided = await client.read(authorization.url)
    assert decided.body["challenges"] == [document]
    assert (decided.status, (await client.read(order.url)).status) == ("valid", "ready")
    kind, identifier, token, key_authorization = server.validator.attempts[0]
    assert (kind, identifier.value) == ("http-01", "a.example")
    assert (token, key_authorization) == (challenge.token, challenge.key_authorization)


async def test_reading_a_challenge_starts_nothing(server: AcmeServer) -> None:
    """POST-as-GET of a challenge shows it and does not validate."""
    client = await server.registered()
    url = await challenge_of(client, await client.new_order(["a.example"]))
    response = await client.post(url)
    assert response.json()["status"] == "pending"
    assert not server.validator.attempts


async def test_older_clients_answer_with_more(server: AcmeServer) -> None:
    """An answer with keyAuthorization in it is an answer; one that is no object is malformed."""
    client = await server.registered()
    url = await challenge_of(client, await client.new_order(["a.example"]))
    assert (await client.post_raw(url, [])).status_code == 400
    assert not server.validator.attempts
    assert (await client.post(url, {"keyAuthorization": "x"})).json()["status"] == "valid"


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


async def test_a_slow_challenge_goes_on_by_itself(server: AcmeServer) -> None:
    """A validation that takes longer is processing with Retry-After, is tried once, and ends without the client."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    server.validator.gate.clear()
    for _ in range(2):
        response = await client.post(url, {})
        assert (response.json()["status"], response.headers["retry-after"]) == ("processing", "2")
    server.validator.gate.set()
    await client.wait(order.url, {"pending"})
    assert (await client.post(url)).json()["status"] == "valid"
    assert len(server.validator.attempts) == 1


async def test_a_validation_survives_a_restart(server: AcmeServer) -> None:
    """What was processing when the server stopped is tried again after the start."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    server.validator.gate.clear()
    assert (await client.post(url, {})).json()["status"] == "processing"
    restarted = await server.restart()
    server.validator.gate.set()
    client.http = restarted.http
    assert (await client.wait(order.url, {"pending"})).status == "ready"
    await restarted.stop()


async def test_two_challenges_of_one_authorization(server: AcmeServer) -> None:
    """The first proof counts; a second one that ends later changes nothing."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    authorization = await client.read(order.body["authorizations"][0])
    server.validator.gate.clear()
    for kind in ("http-01", "dns-01"):
        await client.post(client.challenge(authorization, kind).url, {})
    server.validator.gate.set()
    await client.wait(order.url, {"pending"})
    decided = await client.read(authorization.url)
    assert decided.status == "valid"
    assert len(decided.body["challenges"]) == 1


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


async def test_validation_after_deactivation_comes_too_late(server: AcmeServer) -> None:
    """A proof that arrives when the authorization is given up makes nothing valid."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    url = await challenge_of(client, order)
    server.validator.gate.clear()
    await client.post(url, {})
    await client.post(order.body["authorizations"][0], {"status": "deactivated"})
    server.validator.gate.set()
    await server.settled(lambda: not server.service.background.is_busy)
    assert (await client.read(order.url)).status == "invalid"
    assert (await client.read(order.body["authorizations"][0])).status == "deactivated"


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


# Finalize


async def test_finalize_before_ready(server: AcmeServer) -> None:
    """An order that is not ready answers 403 orderNotReady, by exactly that name."""
    client = await server.registered()
    order = await client.new_order(["a.example", "b.example"])
    await client.post(await challenge_of(client, order), {})
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_for("a.example", "b.example"))
    assert (refused.value.status, refused.value.kind) == (403, "orderNotReady")
    assert not server.ca.requests


@cache
def hostile_csrs() -> dict[str, bytes]:
    """CSRs that must not reach the CA, for an order of a.example."""
    key = new_key()
    good = make_csr(["a.example"], key)
    san = [x509.DNSName("a.example")]

    def built(*extra: x509.GeneralName, common_name: str = "", basic: x509.BasicConstraints | None = None) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        builder = builder.add_extension(x509.SubjectAlternativeName([*san, *extra]), critical=False)
        if basic:
            builder = builder.add_extension(basic, critical=True)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    return {
        "another name": csr_for("b.example"),
        "one name more": csr_for("a.example", "b.example"),
        "wildcard": csr_for("*.a.example"),
        "no name": x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER),
        "foreign common name": built(common_name="evil.example"),
        "common name that is no host": built(common_name="Administrator"),
        "an address": built(x509.IPAddress(ip_address("10.0.0.1"))),
        "an e-mail address": built(x509.RFC822Name("a@example.com")),
        "a URI": built(x509.UniformResourceIdentifier("spiffe://pqcpki.internal/service/ca")),
        "a user principal name": built(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")),
        "CA:TRUE": built(basic=x509.BasicConstraints(ca=True, path_length=None)),
        "a wrong signature": good[:-1] + bytes([good[-1] ^ 1]),
        "a weak key": make_csr(["a.example"], weak),
        "a curve for account keys only": make_csr(["a.example"], ec.generate_private_key(ec.SECP521R1())),
        "stray bytes": good + b"\0",
        "cut off": good[:-10],
        "nothing": b"",
        "a certificate's worth of zeros": bytes(1000),
        "PEM": x509.load_der_x509_csr(good).public_bytes(serialization.Encoding.PEM),
        "PEM after a space": b" " + x509.load_der_x509_csr(good).public_bytes(serialization.Encoding.PEM),
    }


@pytest.mark.parametrize("what", hostile_csrs())
async def test_hostile_csrs(server: AcmeServer, what: str) -> None:
    """A CSR with other names, a bad key, a bad signature or a wish to be a CA is badCSR; the order stays ready."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.commits.clear()
    response = await client.post_raw(order.body["finalize"], {"csr": b64u(hostile_csrs()[what])})
    assert (response.status_code, response.json()["type"]) == (400, "urn:ietf:params:acme:error:badCSR")
    assert not server.ca.requests
    assert not server.commits
    assert (await client.finalize(order, csr_for("a.example"))).status == "valid"


@pytest.mark.parametrize("payload", [{}, {"csr": 1}, {"csr": None}, {"csr": "a+b/"}, {"csr": "AAA="}, {"csr": ["x"]}])
async def test_finalize_without_a_csr(server: AcmeServer, payload: object) -> None:
    """A finalize request without an exact base64url CSR is malformed."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    response = await client.post_raw(order.body["finalize"], payload)
    assert (response.status_code, response.json()["type"]) == (400, "urn:ietf:params:acme:error:malformed")


async def test_account_keys_are_no_certificate_keys(server: AcmeServer) -> None:
    """A CSR with the key of any account, one's own or another's, is badCSR."""
    client, other = await server.registered(), await server.registered()
    order = await ready_order(client, "a.example")
    for account in (client, other):
        key = account.key.private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        with pytest.raises(AcmeProblemError, match="account") as refused:
            await client.finalize(order, make_csr(["a.example"], key))
        assert refused.value.kind == "badCSR"


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        mldsa.MLDSA65PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519", "ML-DSA-65"],
)
async def test_certificate_keys(server: AcmeServer, key: ec.EllipticCurvePrivateKey) -> None:
    """Certificates are given for keys of each family, and the common name may repeat one of the names."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], key, "A.example"), solve)
    assert obtained.certificates[0].public_key() == key.public_key()


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


async def test_a_slow_ca(server: AcmeServer) -> None:
    """While the CA works the order is processing with Retry-After; then it is valid without another finalize."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.gate.clear()
    response = await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    assert (response.json()["status"], response.headers["retry-after"]) == ("processing", "2")
    assert response.headers["location"] == order.url
    assert (await client.post(order.url)).headers["retry-after"] == "2"
    server.ca.gate.set()
    done = await client.wait(order.url, {"processing"})
    assert done.status == "valid"
    assert "BEGIN CERTIFICATE" in await client.download(done)


async def test_a_ca_that_is_away_is_asked_again(server: AcmeServer) -> None:
    """An order waits for a CA that does not answer, and an answer that got lost yields the same certificate."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.lost_answers = 1
    response = await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    assert response.json()["status"] == "processing"
    assert (await client.wait(order.url, {"processing"})).status == "valid"
    assert len(server.ca.issued) == 1
    assert len({request.idempotency_key for request in server.ca.requests}) == 1


async def test_processing_orders_survive_a_restart(server: AcmeServer) -> None:
    """An order that was processing when the server stopped is finished after the start, under the same key."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.away = True
    await client.post(order.body["finalize"], {"csr": b64u(csr_for("a.example"))})
    restarted = await server.restart()
    server.ca.away = False
    client.http = restarted.http
    assert (await client.wait(order.url, {"processing"})).status == "valid"
    assert len({request.idempotency_key for request in server.ca.requests}) == 1
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


async def test_a_certificate_for_another_key_is_not_delivered(server: AcmeServer) -> None:
    """A CA that answers with the wrong certificate makes the order invalid."""
    client = await server.registered()
    first, second = await ready_order(client, "a.example"), await ready_order(client, "b.example")
    await client.finalize(first, csr_for("a.example"))
    wrong = server.ca.issued[0]
    server.ca.answer_with = wrong
    failed = await client.finalize(second, csr_for("b.example"))
    assert (failed.status, failed.body["error"]["type"].rsplit(":")[-1]) == ("invalid", "serverInternal")


async def test_the_download(server: AcmeServer) -> None:
    """The chain is PEM, leaf first, without the root, under its own media type."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    response = await client.post(obtained.order.body["certificate"])
    assert response.headers["content-type"] == "application/pem-certificate-chain"
    leaf, issuer = x509.load_pem_x509_certificates(response.content)
    leaf.verify_directly_issued_by(issuer)
    assert issuer.subject != issuer.issuer


# Clean-up


async def test_clean_up_removes_what_nobody_asks_for(server: AcmeServer) -> None:
    """Orders long expired without a certificate go with all that hangs on them; others stay."""
    client = await server.registered()
    old = [await client.new_order([f"{number}.example"]) for number in range(3)]
    done = await client.obtain(["z.example"], csr_for("z.example"), solve)
    server.clock.advance(timedelta(days=13))
    fresh = await client.new_order(["new.example"])
    assert await server.service.clean_up() == 0
    server.clock.advance(timedelta(days=2))
    assert await server.service.clean_up() == 3
    for order in old:
        assert (await client.post_raw(order.url)).status_code == 404
        assert (await client.post_raw(order.body["authorizations"][0])).status_code == 404
    assert (await client.read(done.order.url)).status == "valid"
    assert (await client.read(fresh.url)).status == "pending"
    assert await server.service.clean_up() == 0


async def test_every_change_is_audited(server: AcmeServer) -> None:
    """Each act of the path leaves one record in the log, in its order, and the chain verifies."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    await client.revoke(obtained.certificates[0], 1)
    await client.deactivate()
    events = [stored.record.event async for stored in audit_records(server.database)]
    assert events == [
        "account.created",
        "order.created",
        "authorization.valid",
        "order.finalized",
        "certificate.issued",
        "certificate.revoked",
        "account.deactivated",
    ]
    head = await verify_audit(server.database, [], None)
    assert head.sequence == len(events)
