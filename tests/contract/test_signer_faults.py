from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import KeyNotFoundError
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError
from services.signer_hsm import errors
from services.signer_hsm.backends.settings import BackendSettings
from services.signer_hsm.backends.stand_in import StandIn
from services.signer_hsm.client import (
    IdempotencyConflictError,
    OutcomeUnknownError,
    SignerClientError,
    SignerUnavailableError,
    WrongStateError,
)
from services.signer_hsm.store import Claim, VersionIntent
from services.signer_hsm.wire import KeyDescription, LifeCycleRequest, NewKeyRequest, SignatureProblem, SignRequest
from tests.support.crashing_signer import ACTS, device_in
from tests.support.fork_server import fork_server
from tests.support.postgres import PostgresServer
from tests.support.signer_world import ADMIN, CA, KEY_POLICY, SHOP, SignerWorld, never, tenant

DIGEST = hashlib.sha256(b"message").digest()
OTHER = hashlib.sha256(b"another").digest()
ONCE = SignRequest("digest", (DIGEST,), idempotency_key="once")
COMMITS = 12  # of the acts of `crashing_signer`, each two


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
    """The service with a key of each tenant; operations have 0.3 s."""
    opened = await SignerWorld.open(url, deadline=0.3)
    await opened.make("ca.issuing")
    await opened.make("shop.orders")
    yield opened
    await opened.close()


FAULTS: dict[str, tuple[errors.BackendError, str, int]] = {
    "unavailable": (errors.UnavailableError("sealed", retry_after=7.0), "backend-unavailable", 503),
    "throttled": (errors.ThrottledError("slow down", retry_after=3.0), "backend-throttled", 503),
    "busy": (errors.BusyError("full", retry_after=1.0), "busy", 503),
    "denied": (errors.DeniedError("no"), "backend-denied", 503),
    "misconfigured": (errors.MisconfiguredError("PIN"), "backend-misconfigured", 503),
    "not found": (errors.KeyNotFoundError("gone"), "key-not-found", 404),
    "wrong state": (errors.WrongStateError("disabled"), "wrong-state", 409),
    "not offered": (errors.NotOfferedError("PSS"), "not-offered", 501),
    "deadline": (errors.DeadlineError("late"), "backend-timeout", 504),
    "bad answer": (errors.BadAnswerError("garbage"), "backend-bad-answer", 502),
    "broken off": (errors.UnavailableError("cut", retry_after=0.1, uncertain=True), "backend-unavailable", 503),
}
CERTAIN = [name for name, (error, _, _) in FAULTS.items() if not error.uncertain]


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
async def test_a_failure_that_did_nothing_frees_the_key(world: SignerWorld, name: str) -> None:
    """After a failure that surely did nothing the same request may come again and is signed."""
    world.device.fail("sign", FAULTS[name][0])
    with pytest.raises(SignerClientError):
        await world.client(CA).sign_request("ca.issuing", ONCE)
    world.device.heal()
    world.core.versions.backend("device").breaker.reset()
    await world.client(CA).sign_request("ca.issuing", ONCE)
    assert world.device.signed == [DIGEST]


@pytest.mark.parametrize("name", ["deadline", "bad answer", "broken off", "no answer", "lost answer"])
async def test_an_unknown_outcome_stays_unknown(world: SignerWorld, name: str) -> None:
    """A signature that may have been made is not made again under its idempotency key, ever; under another it is."""
    if name == "no answer":
        world.device.before["sign"] = never
    elif name == "lost answer":
        world.device.after["sign"] = never
    else:
        world.device.fail("sign", FAULTS[name][0], when="after")
    with pytest.raises(SignerUnavailableError) as caught:
        await world.client(CA).sign_request("ca.issuing", ONCE)
    assert caught.value.status in {502, 503, 504}
    world.device.heal()
    signed = len(world.device.signed)
    assert signed == (name != "no answer")
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await world.client(CA).sign_request("ca.issuing", ONCE)
    again = await SignerWorld.open(world.url, clock=world.clock, device=world.device)
    again.clock.advance(timedelta(days=1))
    with pytest.raises(OutcomeUnknownError):
        await again.client(CA).sign_request("ca.issuing", ONCE)
    assert len(world.device.signed) == signed
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
    other = await SignerWorld.open(world.url, clock=world.clock, device=world.device, deadline=2.0)
    first = asyncio.create_task(world.client(CA).sign_request("ca.issuing", ONCE))
    await begun.wait()
    second = asyncio.create_task(other.client(CA).sign_request("ca.issuing", ONCE))
    await asyncio.sleep(0.1)
    gate.set()
    assert (await first).signatures == (await second).signatures
    assert world.device.signed == [DIGEST]
    await other.close()


