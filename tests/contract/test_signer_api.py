from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.errors import KeyNotFoundError, KeyUnavailableError
from services.signer_hsm.client import (
    ApprovalsMissingError,
    BadPayloadError,
    ForbiddenError,
    IdempotencyConflictError,
    NotOfferedError,
    RateLimitedError,
    SignerRefusedError,
    UnknownKeyError,
    WrongStateError,
)
from services.signer_hsm.errors import MisconfiguredError
from services.signer_hsm.policy import Policy
from services.signer_hsm.wire import (
    ApprovalRequest,
    AttestationUpload,
    LifeCycleRequest,
    NewKeyRequest,
    SignRequest,
)
from tests.support.postgres import PostgresServer
from tests.support.signer_world import (
    ADMIN,
    CA,
    KEY_POLICY,
    LIFE_CYCLE,
    LOOK,
    SECOND,
    SHOP,
    STRANGER,
    SignerWorld,
    rule,
    tenant,
)

DIGEST = hashlib.sha256(b"message").digest()
JSON = {"content-type": "application/json"}
ONE = SignRequest("digest", (DIGEST,))
APPROVED = KEY_POLICY.replace('id = "admins"', 'id = "admins"\napprovals = 1').replace(
    str([*LIFE_CYCLE, *LOOK, "approve"]), str([*LIFE_CYCLE])
) + rule("approvers", "ca", [ADMIN, SECOND], [*LOOK, "approve"])


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/signer.sqlite3"
    server: PostgresServer | None = request.getfixturevalue("postgres")
    if server is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    return server.new_database()


@pytest.fixture
async def world(url: str) -> AsyncIterator[SignerWorld]:
    """The service with one key of each of two tenants."""
    opened = await SignerWorld.open(url)
    await opened.make("ca.issuing")
    await opened.make("shop.orders")
    yield opened
    await opened.close()


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The same, on SQLite only: where the database makes no difference."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/signer.sqlite3")
    await opened.make("ca.issuing")
    await opened.make("shop.orders")
    yield opened
    await opened.close()


async def test_a_key_is_made_signs_and_ends(world: SignerWorld) -> None:
    """A key is made, signs under both versions, is disabled, enabled, destroyed, and tells all of it."""
    admin, ca = world.client(ADMIN), world.client(CA)
    remote = await ca.public_key("ca.issuing", None)
    assert (remote.version, remote.kinds) == (1, frozenset({"digest"}))
    assert isinstance(remote.public_key, ec.EllipticCurvePublicKey)
    signature = await ca.sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    remote.public_key.verify(signature, DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))

    rotated = await admin.rotate("ca.issuing", LifeCycleRequest("r1"))
    assert (rotated.version, [item.state for item in rotated.versions]) == (2, ["enabled", "enabled"])
    assert (await ca.public_key("ca.issuing", None)).version == 2
    await ca.sign("ca.issuing", 1, "digest", DIGEST, "ES256")

    await admin.disable("ca.issuing", LifeCycleRequest("d1", version=1))
    with pytest.raises(WrongStateError, match="disabled"):
        await ca.sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    assert world.device.disabled == {"ca.issuing.v1"}
    await admin.enable("ca.issuing", LifeCycleRequest("e1", version=1))
    await ca.sign("ca.issuing", 1, "digest", DIGEST, "ES256")

    gone = await admin.destroy("ca.issuing", LifeCycleRequest("x1", version=1))
    destroyed = gone.versions[0]
    assert destroyed.state == "destroyed"
    assert destroyed.destruction is not None
    assert destroyed.destruction.proof == {"removed": "ca.issuing.v1"}
    with pytest.raises(WrongStateError, match="destroyed"):
        await ca.sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    assert list(world.device.keys) == ["ca.issuing.v2"]
    assert await admin.key("ca.issuing") == gone


