"""Requests as they come over HTTP: bodies, names and queries that are none, headers, and who is told what."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from services.signer_hsm.client import (
    BadPayloadError,
    SignerRefusedError,
)
from services.signer_hsm.wire import (
    LifeCycleRequest,
    SignRequest,
)
from tests.support.signer_world import (
    ADMIN,
    CA,
    SHOP,
    STRANGER,
    SignerWorld,
)

DIGEST = hashlib.sha256(b"message").digest()
JSON = {"content-type": "application/json"}
ONE = SignRequest("digest", (DIGEST,))


async def test_strangers_and_nameless_callers(quick: SignerWorld) -> None:
    """A caller whom no rule names sees no back end and no key; one without SPIFFE ID or certificate not even that."""
    health = await quick.client(STRANGER).health()
    assert dict(health.backends) == {}
    assert set((await quick.client(CA).health()).backends) == {"device"}
    assert set((await quick.client(SHOP).health()).backends) == {"other"}
    async with quick.http(None) as http:
        for path in ("/health", "/v1/policy", "/pubkey?key=ca.issuing"):
            assert (await http.get(path)).status_code == 403


BAD_SIGN_BODIES: dict[str, Any] = {
    "no JSON": b"{",
    "a list": [],
    "nothing": {},
    "unknown member": {"kind": "digest", "payload": "AAAA", "extra": 1},
    "the key in the long form": {"kind": "digest", "payload": "AAAA", "key": "shop.orders"},
    "unhashable kind": {"kind": ["digest"], "payload": "AAAA"},
    "another kind": {"kind": "raw", "payload": "AAAA"},
    "both forms": {"kind": "digest", "payload": "AAAA", "payloads": ["AAAA"]},
    "neither form": {"kind": "digest"},
    "no batch": {"kind": "digest", "payloads": []},
    "65 payloads": {"kind": "digest", "payloads": ["AAAA"] * 65},
    "payloads no list": {"kind": "digest", "payloads": {"0": "AAAA"}},
    "bad base64": {"kind": "digest", "payload": "A"},
    "url base64": {"kind": "digest", "payload": "__--"},
    "base64 with bits in its padding": {"kind": "digest", "payload": "AAB="},
    "base64 with bits in its padding, of a batch": {"kind": "digest", "payloads": ["AAA=", "AB=="]},
    "a member twice": b'{"kind":"digest","payload":"AAAA","payload":"BBBB"}',
    "a member twice, spelt in two ways": b'{"kind":"digest","payload":"AAAA","p\\u0061yload":"BBBB"}',
    "a number twice": b'{"kind":"digest","payload":"AAAA","version":1,"version":2}',
    "not ASCII": {"kind": "digest", "payload": "\u00e4\u00f6\u00fc="},
    "a number": {"kind": "digest", "payload": 7},
    "version 0": {"kind": "digest", "payload": "AAAA", "version": 0},
    "version -1": {"kind": "digest", "payload": "AAAA", "version": -1},
    "version huge": {"kind": "digest", "payload": "AAAA", "version": 2**63},
    "version beyond 64 bits": b'{"kind":"digest","payload":"AAAA","version":99999999999999999999999}',
    "version true": {"kind": "digest", "payload": "AAAA", "version": True},
    "version 1.0": {"kind": "digest", "payload": "AAAA", "version": 1.0},
    "version text": {"kind": "digest", "payload": "AAAA", "version": "1"},
    "scheme no text": {"kind": "digest", "payload": "AAAA", "scheme": 5},
    "scheme long": {"kind": "digest", "payload": "AAAA", "scheme": "E" * 33},
    "idempotency key empty": {"kind": "digest", "payload": "AAAA", "idempotency_key": ""},
    "idempotency key long": {"kind": "digest", "payload": "AAAA", "idempotency_key": "k" * 201},
    "idempotency key with NUL": {"kind": "digest", "payload": "AAAA", "idempotency_key": "k\0"},
    "idempotency key surrogate": b'{"kind":"digest","payload":"AAAA","idempotency_key":"\\ud800"}',
}


@pytest.mark.parametrize("name", BAD_SIGN_BODIES)
async def test_bodies_that_are_no_request(quick: SignerWorld, name: str) -> None:
    """Whatever is not exactly a request is malformed, decides nothing, and reaches no device."""
    body = BAD_SIGN_BODIES[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    quick.commits.clear()
    quick.device.calls.clear()
    async with quick.http(CA) as http:
        answer = await http.post("/v1/keys/ca.issuing/sign", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:pqcpki:problem:malformed")
    assert (quick.commits, quick.device.calls) == ([], [])


@pytest.mark.parametrize("length", [0, 1, 31, 33, 48, 64])
async def test_digests_of_another_length(quick: SignerWorld, length: int) -> None:
    """A digest has the length of the key's hash and no other."""
    quick.device.calls.clear()
    with pytest.raises(BadPayloadError):
        await quick.client(CA).sign_request("ca.issuing", SignRequest("digest", (bytes(length),)))
    assert quick.device.calls == []