async def test_what_a_dead_process_was_signing_is_unknown(world: SignerWorld) -> None:
    """A claim that nobody works on any more is refused at once when it is old, and after a wait when it is young."""
    asked = ["sign", "ca.issuing", None, "digest", None, False, [hashlib.sha256(DIGEST).hexdigest()]]
    digest = hashlib.sha256(orjson.dumps(asked)).digest()
    at = int(world.clock.now().timestamp())
    claim = Claim(str(CA), "ca", "once", digest, "ca.issuing", 1, at)
    await world.core.store.begin_signing(claim, AuditEvent("test", "test"))
    with pytest.raises(OutcomeUnknownError):
        await world.client(CA).sign_request("ca.issuing", ONCE)
    world.clock.advance(timedelta(minutes=1))
    with pytest.raises(OutcomeUnknownError):
        await world.client(CA).sign_request("ca.issuing", ONCE)
    assert world.device.signed == []


async def test_a_tenant_has_so_many_requests_under_way(tmp_path: Path) -> None:
    """One more than a tenant may have under way is busy and does not reach the device.

    The first of a second is on record as refused, be it a signature or an act of the life cycle.
    """
    policy = KEY_POLICY.replace(tenant("ca"), tenant("ca", max_in_flight=1))
    seconds = [100.0]
    url = f"sqlite:///{tmp_path}/s.sqlite3"
    world = await SignerWorld.open(url, policy=policy, monotonic=lambda: seconds[0], deadline=30.0)
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


async def test_a_creation_without_an_answer_is_adopted(world: SignerWorld) -> None:
    """The key was made and the answer lost: the repetition finds it by its label and does not make another."""
    world.device.fail("create", errors.DeadlineError("late"), when="after")
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "n1")
    with pytest.raises(SignerUnavailableError) as caught:
        await world.client().create(request)
    assert caught.value.kind == "backend-timeout"
    assert (await world.client().key("ca.n")).state == "creating"
    with pytest.raises(WrongStateError):
        await world.client(CA).sign("ca.n", 1, "digest", DIGEST, "ES256")
    made = await world.client().create(request)
    assert (made.state, made.version) == ("enabled", 1)
    assert world.device.calls.count("create") == 2
    await world.client(CA).sign("ca.n", 1, "digest", DIGEST, "ES256")


async def test_what_is_not_open_is_not_what_offers_nothing(url: str) -> None:
    """Whether a back end that does not open offers an algorithm is unknown: unavailable, with the reason, not 501."""
    settings = BackendSettings.model_validate({"name": "device"})
    reason = errors.UnavailableError("no slot holds the token of the settings")
    world = await SignerWorld.open(url, backend=StandIn(settings, "pkcs11", reason))
    for act in ("create", "import"):
        key = generate_private_key(ALGORITHMS["ecdsa-p256"])
        pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) if act == "import" else None
        with pytest.raises(SignerUnavailableError, match="device is not ready: no slot holds the token"):
            await world.client().create(NewKeyRequest("ca", "n", "ecdsa-p256", act, None, pkcs8))
    await world.close()


