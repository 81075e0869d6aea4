"""A signature is made once: back ends that fail, callers that go away, processes that die with a claim."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from services.chassis.database import AuditEvent
from services.signer_hsm import errors
from services.signer_hsm.client import (
    IdempotencyConflictError,
    OutcomeUnknownError,
    SignerClientError,
    SignerUnavailableError,
    WrongStateError,
)
from services.signer_hsm.store import Claim
from services.signer_hsm.wire import LifeCycleRequest, SignatureProblem, SignRequest
from tests.support.faulty_back_ends import CERTAIN, FAULTS
from tests.support.signer_world import ADMIN, CA, KEY_POLICY, SHOP, SignerWorld, never, tenant

DIGEST = hashlib.sha256(b"message").digest()
OTHER = hashlib.sha256(b"another").digest()
PATIENT = 30.0  # seconds that operations have: more than a busy machine takes
ONCE = SignRequest("digest", (DIGEST,), idempotency_key="once")


@pytest.mark.parametrize("name", FAULTS)
async def test_each_fault_has_its_problem(tmp_path: Path, name: str) -> None:
    """What the back end did not do reaches the caller as its own type, with the time to come back."""
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", deadline=3.0)
    await world.make("ca.issuing")
    error, kind, status = FAULTS[name]
    world.device.fail("sign", error)
    with pytest.raises(SignerClientError) as caught:
        await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert caught.value.retry_after == error.retry_after
    await world.close()


async def test_a_signature_is_made_once_per_idempotency_key(world: SignerWorld) -> None:
    """Repetitions, also at the same time and after a restart, get the same bytes; the device signs once."""
    ca = world.client(CA)
    answers = await asyncio.gather(*(ca.sign_request("ca.issuing", ONCE) for _ in range(8)))
    answers.append(await ca.sign_request("ca.issuing", ONCE))
    again = await SignerWorld.open(world.url, clock=world.clock, device=world.device)
    answers.append(await again.client(CA).sign_request("ca.issuing", ONCE))
    assert len({answer.signatures for answer in answers}) == 1
    assert world.device.signed == [DIGEST]
    assert len([item for item in await again.audit() if item["act"] == "sign"]) == 10
    await again.close()


async def test_what_was_signed_is_answered_after_the_key_was_disabled(world: SignerWorld) -> None:
    """A repetition gets its bytes whatever has become of the key; a new request gets the key's state."""
    first = await world.client(CA).sign_request("ca.issuing", ONCE)
    await world.client(ADMIN).disable("ca.issuing", LifeCycleRequest("d"))
    assert await world.client(CA).sign_request("ca.issuing", ONCE) == first
    with pytest.raises(WrongStateError):
        await world.client(CA).sign_request("ca.issuing", SignRequest("digest", (DIGEST,), idempotency_key="new"))
    with pytest.raises(IdempotencyConflictError):
        await world.client(CA).sign_request("ca.issuing", SignRequest("digest", (OTHER,), idempotency_key="once"))


@pytest.mark.parametrize(
    "changed",
    [
        SignRequest("digest", (OTHER,), idempotency_key="once"),
        SignRequest("digest", (DIGEST,), idempotency_key="once", scheme="ES256"),
        SignRequest("digest", (DIGEST,), idempotency_key="once", version=1),
        SignRequest("digest", (DIGEST,), batch=True, idempotency_key="once"),
        SignRequest("digest", (DIGEST, OTHER), batch=True, idempotency_key="once"),
    ],
)
async def test_another_request_under_the_key_is_a_conflict(world: SignerWorld, changed: SignRequest) -> None:
    """Whatever differs, nothing is signed; also while the first one is under way."""
    ca = world.client(CA)
    await ca.sign_request("ca.issuing", ONCE)
    with pytest.raises(IdempotencyConflictError):
        await ca.sign_request("ca.issuing", changed)
    assert world.device.signed == [DIGEST]
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    world.device.before["sign"] = wait
    first = SignRequest("digest", (DIGEST,), idempotency_key="slow")
    running = asyncio.create_task(ca.sign_request("ca.issuing", first))
    await asyncio.sleep(0.05)
    with pytest.raises(IdempotencyConflictError):
        await ca.sign_request("ca.issuing", SignRequest("digest", (OTHER,), idempotency_key="slow"))
    gate.set()
    await running