async def test_what_was_done_is_there_after_a_restart(world: SignerWorld) -> None:
    """Keys, versions and states outlive the process."""
    await world.client().rotate("ca.issuing", LifeCycleRequest("r1"))
    await world.client().disable("ca.issuing", LifeCycleRequest("d1", version=1))
    before = await world.client().key("ca.issuing")
    again = await world.reopen()
    assert await again.client().key("ca.issuing") == before
    await again.client(CA).sign("ca.issuing", 2, "digest", DIGEST, "ES256")
    world.database = again.database


@pytest.mark.parametrize("algorithm", ["ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-65"])
async def test_each_family_signs_what_it_takes(quick: SignerWorld, algorithm: str) -> None:
    """Digests for ECDSA and RSA, messages for Ed25519, mu for ML-DSA; anything else is a bad payload."""
    await quick.make("ca.k", algorithm)
    ca = quick.client(CA)
    payloads = {
        "ecdsa-p384": SignRequest("digest", (bytes(48),)),
        "rsa-2048": SignRequest("digest", (bytes(32),), scheme="PS256"),
        "ed25519": SignRequest("message", (b"any length",)),
        "ml-dsa-65": SignRequest("mu", (bytes(64),)),
    }
    answer = await ca.sign_request("ca.k", payloads[algorithm])
    assert isinstance(answer.signatures[0], bytes)
    for name, request in payloads.items():
        if name != algorithm and (algorithm, name) != ("ml-dsa-65", "ed25519"):
            with pytest.raises(BadPayloadError):
                await ca.sign_request("ca.k", request)


async def test_a_kind_that_the_device_does_not_take_is_not_offered(quick: SignerWorld) -> None:
    """Where a device takes whole messages only, mu is a refusal of its own, before the device is asked."""
    quick.device.kinds = {**quick.device.kinds, "ml-dsa-44": frozenset({"message"})}
    await quick.make("ca.k", "ml-dsa-44")
    quick.device.calls.clear()
    with pytest.raises(NotOfferedError, match="message"):
        await quick.client(CA).sign_request("ca.k", SignRequest("mu", (bytes(64),)))
    assert quick.device.calls == []


async def test_a_batch_is_one_decision_and_one_commit(world: SignerWorld) -> None:
    """64 payloads come back in their order; the record names the hash of each."""
    payloads = tuple(hashlib.sha256(bytes([number])).digest() for number in range(64))
    world.commits.clear()
    answer = await world.client(CA).sign_request("ca.issuing", SignRequest("digest", payloads, batch=True))
    assert world.commits == ["decision"]
    public_key = (await world.client(CA).public_key("ca.issuing", 1)).public_key
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    for payload, signature in zip(payloads, answer.signatures, strict=True):
        assert isinstance(signature, bytes)
        public_key.verify(signature, payload, ec.ECDSA(Prehashed(hashes.SHA256())))
    record = (await world.audit())[-2]
    assert record["payload_sha256"] == [hashlib.sha256(payload).hexdigest() for payload in payloads]


async def test_the_record_says_it_all(world: SignerWorld) -> None:
    """Policy, rule, caller, act, key, version, kind, scheme and payload hash are on record even if the device fails."""
    world.device.fail("sign", MisconfiguredError("no"))
    with pytest.raises(KeyUnavailableError):
        await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    policy = world.core.decisions.policy
    assert (await world.audit())[-1] == {
        "policy": {"version": 1, "sha256": policy.sha256},
        "result": "allowed",
        "reason": "allowed",
        "rule": "ca-signs",
        "caller": str(CA),
        "subject": None,
        "act": "sign",
        "tenant": "ca",
        "key": "issuing",
        "version": 1,
        "kind": "digest",
        "scheme": "ES256",
        "payload_sha256": [hashlib.sha256(DIGEST).hexdigest()],
        "at": int(world.clock.now().timestamp()),
    }