async def test_sizes_are_bounded(quick: SignerWorld) -> None:
    """A body beyond the limit is refused by its length; a message beyond 64 KiB by its own; the longest one passes."""
    await quick.make("ca.ed", "ed25519")
    async with quick.http(CA) as http:
        huge = b'{"kind":"message","payload":"' + b"A" * (1024 * 1024) + b'"}'
        assert (await http.post("/sign", content=huge, headers=JSON)).status_code == 413
        lie = {**JSON, "content-length": "99999999999"}
        assert (await http.post("/v1/keys/ca.ed/sign", content=b"{}", headers=lie)).status_code == 413
    ca = quick.client(CA)
    await ca.sign_request("ca.ed", SignRequest("message", (bytes(64 * 1024),)))
    with pytest.raises(SignerRefusedError):
        await ca.sign_request("ca.ed", SignRequest("message", (bytes(64 * 1024 + 1),)))
    await ca.sign_request("ca.ed", SignRequest("message", (b"",)))


ODD_KEY_IDS = ["ca", "ca.", ".issuing", "CA.issuing", "ca.issuing.x", "ca.%00", "c\u0430.issuing", "ca.i" + "i" * 63]
ODD_KEY_IDS += ["-ca.issuing", "ca.-issuing", "ca.issuing%0a", "ca.*", "*.*", "ca..issuing", "ca.issuing%20"]


@pytest.mark.parametrize("key_id", ODD_KEY_IDS)
async def test_names_that_are_none(quick: SignerWorld, key_id: str) -> None:
    """Tenants and names of other characters or lengths are malformed at every endpoint, and never looked up."""
    quick.commits.clear()
    async with quick.http(CA) as http:
        answers = [
            await http.post(f"/v1/keys/{key_id}/sign", content=ONE.to_json(), headers=JSON),
            await http.get(f"/v1/keys/{key_id}/pubkey"),
            await http.get(f"/pubkey?key={key_id}"),
            await http.get(f"/v1/keys/{key_id}"),
            await http.post(f"/v1/keys/{key_id}/destroy", content=LifeCycleRequest("k").to_json(), headers=JSON),
            await http.get(f"/v1/keys/{key_id}/attestation"),
        ]
    assert {answer.status_code for answer in answers} <= {400, 404}
    assert quick.commits == []


QUERIES = ["version=0", "version=-1", "version=1e3", "version=99999999", "version=", "version=1&version=2", "x=1"]
QUERIES += ["version=%31%00", "version=\u0661", "a=1&b=2&c=3&d=4&e=5", "version", "version=" + "1" * 5000]


@pytest.mark.parametrize("query", QUERIES)
async def test_queries_that_are_none(quick: SignerWorld, query: str) -> None:
    """Unknown, repeated, oversized or odd parameters are malformed."""
    async with quick.http(CA) as http:
        for path in ("/v1/keys/ca.issuing/pubkey", "/pubkey"):
            answer = await http.get(f"{path}?{query}")
            assert (answer.status_code, answer.json()["type"]) == (400, "urn:pqcpki:problem:malformed")


@pytest.mark.parametrize(
    "query", ["", "tenant=", "tenant=CA", "tenant=ca&limit=0", "tenant=ca&limit=501", "tenant=ca&x=1"]
)
async def test_lists_that_are_not_asked_for_well(quick: SignerWorld, query: str) -> None:
    """A list has a tenant and a limit within bounds."""
    async with quick.http(ADMIN) as http:
        assert (await http.get(f"/v1/keys?{query}")).status_code == 400
        assert (await http.get(f"/v1/keys?tenant=ca&after={query or '.'}")).status_code == 400


NEW_KEYS: dict[str, dict[str, Any]] = {
    "no idempotency key": {"tenant": "ca", "name": "n", "algorithm": "ecdsa-p256"},
    "unknown member": {"tenant": "ca", "name": "n", "algorithm": "ecdsa-p256", "idempotency_key": "k", "x": 1},
    "odd tenant": {"tenant": "ca\n", "name": "n", "algorithm": "ecdsa-p256", "idempotency_key": "k"},
    "odd name": {"tenant": "ca", "name": "../../etc", "algorithm": "ecdsa-p256", "idempotency_key": "k"},
    "long name": {"tenant": "ca", "name": "n" * 64, "algorithm": "ecdsa-p256", "idempotency_key": "k"},
    "algorithm no text": {"tenant": "ca", "name": "n", "algorithm": None, "idempotency_key": "k"},
    "null private key": {
        "tenant": "ca",
        "name": "n",
        "algorithm": "ecdsa-p256",
        "idempotency_key": "k",
        "private_key": None,
    },
}


