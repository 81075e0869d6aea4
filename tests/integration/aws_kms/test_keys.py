"""Keys in AWS KMS from creation to destruction; at AWS itself when PQCPKI_TEST_AWS_REGION is set."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.algorithms import ALGORITHMS, Algorithm, PublicKey, algorithm_of, generate_private_key
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.aws_kms.answers import spki
from services.signer_hsm.errors import KeyNotFoundError, NotOfferedError, WrongStateError
from services.signer_hsm.schemes import SCHEMES, Scheme, schemes_of
from tests.support import backend_aws_kms
from tests.support.backend_world import BackendWorld

MESSAGE = b"the message that is signed"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
P256 = ALGORITHMS["ecdsa-p256"]


@pytest.fixture
async def kms(tmp_path: Path) -> AsyncIterator[BackendWorld]:
    """A back end at the simulator, or at AWS."""
    async with backend_aws_kms.world(tmp_path, SystemClock()) as made:
        yield made


def payload_of(key: BackendKey, scheme: Scheme) -> bytes:
    """What is sent to be signed for MESSAGE, in the kind of the algorithm's own table row."""
    if scheme.hash is not None:
        return hashlib.new(scheme.hash, MESSAGE).digest()
    return mu_of(key.public_key) if key.algorithm.family == "mldsa" else MESSAGE