async def test_import_is_an_act_of_its_own(world: SignerWorld) -> None:
    """A private key is brought in where policy and device allow it; what is no such key is refused and not repeated."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    made = await world.client().create(NewKeyRequest("ca", "old", "ecdsa-p256", "i1", private_key=der))
    assert made.state == "enabled"
    assert (await world.client(CA).public_key("ca.old", 1)).public_key == key.public_key()
    assert (await world.audit())[-2]["act"] == "import"
    for name, algorithm, wrong in (
        ("a", "ecdsa-p256", b"no key"),
        ("b", "ecdsa-p384", der),
        ("c", "ecdsa-p256", der[:-1]),
        ("d", "ecdsa-p256", rsa_key()),
    ):
        with pytest.raises(SignerRefusedError) as caught:
            await world.client().create(NewKeyRequest("ca", name, algorithm, f"i-{name}", private_key=wrong))
        assert caught.value.kind in {"bad-payload", "not-offered"}
        assert der.hex() not in str(caught.value)
        with pytest.raises(UnknownKeyError):
            await world.client().key(f"ca.{name}")


def rsa_key() -> bytes:
    """PKCS#8 of an RSA key."""
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


async def test_lists_are_pages_of_ones_own_keys(world: SignerWorld) -> None:
    """Pages follow each other by id; another tenant's keys are in none, whatever `after` says."""
    for number in range(5):
        await world.make(f"ca.k{number}")
    admin = world.client()
    first = await admin.keys("ca", limit=4)
    assert [key.id for key in first.keys] == ["ca.issuing", "ca.k0", "ca.k1", "ca.k2"]
    rest = await admin.keys("ca", after=first.next, limit=4)
    assert ([key.id for key in rest.keys], rest.next) == (["ca.k3", "ca.k4"], None)
    assert (await admin.keys("ca", after="shop.a")).keys == ()
    with pytest.raises(ForbiddenError):
        await admin.keys("shop")
    with pytest.raises(ForbiddenError):
        await admin.keys("nobody")


@pytest.mark.parametrize("key_id", ["shop.orders", "shop.missing", "nobody.orders"])
async def test_anothers_keys_look_as_if_they_were_not_there(world: SignerWorld, key_id: str) -> None:
    """Existing and missing keys of another tenant, and tenants that do not exist: the same answer, the same commits."""
    seen = set()
    async with world.http(CA) as http:
        for method, path, body in (
            ("POST", f"/v1/keys/{key_id}/sign", ONE.to_json()),
            ("GET", f"/v1/keys/{key_id}/pubkey", None),
            ("GET", f"/v1/keys/{key_id}", None),
            ("GET", f"/v1/keys/{key_id}/attestation", None),
            ("POST", f"/v1/keys/{key_id}/rotate", LifeCycleRequest("k").to_json()),
            ("POST", f"/v1/keys/{key_id}/disable", LifeCycleRequest("k", 1).to_json()),
            ("POST", f"/v1/keys/{key_id}/enable", LifeCycleRequest("k", 1).to_json()),
            ("POST", f"/v1/keys/{key_id}/destroy", LifeCycleRequest("k").to_json()),
            ("POST", "/v1/approvals", ApprovalRequest("destroy", key_id).to_json()),
        ):
            world.commits.clear()
            answer = await http.request(method, path, content=body, headers=JSON)
            seen.add((answer.status_code, answer.content, tuple(world.commits)))
    document = {
        "type": "urn:pqcpki:problem:forbidden",
        "title": "Forbidden",
        "status": 403,
        "detail": "the key policy does not allow this caller to do this",
    }
    assert [(status, json.loads(body), commits) for status, body, commits in seen] == [(403, document, ("decision",))]


async def test_a_missing_key_of_ones_own_is_told(world: SignerWorld) -> None:
    """Who may sign with a name learns that there is no such key; that, too, is on record once."""
    world.commits.clear()
    with pytest.raises(UnknownKeyError) as caught:
        await world.client(CA).sign("ca.missing", 1, "digest", DIGEST, "ES256")
    assert isinstance(caught.value, KeyNotFoundError)
    assert world.commits == ["decision"]
    with pytest.raises(UnknownKeyError):
        await world.client(CA).sign("ca.issuing", 7, "digest", DIGEST, "ES256")