@pytest.mark.parametrize("name", NEW_KEYS)
async def test_new_keys_that_make_no_sense(quick: SignerWorld, name: str) -> None:
    """Bodies that are not exactly a request make nothing."""
    async with quick.http(ADMIN) as http:
        answer = await http.post("/v1/keys", json=NEW_KEYS[name])
        assert answer.status_code == 400
        text = await http.post("/v1/keys", content=b"{}", headers={"content-type": "text/plain"})
        assert text.status_code == 415
    assert [key.id for key in (await quick.client().keys("ca")).keys] == ["ca.issuing"]


async def test_a_shown_token_is_never_ignored(quick: SignerWorld) -> None:
    """Where no issuer is configured, any Authorization header is a refusal, not a fall-back to the certificate."""
    for value in ("Bearer x", "Basic Y2E6", "", "Bearer " + "x" * 20_000):
        async with quick.http(CA, authorization=value) as http:
            answer = await http.post(
                "/sign", content=SignRequest("digest", (DIGEST,), key="ca.issuing").to_json(), headers=JSON
            )
            assert answer.status_code in {400, 403}
            assert (await http.get("/v1/keys?tenant=ca")).status_code in {400, 403}


async def test_headers_change_nothing(quick: SignerWorld) -> None:
    """Headers that claim another path, method, caller or host are not listened to."""
    tricks = {
        "x-forwarded-for": "10.0.0.1",
        "x-original-url": "/v1/keys/shop.orders/sign",
        "x-http-method-override": "DELETE",
        "x-spiffe-id": str(SHOP),
        "x-forwarded-client-cert": f"URI={SHOP}",
        "host": "shop.example",
    }
    async with quick.http(CA, **tricks) as http:
        answer = await http.post("/v1/keys/ca.issuing/sign", content=ONE.to_json(), headers=JSON)
        assert answer.json()["key"] == "ca.issuing"
        refused = await http.post("/v1/keys/shop.orders/sign", content=ONE.to_json(), headers=JSON)
        assert refused.status_code == 403
    assert (await quick.audit())[-1]["caller"] == str(CA)


@pytest.mark.parametrize("path", ["/v1/policy/", "/v1/keys/ca.issuing/", "/v1/keys/"])
async def test_nothing_is_redirected(quick: SignerWorld, path: str) -> None:
    """A path with a slash too many is refused as any: a redirect would tell strangers what is there, under any host."""
    async with quick.http(STRANGER, host="elsewhere.example") as http:
        answer = await http.get(path)
    assert answer.status_code == 403
    assert "location" not in answer.headers


async def test_short_forms(quick: SignerWorld) -> None:
    """`/sign` and `/pubkey` name the key in body and query, and are decided alike."""
    async with quick.http(CA) as http:
        body = SignRequest("digest", (DIGEST,), key="ca.issuing").to_json()
        signed = await http.post("/sign", content=body, headers=JSON)
        assert (signed.status_code, signed.json()["version"]) == (200, 1)
        told = await http.get("/pubkey?key=ca.issuing&version=1")
        assert told.json()["schemes"] == ["ES256"]
        assert base64.b64decode(told.json()["public_key"])[:1] == b"0"
        for wrong in (ONE.to_json(), SignRequest("digest", (DIGEST,), key="shop.orders").to_json()):
            assert (await http.post("/sign", content=wrong, headers=JSON)).status_code in {400, 403}
        assert (await http.get("/pubkey")).status_code == 400


async def test_policy_health_and_description(quick: SignerWorld) -> None:
    """The policy in force, the state of the back ends, and the OpenAPI page are told."""
    policy = await quick.client().policy()
    assert (policy.version, policy.sha256) == (1, quick.core.decisions.policy.sha256)
    health = await quick.client().health()
    assert (health.status, health.policy) == ("ok", policy)
    assert health.backends["device"]["breaker"] == "closed"
    async with quick.http(ADMIN) as http:
        described = (await http.get("/v1/openapi.json")).json()
        assert "/v1/keys/{key_id}/rotate" in described["paths"]
        assert (await http.request("DELETE", "/v1/keys/ca.issuing")).status_code == 403
        assert (await http.get("/v1/nothing")).status_code == 403