async def test_idempotency_keys_belong_to_caller_and_tenant(world: SignerWorld) -> None:
    """Somebody else's key neither answers nor blocks nor tells anything."""
    first = await world.client(CA).sign_request("ca.issuing", ONCE)
    other = await world.client(SHOP).sign_request("shop.orders", ONCE)
    assert other.key == "shop.orders"
    assert other.signatures != first.signatures
    assert (world.device.signed, world.other.signed) == ([DIGEST], [DIGEST])


@pytest.mark.parametrize("name", CERTAIN)
async def test_a_failure_that_did_nothing_frees_the_key(hasty: SignerWorld, name: str) -> None:
    """After a failure that surely did nothing the same request may come again and is signed."""
    hasty.device.fail("sign", FAULTS[name][0])
    with pytest.raises(SignerClientError):
        await hasty.client(CA).sign_request("ca.issuing", ONCE)
    hasty.device.heal()
    hasty.core.versions.backend("device").breaker.reset()
    await hasty.client(CA).sign_request("ca.issuing", ONCE)
    assert hasty.device.signed == [DIGEST]


@pytest.mark.parametrize("name", ["deadline", "bad answer", "broken off", "no answer", "lost answer"])
async def test_an_unknown_outcome_stays_unknown(hasty: SignerWorld, name: str) -> None:
    """A signature that may have been made is not made again under its idempotency key, ever; under another it is."""
    if name == "no answer":
        hasty.device.before["sign"] = never
    elif name == "lost answer":
        hasty.device.after["sign"] = never
    else:
        hasty.device.fail("sign", FAULTS[name][0], when="after")
    with pytest.raises(SignerUnavailableError) as caught:
        await hasty.client(CA).sign_request("ca.issuing", ONCE)
    assert caught.value.status in {502, 503, 504}
    hasty.device.heal()
    signed = len(hasty.device.signed)
    assert signed == (name != "no answer")
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await hasty.client(CA).sign_request("ca.issuing", ONCE)
    again = await SignerWorld.open(hasty.url, clock=hasty.clock, device=hasty.device)
    again.clock.advance(timedelta(days=1))
    with pytest.raises(OutcomeUnknownError):
        await again.client(CA).sign_request("ca.issuing", ONCE)
    assert len(hasty.device.signed) == signed
    await again.client(CA).sign_request("ca.issuing", SignRequest("digest", (DIGEST,), idempotency_key="next"))
    await again.close()


async def test_a_caller_that_goes_away_leaves_nothing_half_done(world: SignerWorld) -> None:
    """A request that is cancelled while the device signs is completed, and its repetition gets the signature."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await gate.wait()

    world.device.before["sign"] = wait
    running = asyncio.create_task(world.client(CA).sign_request("ca.issuing", ONCE))
    await begun.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    gate.set()
    assert isinstance((await world.client(CA).sign_request("ca.issuing", ONCE)).signatures[0], bytes)
    assert world.device.signed == [DIGEST]


async def test_another_processs_signature_is_waited_for(world: SignerWorld) -> None:
    """A duplicate at another process waits for the first one's answer."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await gate.wait()

    world.device.before["sign"] = wait
    other = await SignerWorld.open(world.url, clock=world.clock, device=world.device, deadline=PATIENT)
    first = asyncio.create_task(world.client(CA).sign_request("ca.issuing", ONCE))
    await begun.wait()
    second = asyncio.create_task(other.client(CA).sign_request("ca.issuing", ONCE))
    await asyncio.sleep(0.1)
    gate.set()
    assert (await first).signatures == (await second).signatures
    assert world.device.signed == [DIGEST]
    await other.close()


