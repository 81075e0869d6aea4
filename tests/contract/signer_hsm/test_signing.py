"""Who may sign what with which key, what is on record of it, and at which rate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.errors import KeyNotFoundError, KeyUnavailableError
from services.signer_hsm.client import (
    BadPayloadError,
    ForbiddenError,
    NotOfferedError,
    RateLimitedError,
    SignerRefusedError,
    UnknownKeyError,
)
from services.signer_hsm.errors import MisconfiguredError
from services.signer_hsm.wire import (
    ApprovalRequest,
    LifeCycleRequest,
    SignRequest,
)
from tests.support.signer_world import (
    CA,
    KEY_POLICY,
    SHOP,
    STRANGER,
    SignerWorld,
    tenant,
)

DIGEST = hashlib.sha256(b"message").digest()
JSON = {"content-type": "application/json"}
ONE = SignRequest("digest", (DIGEST,))


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


async def test_kinds_and_schemes_are_permissions(quick: SignerWorld) -> None:
    """A caller that may sign digests may not sign messages or mu, whatever the key takes."""
    with pytest.raises(ForbiddenError):
        await quick.client(SHOP).sign_request("shop.orders", SignRequest("mu", (bytes(64),)))
    await quick.client(SHOP).sign_request("shop.orders", ONE)


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
