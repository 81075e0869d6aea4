"""By which key a request is signed, with which algorithm, and how it names the key (RFC 8555 §6.2)."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.acme_requests import ALGORITHMS, NEW_ACCOUNT, NEW_ORDER, ORDER, assert_problem, header
from tests.support.acme_server import BASE, AcmeServer
from tests.support.jose_key import JoseKey, b64u

UNUSED = "A" * 22


@pytest.mark.requirement("rfc8555-6.2-10", "rfc8555-6.2-11")
@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_every_algorithm_registers_and_orders(server: AcmeServer, alg: str) -> None:
    """An account key of each algorithm makes an account, ML-DSA included, and its kid signs an order."""
    client = await server.registered(JoseKey.generate(alg))
    order = await client.new_order(["a.example"])
    assert order.status == "pending"


@pytest.mark.requirement("rfc8555-6.2-09", "rfc8555-6.2-17", "rfc8555-6.2-18")
@pytest.mark.parametrize("alg", ["none", "HS256", "HS512", "PS256", "RS1", "ES256K", "", "es256"])
async def test_algorithms_that_are_not_offered(server: AcmeServer, alg: str) -> None:
    """The refusal of an algorithm lists those that are offered."""
    client = await server.registered()
    response = await client.post_raw(NEW_ORDER, ORDER, corruption=header(alg=alg))
    document = assert_problem(response, 400, "badSignatureAlgorithm")
    assert document["algorithms"] == ALGORITHMS


@pytest.mark.parametrize("alg", [alg for alg in ALGORITHMS if alg != "ES256"])
async def test_algorithm_confusion(server: AcmeServer, alg: str) -> None:
    """An offered algorithm that is not the key's own is refused, with kid and with jwk."""
    client = await server.registered()
    response = await client.post_raw(NEW_ORDER, ORDER, corruption=header(alg=alg))
    assert_problem(response, 400, "badSignatureAlgorithm")
    fresh = server.client()
    response = await fresh.post_raw(NEW_ACCOUNT, {}, use_jwk=True, corruption=header(alg=alg))
    assert_problem(response, 400, "badSignatureAlgorithm")


@pytest.mark.requirement("rfc8555-6.2-14", "rfc8555-6.2-02")
async def test_the_jwk_is_of_the_key_that_signed(server: AcmeServer) -> None:
    """A good signature by one key makes no account for another."""
    client, other = server.client(), JoseKey.generate()
    response = await client.post_raw(NEW_ACCOUNT, {}, use_jwk=True, corruption=header(jwk=other.jwk))
    assert_problem(response, 400, "malformed")
    assert not server.commits


@pytest.mark.requirement("rfc8555-6.2-09")
async def test_hmac_with_the_public_key(server: AcmeServer) -> None:
    """A symmetric jwk is refused before anything is computed with it."""
    client = server.client()
    jwk = {"kty": "oct", "k": "AAAA"}
    response = await client.post_raw(NEW_ACCOUNT, {}, use_jwk=True, corruption=header(jwk=jwk))
    assert_problem(response, 400, "badPublicKey")


async def test_private_and_weak_keys(server: AcmeServer) -> None:
    """A jwk with a private member is malformed; a weak one is a bad public key."""
    client = server.client()
    exposed = client.key.jwk | {"d": "AAAA"}
    response = await client.post_raw(NEW_ACCOUNT, {}, use_jwk=True, corruption=header(jwk=exposed))
    assert_problem(response, 400, "malformed")
    weak = server.client(JoseKey(rsa.generate_private_key(65537, 1024)))  # noqa: S505 - to be refused
    assert_problem(await weak.post_raw(NEW_ACCOUNT, {}, use_jwk=True), 400, "badPublicKey")
    odd = server.client(JoseKey(rsa.generate_private_key(3, 2048)))
    assert_problem(await odd.post_raw(NEW_ACCOUNT, {}, use_jwk=True), 400, "badPublicKey")