async def test_a_creation_that_never_happened_fails_after_a_while(world: SignerWorld) -> None:
    """While the back end may still be at it nothing is decided; then the version has failed, and the next is made."""
    world.device.fail("create", errors.DeadlineError("late"))
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "n1")
    for kind in ("backend-timeout", "backend-unavailable"):
        with pytest.raises(SignerUnavailableError) as caught:
            await world.client().create(request)
        assert caught.value.kind == kind
    world.device.heal()
    world.clock.advance(timedelta(minutes=5))
    again = await world.reopen()
    assert (await again.client().key("ca.n")).state == "failed"
    with pytest.raises(KeyNotFoundError):  # nothing of it can be found: whoever moves a key begins anew
        await again.client().public_key_of("ca.n")
    made = await again.client().create(request)
    assert (made.state, made.version) == ("enabled", 2)
    assert [version.state for version in made.versions] == ["failed", "enabled"]
    world.database = again.database


async def test_the_database_bounds_the_versions_of_a_key(world: SignerWorld) -> None:
    """Whatever a process believes: one version more than the key may have is not written, nor anything with it."""
    key = world.core.store.catalogue.key("ca.issuing")
    claim = Claim("a", "ca", "k", b"", key.id, 2, 0)
    with pytest.raises(ConflictError):
        await world.core.store.begin_version(VersionIntent(key, 2, None, 0, 20, 1), claim, (), AuditEvent("e", "a"))
    assert await world.core.store.claimed(claim.place) is None
    await world.core.store.begin_version(VersionIntent(key, 2, None, 0, 20, 2), claim, (), AuditEvent("e", "a"))
    assert world.core.store.catalogue.key("ca.issuing").versions[2].state == "creating"


@pytest.mark.parametrize("name", CERTAIN)
async def test_a_creation_that_did_nothing_can_come_again(world: SignerWorld, name: str) -> None:
    """After a failure that surely did nothing, the same request makes the key, under a number of its own."""
    world.device.fail("create", FAULTS[name][0])
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "n1")
    with pytest.raises(SignerClientError):
        await world.client().create(request)
    assert (await world.client().key("ca.n")).state == "failed"
    world.device.heal()
    world.core.versions.backend("device").breaker.reset()
    changed = NewKeyRequest("ca", "n", "ecdsa-p384", "n2")
    made = await world.client().create(changed)
    assert (made.algorithm, made.state, made.version) == ("ecdsa-p384", "enabled", 2)


async def test_a_key_that_is_not_the_imported_one_is_not_adopted(world: SignerWorld) -> None:
    """What is found under the label of an import must be the key that was brought in."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    world.device.fail("import", errors.DeadlineError("late"))
    request = NewKeyRequest("ca", "n", "ecdsa-p256", "n1", private_key=der)
    with pytest.raises(SignerUnavailableError):
        await world.client().create(request)
    world.device.heal()
    world.device.keys["ca.n.v1"] = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(SignerUnavailableError) as caught:
        await world.client().create(request)
    assert caught.value.kind == "backend-bad-answer"
    assert (await world.client().key("ca.n")).state == "failed"


async def test_disabling_takes_effect_before_the_device_follows(world: SignerWorld) -> None:
    """A device that does not answer cannot keep a key signing; the repetition goes on, and so does a restart."""
    world.device.fail("disable", errors.UnavailableError("away"))
    for _ in range(2):
        with pytest.raises(SignerUnavailableError):
            await world.client().disable("ca.issuing", LifeCycleRequest("d"))
        with pytest.raises(WrongStateError):
            await world.client(CA).sign_request("ca.issuing", ONCE)
    world.device.heal()
    again = await world.reopen()
    assert world.device.disabled == {"ca.issuing.v1"}
    assert (await again.client().disable("ca.issuing", LifeCycleRequest("d"))).state == "disabled"
    world.device.fail("enable", errors.UnavailableError("away"))
    with pytest.raises(SignerUnavailableError):
        await again.client().enable("ca.issuing", LifeCycleRequest("e"))
    assert (await again.client().key("ca.issuing")).state == "disabled"
    world.device.heal()
    assert (await again.client().enable("ca.issuing", LifeCycleRequest("e"))).state == "enabled"
    world.database = again.database


async def until(holds: Callable[[], bool]) -> None:
    """Wait, for ten seconds at most, until it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to that")


