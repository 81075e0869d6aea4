"""From the making of a key to its destruction: versions, states, imports, lists, approvals."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.signer_hsm.client import (
    ApprovalsMissingError,
    BadPayloadError,
    ForbiddenError,
    IdempotencyConflictError,
    NotOfferedError,
    SignerRefusedError,
    UnknownKeyError,
    WrongStateError,
)
from services.signer_hsm.policy import Policy
from services.signer_hsm.wire import (
    ApprovalRequest,
    AttestationUpload,
    LifeCycleRequest,
    NewKeyRequest,
    SignRequest,
)
from tests.support.signer_world import (
    ADMIN,
    CA,
    KEY_POLICY,
    LIFE_CYCLE,
    LOOK,
    SECOND,
    SHOP,
    SignerWorld,
    rule,
)

DIGEST = hashlib.sha256(b"message").digest()
ONE = SignRequest("digest", (DIGEST,))
APPROVED = KEY_POLICY.replace('id = "admins"', 'id = "admins"\napprovals = 1').replace(
    str([*LIFE_CYCLE, *LOOK, "approve"]), str([*LIFE_CYCLE])
) + rule("approvers", "ca", [ADMIN, SECOND], [*LOOK, "approve"])


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


async def test_approvals_bind_and_count_once(empty_url: str) -> None:
    """An act that needs another's approval gets it once, for exactly that act, and not from its requester."""
    world = await SignerWorld.open(empty_url, policy=APPROVED)
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


async def test_attestation(world: SignerWorld) -> None:
    """The device's word is told as such; a statement that cannot be verified here is refused."""
    answer = await world.client().attestation("ca.issuing")
    assert (answer.by, answer.verified, answer.claims) == ("module", False, {"handle": "ca.issuing.v1"})
    with pytest.raises(NotOfferedError):
        await world.client().attest("ca.issuing", AttestationUpload("yubihsm2", (b"x", b"y")))
    with pytest.raises(ForbiddenError):
        await world.client(CA).attestation("ca.issuing")