async def test_strangers_and_nameless_callers(quick: SignerWorld) -> None:
    """A caller whom no rule names sees no back end and no key; one without SPIFFE ID or certificate not even that."""
    health = await quick.client(STRANGER).health()
    assert dict(health.backends) == {}
    assert set((await quick.client(CA).health()).backends) == {"device"}
    assert set((await quick.client(SHOP).health()).backends) == {"other"}
    async with quick.http(None) as http:
        for path in ("/health", "/v1/policy", "/pubkey?key=ca.issuing"):
            assert (await http.get(path)).status_code == 403


async def test_kinds_and_schemes_are_permissions(quick: SignerWorld) -> None:
    """A caller that may sign digests may not sign messages or mu, whatever the key takes."""
    with pytest.raises(ForbiddenError):
        await quick.client(SHOP).sign_request("shop.orders", SignRequest("mu", (bytes(64),)))
    await quick.client(SHOP).sign_request("shop.orders", ONE)


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


async def test_what_cannot_be_made(world: SignerWorld) -> None:
    """Algorithms and back ends that are not offered, other tenants' back ends, names in use, and too many keys."""
    admin = world.client()
    for algorithm, backend in (("rsa-4096", None), ("dsa", None), ("ecdsa-p256", "other"), ("ecdsa-p256", "none")):
        with pytest.raises(NotOfferedError) as caught:
            await admin.create(NewKeyRequest("ca", "n", algorithm, f"k-{algorithm}-{backend}", backend))
        assert "other" not in str(caught.value)
    with pytest.raises(WrongStateError, match="there is a key of this name"):
        await admin.create(NewKeyRequest("ca", "issuing", "ecdsa-p256", "again"))
    for number in range(19):
        await world.make(f"ca.k{number}")
    with pytest.raises(WrongStateError, match="as many keys"):
        await world.make("ca.one-too-many")
    await admin.destroy("ca.k0", LifeCycleRequest("x"))
    await world.make("ca.the-next")
    with pytest.raises(WrongStateError):
        await admin.create(NewKeyRequest("ca", "k0", "ecdsa-p256", "reborn"))


async def test_wrong_states(world: SignerWorld) -> None:
    """A destroyed version is not enabled, disabled, or followed by another; a stale version is not rotated."""
    admin = world.client()
    with pytest.raises(WrongStateError, match="not the current"):
        await admin.rotate("ca.issuing", LifeCycleRequest("r", version=9))
    await admin.destroy("ca.issuing", LifeCycleRequest("x"))
    for act in (admin.disable, admin.enable, admin.destroy, admin.rotate):
        with pytest.raises(WrongStateError):
            await act("ca.issuing", LifeCycleRequest(f"k-{act.__name__}"))
    with pytest.raises(UnknownKeyError):
        await admin.disable("ca.issuing", LifeCycleRequest("v", version=5))


async def test_life_cycle_acts_are_done_once_per_idempotency_key(world: SignerWorld) -> None:
    """A repetition answers what was done and does nothing; another request under the key is a conflict."""
    admin = world.client()
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "once")
    first = await admin.create(request)
    assert await admin.create(request) == first
    assert world.device.calls.count("create") == 2
    with pytest.raises(IdempotencyConflictError):
        await admin.create(NewKeyRequest("ca", "m", "ecdsa-p256", "once"))
    with pytest.raises(IdempotencyConflictError):
        await admin.rotate("ca.n", LifeCycleRequest("once"))
    rotated = await admin.rotate("ca.n", LifeCycleRequest("r"))
    assert await admin.rotate("ca.n", LifeCycleRequest("r")) == rotated
    assert rotated.version == 2
    other = world.client(SECOND)
    assert (await other.create(NewKeyRequest("ca", "m", "ecdsa-p256", "once"))).version == 1