async def test_a_signature_that_waits_for_its_turn_is_not_made_after_a_disable(tmp_path: Path) -> None:
    """What waits for a place at the back end while the version is disabled is refused, its idempotency key freed."""
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", deadline=30.0)
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


async def test_a_destruction_without_an_answer_is_completed(world: SignerWorld) -> None:
    """From the intent on the key signs no more; the sweep or the repetition brings the proof."""
    world.device.fail("destroy", errors.DeadlineError("late"), when="after")
    with pytest.raises(SignerUnavailableError):
        await world.client().destroy("ca.issuing", LifeCycleRequest("x"))
    assert (await world.client().key("ca.issuing")).state == "destroying"
    with pytest.raises(WrongStateError):
        await world.client(CA).sign_request("ca.issuing", ONCE)
    world.device.heal()
    await world.core.versions.sweep()
    gone = await world.client().destroy("ca.issuing", LifeCycleRequest("x"))
    assert gone.versions[0].destruction is not None
    assert gone.state == "destroyed"


def run_crashing(tmp_path: Path, *kill: str) -> subprocess.CompletedProcess[str]:
    """Do the acts in a process of their own."""
    (tmp_path / "device").mkdir(exist_ok=True)
    arguments = [f"sqlite:///{tmp_path}/s.sqlite3", str(tmp_path / "device"), *kill]
    return fork_server().run("tests.support.crashing_signer", arguments, os.environ, timeout=120, check=False)


def test_the_acts_have_so_many_commits(tmp_path: Path) -> None:
    """Each act has its intent and its end: whoever adds a commit adds a case to the next test."""
    done = run_crashing(tmp_path)
    assert done.returncode == 0, done.stderr
    labels = [line for line in done.stdout.splitlines() if line.replace("-", "").isalpha()]
    assert labels == [
        *("version-intent", "version-made", "signing", "signed", "version-intent", "version-made"),
        *("change-intent", "changed", "change-intent", "changed", "change-intent", "destruction"),
    ]
    assert len(labels) == COMMITS


DEATHS = [(moment, nth) for nth in range(1, COMMITS + 1) for moment in [("before", "after")[nth % 2]]]
"""After each intent, and before each end: between them the device acts. What lies around them is the same state."""


@pytest.mark.parametrize(("moment", "nth"), [*DEATHS, ("after", 4)])
async def test_killed_at_any_commit(tmp_path: Path, moment: str, nth: int) -> None:
    """SIGKILL at each commit: the same requests end well afterwards, no key is lost, nothing is signed twice."""
    died = run_crashing(tmp_path, moment, str(nth))
    assert died.returncode == -signal.SIGKILL, died.stderr
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", device=device_in(tmp_path / "device"))
    world.clock.advance(timedelta(minutes=5))
    await world.core.versions.recover()
    assert list(world.core.store.catalogue.unsettled()) == []
    for name, act in ACTS.items():
        try:
            answer = await act(world.client(ADMIN), world.client(CA))
        except OutcomeUnknownError:
            assert name == "sign"
            assert (moment, nth) in {("after", 3), ("before", 4)}
        else:
            assert not isinstance(answer, KeyDescription) or answer.state in {"enabled", "disabled", "destroyed"}
    final = await world.client(ADMIN).key("ca.k")
    states = [version.state for version in final.versions if version.state != "failed"]
    assert states == ["enabled", "destroyed"]
    assert len((tmp_path / "device" / "signed").read_text().splitlines()) <= 1
    handles = {f"ca.k.v{version.version}" for version in final.versions if version.state == "enabled"}
    assert set(world.device.keys) == handles
    await world.close()