async def test_keys_that_others_can_use(server: AcmeServer) -> None:
    """A good signature by an RSA key that factors, or by an Ed25519 point without a private key, makes no account."""
    p, q = 701, 2**2038 + 2**2000 + 1161
    while pow(2, q - 1, q) != 1:
        q += 2
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    factored = server.client(JoseKey(numbers.private_key(unsafe_skip_rsa_key_validation=True)))
    assert_problem(await factored.post_raw(NEW_ACCOUNT, {}, use_jwk=True), 400, "badPublicKey")

    neutral = bytes([1]) + bytes(31)
    nonce = await server.client().nonce()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64u(neutral)}
    protected = {"alg": "EdDSA", "jwk": jwk, "nonce": nonce, "url": NEW_ACCOUNT}
    forged = {
        "protected": b64u(json.dumps(protected).encode()),
        "payload": b64u(b"{}"),
        "signature": b64u(neutral + bytes(32)),
    }
    response = await server.http.post(NEW_ACCOUNT, json=forged, headers={"content-type": "application/jose+json"})
    assert_problem(response, 400, "badPublicKey")
    assert not server.commits


@pytest.mark.parametrize(
    "kid",
    [
        f"{BASE}/acme/acct/{UNUSED}",
        f"{BASE}/acme/acct/",
        f"{BASE}/acme/acct/../acct/x",
        f"{BASE}/acme/order/{UNUSED}",
        "https://other.test/acme/acct/1",
        "1",
        f"{BASE}/acme/acct/\0\0\0",
        f"{BASE}/acme/acct/' OR 1=1 --",
        f"{BASE}/acme/acct/{'x' * 1000}",
    ],
)
async def test_unknown_accounts(server: AcmeServer, kid: str) -> None:
    """A kid that names no account here is accountDoesNotExist, whatever its form."""
    client = await server.registered()
    assert_problem(await client.post_raw(NEW_ORDER, ORDER, corruption=header(kid=kid)), 400, "accountDoesNotExist")


@pytest.mark.requirement("rfc8555-6.2-16")
@pytest.mark.parametrize(
    ("spelled", "otherwise"),
    [
        ("https://acme.test", "https://other.test"),
        ("https://acme.test", "https://acme.test:443"),
        ("https://acme.test", "HTTPS://acme.test"),
        ("https://acme.test", "http://acme.test"),
        ("https://acme.test", ""),
        ("/acct/", "/acct//"),
        ("/acct/", "/order/"),
    ],
)
async def test_the_kid_is_the_url_letter_by_letter(server: AcmeServer, spelled: str, otherwise: str) -> None:
    """The account's own URL in another spelling is not its kid."""
    client = await server.registered()
    kid = (client.kid or "").replace(spelled, otherwise)
    assert_problem(await client.post_raw(NEW_ORDER, ORDER, corruption=header(kid=kid)), 400, "accountDoesNotExist")


@pytest.mark.requirement("rfc8555-6.2-02")
async def test_foreign_kid(server: AcmeServer) -> None:
    """The kid of one account with the signature of another is refused."""
    alice, mallory = await server.registered(), await server.registered()
    response = await mallory.post_raw(NEW_ORDER, ORDER, corruption=header(kid=alice.kid))
    assert_problem(response, 400, "malformed")


@pytest.mark.requirement("rfc8555-6.2-13", "rfc8555-6.2-15")
async def test_jwk_and_kid_have_their_places(server: AcmeServer) -> None:
    """NewAccount wants jwk, everything else kid, except revokeCert, which takes either."""
    client = await server.registered()
    assert_problem(await client.post_raw(NEW_ORDER, ORDER, use_jwk=True), 400, "malformed")
    assert_problem(await client.post_raw(NEW_ACCOUNT, {}), 400, "malformed")
    assert client.kid is not None
    assert_problem(await client.post_raw(client.kid, None, use_jwk=True), 400, "malformed")