async def test_what_a_dead_process_was_signing_is_unknown(hasty: SignerWorld) -> None:
    """A claim that nobody works on any more is refused at once when it is old, and after a wait when it is young."""
    asked = ["sign", "ca.issuing", None, "digest", None, False, [hashlib.sha256(DIGEST).hexdigest()]]
    digest = hashlib.sha256(orjson.dumps(asked)).digest()
    at = int(hasty.clock.now().timestamp())
    claim = Claim(str(CA), "ca", "once", digest, "ca.issuing", 1, at)
    await hasty.core.store.begin_signing(claim, AuditEvent("test", "test"))
    with pytest.raises(OutcomeUnknownError):
        await hasty.client(CA).sign_request("ca.issuing", ONCE)
    hasty.clock.advance(timedelta(minutes=1))
    with pytest.raises(OutcomeUnknownError):
        await hasty.client(CA).sign_request("ca.issuing", ONCE)
    assert hasty.device.signed == []


async def test_a_tenant_has_so_many_requests_under_way(tmp_path: Path) -> None:
    """One more than a tenant may have under way is busy and does not reach the device.

    The first of a second is on record as refused, be it a signature or an act of the life cycle.
    """
    policy = KEY_POLICY.replace(tenant("ca"), tenant("ca", max_in_flight=1))
    seconds = [100.0]
    url = f"sqlite:///{tmp_path}/s.sqlite3"
    world = await SignerWorld.open(url, policy=policy, monotonic=lambda: seconds[0], deadline=PATIENT)
    await world.make("ca.issuing")
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await gate.wait()

    world.device.before["sign"] = wait
    first = asyncio.create_task(world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256"))
    await begun.wait()
    before = len(await world.audit())
    for _ in range(5):
        with pytest.raises(SignerUnavailableError) as caught:
            await world.client(CA).sign("ca.issuing", 1, "digest", OTHER, "ES256")
        assert (caught.value.kind, caught.value.retry_after) == ("busy", 1.0)
    seconds[0] += 1.0
    for _ in range(5):
        with pytest.raises(SignerUnavailableError):
            await world.client(ADMIN).rotate("ca.issuing", LifeCycleRequest("r"))
    recorded = [(item["act"], item["result"], item["reason"]) for item in (await world.audit())[before:]]
    assert recorded == [("sign", "refused", "busy"), ("rotate", "refused", "busy")]
    gate.set()
    await first
    assert world.device.signed == [DIGEST]
    await world.close()


async def test_each_payload_of_a_batch_may_fail_alone(world: SignerWorld) -> None:
    """A batch in which one payload failed has its problem in its place, and the same answer when it is repeated."""
    world.device.refused[OTHER] = errors.ThrottledError("slow down")
    request = SignRequest("digest", (DIGEST, OTHER), batch=True, idempotency_key="batch")
    answer = await world.client(CA).sign_request("ca.issuing", request)
    assert isinstance(answer.signatures[0], bytes)
    assert answer.signatures[1] == SignatureProblem("backend-throttled", "slow down")
    assert await world.client(CA).sign_request("ca.issuing", request) == answer
    assert world.device.signed == [DIGEST]


async def until(holds: Callable[[], bool]) -> None:
    """Wait, for ten seconds at most, until it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to that")


async def test_a_signature_that_waits_for_its_turn_is_not_made_after_a_disable(tmp_path: Path) -> None:
    """What waits for a place at the back end while the version is disabled is refused, its idempotency key freed."""
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", deadline=PATIENT)
    await world.make("ca.issuing")
    gate, ca = asyncio.Event(), world.client(CA)

    async def wait() -> None:
        await gate.wait()

    world.device.before["sign"] = wait
    alone = SignRequest("digest", (DIGEST,))
    under_way = [asyncio.create_task(ca.sign_request("ca.issuing", alone)) for _ in range(24)]
    await until(lambda: world.device.calls.count("sign") == len(under_way))
    late = SignRequest("digest", (OTHER,), idempotency_key="late")
    waiting = asyncio.create_task(ca.sign_request("ca.issuing", late))
    await until(lambda: "signing" in world.commits)
    disabling = asyncio.create_task(world.client().disable("ca.issuing", LifeCycleRequest("d")))
    await until(lambda: world.core.store.catalogue.key("ca.issuing").version(1).state == "disabled")
    gate.set()
    with pytest.raises(WrongStateError):
        await waiting
    await asyncio.gather(*under_way, disabling)
    assert set(world.device.signed) == {DIGEST}
    await world.client().enable("ca.issuing", LifeCycleRequest("e"))
    await ca.sign_request("ca.issuing", late)
    assert OTHER in world.device.signed
    await world.close()
