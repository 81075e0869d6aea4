"""Keys are made, disabled and destroyed once, however the back end fails, and wherever the process is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from datetime import timedelta
from pathlib import Path

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
    OutcomeUnknownError,
    SignerClientError,
    SignerUnavailableError,
    WrongStateError,
)
from services.signer_hsm.store import Claim, VersionIntent
from services.signer_hsm.wire import KeyDescription, LifeCycleRequest, NewKeyRequest, SignRequest
from tests.support.crashing_signer import ACTS, device_in
from tests.support.faulty_back_ends import CERTAIN, FAULTS
from tests.support.fork_server import fork_server
from tests.support.signer_world import ADMIN, CA, SignerWorld

DIGEST = hashlib.sha256(b"message").digest()
ONCE = SignRequest("digest", (DIGEST,), idempotency_key="once")
COMMITS = 12  # of the acts of `crashing_signer`, each two


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


async def test_what_is_not_open_is_not_what_offers_nothing(empty_url: str) -> None:
    """Whether a back end that does not open offers an algorithm is unknown: unavailable, with the reason, not 501."""
    settings = BackendSettings.model_validate({"name": "device"})
    reason = errors.UnavailableError("no slot holds the token of the settings")
    world = await SignerWorld.open(empty_url, backend=StandIn(settings, "pkcs11", reason))
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