async def test_two_racing_creations_make_one_key(world: SignerWorld) -> None:
    """Of two requests for one name one makes the key and the other is refused; with one idempotency key both get it."""
    requests = [NewKeyRequest("ca", "n", "ecdsa-p256", key) for key in ("a", "b")]
    outcomes = await asyncio.gather(*(world.client().create(item) for item in requests), return_exceptions=True)
    assert sorted(type(item).__name__ for item in outcomes) == ["KeyDescription", "WrongStateError"]
    same = NewKeyRequest("ca", "m", "ecdsa-p256", "c")
    one, two = await asyncio.gather(world.client().create(same), world.client().create(same))
    assert one == two


async def test_another_process_sees_a_change_within_a_second(world: SignerWorld) -> None:
    """A version disabled by one process signs no more in another as soon as that one has looked."""
    other = await SignerWorld.open(world.url, clock=world.clock, device=world.device)
    await other.client(CA).sign_request("ca.issuing", ONE)
    await world.client().disable("ca.issuing", LifeCycleRequest("d"))
    await other.core.store.refresh()
    with pytest.raises(WrongStateError):
        await other.client(CA).sign_request("ca.issuing", ONE)
    await other.client().rotate("ca.issuing", LifeCycleRequest("r"))
    with pytest.raises(WrongStateError):  # this process has not looked yet, and its number is taken
        await world.client().rotate("ca.issuing", LifeCycleRequest("r2"))
    await other.close()


async def test_approvals_bind_and_count_once(url: str) -> None:
    """An act that needs another's approval gets it once, for exactly that act, and not from its requester."""
    world = await SignerWorld.open(url, policy=APPROVED)
    admin, second = world.client(ADMIN), world.client(SECOND)
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "k1")
    parameters = {"algorithm": "ecdsa-p256", "backend": "device"}
    with pytest.raises(ApprovalsMissingError) as caught:
        await admin.create(request)
    assert caught.value.status == 403
    await admin.approve(ApprovalRequest("create", "ca.n", None, parameters))
    with pytest.raises(ApprovalsMissingError):
        await admin.create(request)
    await second.approve(ApprovalRequest("create", "ca.n", None, {**parameters, "algorithm": "rsa-2048"}))
    with pytest.raises(ApprovalsMissingError):
        await admin.create(request)
    given = await second.approve(ApprovalRequest("create", "ca.n", None, parameters))
    assert given.expires_at - given.approved_at == 3600
    assert len(await admin.approvals("ca")) == 3
    assert (await admin.create(request)).state == "enabled"
    assert given.id not in {item.id for item in await admin.approvals("ca")}
    await second.approve(ApprovalRequest("destroy", "ca.n"))
    world.clock.advance(timedelta(hours=2))
    with pytest.raises(ApprovalsMissingError):
        await admin.destroy("ca.n", LifeCycleRequest("x"))
    assert list(await admin.approvals("ca")) == []
    with pytest.raises(ForbiddenError):
        await world.client(SHOP).approvals("ca")
    await world.close()


async def test_an_approval_is_of_one_version(quick: SignerWorld) -> None:
    """An approval to destroy the current version does not destroy the one that follows it."""
    quick.core.decisions.policy = Policy.load(APPROVED)
    admin, second = quick.client(ADMIN), quick.client(SECOND)
    await second.approve(ApprovalRequest("rotate", "ca.issuing"))
    await second.approve(ApprovalRequest("destroy", "ca.issuing"))
    await admin.rotate("ca.issuing", LifeCycleRequest("r"))
    with pytest.raises(ApprovalsMissingError):
        await admin.destroy("ca.issuing", LifeCycleRequest("x"))
    assert (await admin.destroy("ca.issuing", LifeCycleRequest("y", version=1))).versions[0].state == "destroyed"