def mu_of(public_key: PublicKey) -> bytes:
    """FIPS 204's mu of MESSAGE with the empty context."""
    assert isinstance(public_key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
    tr = hashlib.shake_256(public_key.public_bytes_raw()).digest(64)
    return hashlib.shake_256(tr + b"\x00\x00" + MESSAGE).digest(64)


def verify(public_key: PublicKey, scheme: Scheme, signature: bytes) -> None:
    """Raise unless the signature is one over MESSAGE."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        assert scheme.hash is not None
        public_key.verify(signature, MESSAGE, ec.ECDSA(HASHES[scheme.hash]))
    elif isinstance(public_key, rsa.RSAPublicKey):
        assert scheme.hash is not None
        chosen = HASHES[scheme.hash]
        pad = padding.PSS(padding.MGF1(chosen), chosen.digest_size) if scheme.padding == "pss" else padding.PKCS1v15()
        public_key.verify(signature, hashlib.new(scheme.hash, MESSAGE).digest(), pad, Prehashed(chosen))
    else:
        public_key.verify(signature, MESSAGE)


def algorithms() -> list[Algorithm]:
    """Every algorithm that is offered; RSA-4096, which takes a second to make, has a test of its own."""
    return [ALGORITHMS[name] for name in backend_aws_kms.CHEAP_FIRST]


@pytest.mark.parametrize("algorithm", algorithms(), ids=lambda row: row.name)
async def test_every_scheme_signs_what_an_independent_verifier_accepts(kms: BackendWorld, algorithm: Algorithm) -> None:
    """A digest, a mu or a message goes in as it is, and the signature verifies over the message."""
    key = await kms.backend.create(KeyLabel("ca", algorithm.name, 1), algorithm)
    assert algorithm_of(key.public_key) == algorithm
    for scheme in schemes_of(algorithm):
        signatures = await kms.backend.sign(key.handle, scheme, algorithm.payload, [payload_of(key, scheme)])
        assert isinstance(signatures[0], bytes)
        verify(key.public_key, scheme, signatures[0])


async def test_rsa_4096_signs(kms: BackendWorld) -> None:
    """The largest RSA key is made within the deadline and signs."""
    key = await kms.backend.create(KeyLabel("ca", "large", 1), ALGORITHMS["rsa-4096"])
    scheme = SCHEMES["PS512"]
    (signature,) = await kms.backend.sign(key.handle, scheme, "digest", [payload_of(key, scheme)])
    assert isinstance(signature, bytes)
    verify(key.public_key, scheme, signature)


@pytest.mark.parametrize("name", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
async def test_ml_dsa_signs_a_message_too(kms: BackendWorld, name: str) -> None:
    """A signature of the whole message has the form of one of its mu."""
    key = await kms.backend.create(KeyLabel("ca", name, 1), ALGORITHMS[name])
    scheme = schemes_of(key.algorithm)[0]
    (signature,) = await kms.backend.sign(key.handle, scheme, "message", [MESSAGE])
    assert isinstance(signature, bytes)
    verify(key.public_key, scheme, signature)
    assert key.kinds == {"mu", "message"}


async def test_a_key_is_found_by_its_label_and_by_its_handle_after_a_restart(kms: BackendWorld) -> None:
    """Alias and ARN lead to the same key with the same public half."""
    label = KeyLabel("ca", "issuing", 3)
    made = await kms.backend.create(label, P256)
    reopened = await kms.reopen()
    found = await reopened.find(label)
    assert found is not None
    loaded = await reopened.load(made.handle)
    assert made.handle == found.handle == loaded.handle
    assert spki(made.public_key) == spki(found.public_key) == spki(loaded.public_key)
    assert found.evidence == made.evidence


async def test_labels_that_differ_in_one_part_are_different_keys(kms: BackendWorld) -> None:
    """Another tenant, name or version is another key, and none that was not made is found."""
    await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    for other in (KeyLabel("cb", "issuing", 1), KeyLabel("ca", "issuing-1", 1), KeyLabel("ca", "issuing", 11)):
        assert await kms.backend.find(other) is None


async def test_a_second_key_with_one_label_is_refused_and_leaves_the_first(kms: BackendWorld) -> None:
    """The alias is taken, so the label still means the first key."""
    label = KeyLabel("ca", "issuing", 1)
    first = await kms.backend.create(label, P256)
    with pytest.raises(WrongStateError, match="already"):
        await kms.backend.create(label, P256)
    found = await kms.backend.find(label)
    assert found is not None
    assert found.handle == first.handle


async def test_a_disabled_key_does_not_sign_until_it_is_enabled(kms: BackendWorld) -> None:
    """KMS itself refuses; enabled again, the key signs at once."""
    key = await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    scheme = SCHEMES["ES256"]
    await kms.backend.set_enabled(key.handle, enabled=False)
    assert not (await kms.backend.load(key.handle)).enabled
    with pytest.raises(WrongStateError):
        await kms.backend.sign(key.handle, scheme, "digest", [payload_of(key, scheme)])
    await kms.backend.set_enabled(key.handle, enabled=True)
    assert (await kms.backend.load(key.handle)).enabled
    (signature,) = await kms.backend.sign(key.handle, scheme, "digest", [payload_of(key, scheme)])
    assert isinstance(signature, bytes)
    verify(key.public_key, scheme, signature)


async def test_destruction_is_scheduled_and_safe_to_repeat(kms: BackendWorld) -> None:
    """The date of the first order stands; the key signs no more, and is not enabled again by us."""
    key = await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    first = await kms.backend.destroy(key.handle)
    again = await kms.backend.destroy(key.handle)
    assert not first.final
    assert first.at == again.at > SystemClock().now() + timedelta(days=6)
    assert first.proof["KeyState"] == again.proof["KeyState"] == "PendingDeletion"
    assert first.proof["RequestId"]
    with pytest.raises(WrongStateError):
        await kms.backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    with pytest.raises(WrongStateError):
        await kms.backend.set_enabled(key.handle, enabled=True)


async def test_the_cloud_s_word_says_how_the_key_is_held(kms: BackendWorld) -> None:
    """There is no signed statement in KMS, and none is claimed."""
    key = await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    attestation = await kms.backend.attest(key.handle)
    assert (attestation.format, attestation.by, attestation.verified) == ("attributes", "cloud", False)
    assert attestation.statement is None
    assert attestation.claims["Origin"] == "AWS_KMS"
    assert attestation.claims["KeyManager"] == "CUSTOMER"
    assert attestation.claims["KeyId"] == key.handle


async def test_a_batch_has_one_signature_per_payload_in_order(kms: BackendWorld) -> None:
    """Each signature verifies over its own payload; one bad payload has its error in its place."""
    key = await kms.backend.create(KeyLabel("ca", "edwards", 1), ALGORITHMS["ed25519"])
    assert isinstance(key.public_key, ed25519.Ed25519PublicKey)
    messages = [f"message {number}".encode() for number in range(5)]
    messages[2] = bytes(4097)
    answers = await kms.backend.sign(key.handle, SCHEMES["EdDSA"], "message", messages)
    for number, (answer, message) in enumerate(zip(answers, messages, strict=True)):
        if number == 2:
            assert isinstance(answer, NotOfferedError)
        else:
            assert isinstance(answer, bytes)
            key.public_key.verify(answer, message)


@pytest.mark.parametrize(("kind", "scheme"), [("message", "ES256"), ("mu", "ES256"), ("digest", "EdDSA")])
async def test_a_kind_that_the_key_does_not_take_is_not_sent(kms: BackendWorld, kind: str, scheme: str) -> None:
    """The refusal is typed and comes before AWS is asked."""
    key = await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    with pytest.raises(NotOfferedError):
        await kms.backend.sign(key.handle, SCHEMES[scheme], kind, [bytes(32)])  # type: ignore[arg-type]  # words of a table


@pytest.mark.parametrize("size", [0, 4097])
async def test_messages_have_one_to_4096_octets(kms: BackendWorld, size: int) -> None:
    """What KMS does not take is refused here."""
    key = await kms.backend.create(KeyLabel("ca", "edwards", 1), ALGORITHMS["ed25519"])
    with pytest.raises(NotOfferedError, match="4096"):
        await kms.backend.sign(key.handle, SCHEMES["EdDSA"], "message", [bytes(size)])
    (signature,) = await kms.backend.sign(key.handle, SCHEMES["EdDSA"], "message", [bytes(4096)])
    assert isinstance(signature, bytes)


NOT_A_HANDLE = (
    "",
    "alias/pqcpki/ca/issuing/v1",
    "1234abcd-12ab-34cd-56ef-1234567890ab",
    "arn:aws:kms:moon-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "arn:aws:kms:eu-central-1:111122223333:alias/pqcpki/ca/issuing/v1",
    "arn:aws:kms:eu-central-1:111122223333:key/" + "a" * 3000,
)
BY_HANDLE: dict[str, Callable[[Backend, str], Awaitable[object]]] = {
    "load": lambda backend, handle: backend.load(handle),
    "sign": lambda backend, handle: backend.sign(handle, SCHEMES["ES256"], "digest", [bytes(32)]),
    "disable": lambda backend, handle: backend.set_enabled(handle, enabled=False),
    "destroy": lambda backend, handle: backend.destroy(handle),
    "attest": lambda backend, handle: backend.attest(handle),
}


@pytest.mark.parametrize("act", BY_HANDLE.values(), ids=BY_HANDLE)
async def test_a_handle_is_an_arn_of_this_region_or_nothing(
    kms: BackendWorld, act: Callable[[Backend, str], Awaitable[object]]
) -> None:
    """Aliases can be pointed elsewhere and other regions hold other keys, so neither is taken for a key."""
    for handle in NOT_A_HANDLE:
        with pytest.raises(KeyNotFoundError):
            await act(kms.backend, handle)


async def test_a_key_is_not_imported(kms: BackendWorld) -> None:
    """Migration rolls to a new key instead; nothing of the private key is in the refusal."""
    assert kms.backend.imports == frozenset()
    with pytest.raises(NotOfferedError, match="make a new key"):
        await kms.backend.import_key(KeyLabel("ca", "issuing", 1), generate_private_key(P256))


async def test_health_rehearses_with_a_key_or_lists_one_row(kms: BackendWorld) -> None:
    """Ready either way, and the answer says how that is known."""
    before = await kms.backend.health()
    assert before.ready
    assert before.detail["probe"] == "ListAliases"
    await kms.backend.create(KeyLabel("ca", "issuing", 1), P256)
    after = await kms.backend.health()
    assert after.ready
    assert after.detail["probe"] == "Sign DryRun"