async def test_approvals_that_could_not_be_used_are_not_taken(quick: SignerWorld) -> None:
    """Acts that need none, and parameters that no such act has: the approver learns it, not the requester later."""
    quick.core.decisions.policy = Policy.load(APPROVED)
    second = quick.client(SECOND)
    for act, key_id, parameters in (
        ("sign", "ca.issuing", {}),
        ("list", "ca.issuing", {}),
        ("rotate", "ca.issuing", {"algorithm": "ecdsa-p256"}),
        ("create", "ca.n", {"algorithm": "ecdsa-p256"}),
        ("create", "ca.n", {"algorithm": "ecdsa-p256", "backend": "device", "x": "y"}),
        ("import", "ca.n", {"algorithm": "ecdsa-p256", "backend": "device"}),
    ):
        with pytest.raises(BadPayloadError):
            await second.approve(ApprovalRequest(act, key_id, None, parameters))


async def test_rates_are_limited_and_told(tmp_path: Path) -> None:
    """Beyond the rate callers get 429 with a time; one such refusal per second is on record; other tenants go on."""
    policy = KEY_POLICY.replace(tenant("ca"), tenant("ca", rate_per_second=0.5, burst=3))
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", policy=policy, monotonic=lambda: 100.0)
    await world.make("ca.issuing")
    await world.make("shop.orders")
    outcomes = [await refusal_of(world.client(CA).sign_request("ca.issuing", ONE)) for _ in range(10)]
    assert outcomes[:2] == [None, None]
    assert all(isinstance(error, RateLimitedError) for error in outcomes[2:])
    await world.client(SHOP).sign_request("shop.orders", ONE)
    assert [item["reason"] for item in await world.audit()].count("rate-limited") == 1
    async with world.http(CA) as http:
        answer = await http.post("/v1/keys/ca.issuing/sign", content=ONE.to_json(), headers=JSON)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["retry_after"]) == (429, "2", 2.0)
    await world.close()


async def test_refusals_cannot_fill_the_log(tmp_path: Path) -> None:
    """Refusals of one caller are recorded up to a number per second; beyond it nothing is even decided."""
    seconds = [100.0]
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", monotonic=lambda: seconds[0])
    await world.make("ca.issuing")
    stranger = world.client(STRANGER)
    outcomes = [await refusal_of(stranger.sign_request("ca.issuing", ONE)) for _ in range(60)]
    assert [type(error) for error in outcomes] == [ForbiddenError] * 50 + [RateLimitedError] * 10
    assert len([item for item in await world.audit() if item["result"] == "refused"]) == 50
    await world.client(CA).sign_request("ca.issuing", ONE)
    seconds[0] += 1
    assert isinstance(await refusal_of(stranger.sign_request("ca.issuing", ONE)), ForbiddenError)
    await world.close()


async def refusal_of(call: Any) -> Exception | None:  # noqa: ANN401 -- any call of the client
    """The refusal that a call ends with."""
    try:
        await call
    except SignerRefusedError as error:
        return error
    return None


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
    """A path with a slash too many is no path: a redirect would tell strangers what is there, under any host."""
    async with quick.http(STRANGER, host="elsewhere.example") as http:
        answer = await http.get(path)
    assert answer.status_code == 404
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


async def test_attestation(world: SignerWorld) -> None:
    """The device's word is told as such; a statement that cannot be verified here is refused."""
    answer = await world.client().attestation("ca.issuing")
    assert (answer.by, answer.verified, answer.claims) == ("module", False, {"handle": "ca.issuing.v1"})
    with pytest.raises(NotOfferedError):
        await world.client().attest("ca.issuing", AttestationUpload("yubihsm2", (b"x", b"y")))
    with pytest.raises(ForbiddenError):
        await world.client(CA).attestation("ca.issuing")


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
        assert (await http.request("DELETE", "/v1/keys/ca.issuing")).status_code in {403, 405}
        assert (await http.get("/v1/nothing")).status_code in {403, 404}
