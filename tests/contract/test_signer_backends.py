"""What every back end of signer-hsm must do alike: one suite over all of them, real modules and simulators.

Each tests/support/backend_<kind>.py is a world; one that cannot run here is skipped with its reason.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS, Payload, algorithm_of, generate_private_key, verify_signature
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.settings import FileSettings
from services.signer_hsm.errors import BackendError, KeyNotFoundError, NotOfferedError, WrongStateError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES, Scheme, schemes_of
from tests.support.backend_world import BackendWorld, WorldMissingError
from tests.support.payloads import check_signature, payload_of, usual_scheme

SUPPORT = Path(__file__).parents[1] / "support"
WORLDS = sorted(path.stem for path in SUPPORT.glob("backend_*.py") if path.stem != "backend_world")
KINDS: tuple[Payload, ...] = get_args(Payload)
LABEL = KeyLabel("bank", "issuing", 1)
MESSAGE = b"one message for all"
_OURS = ("tests", "services", "pkicore")


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BackendWorld]:
    """One back end in fresh surroundings."""
    try:
        module = importlib.import_module(f"tests.support.{request.param}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(_OURS):
            raise
        pytest.skip(f"not run: {error.name} missing")
    surroundings = module.world(tmp_path, SystemClock())
    try:
        made: BackendWorld = await surroundings.__aenter__()
    except WorldMissingError as error:
        pytest.skip(f"not run: {error}")
    yield made
    await made.backend.aclose()
    await surroundings.__aexit__(None, None, None)


async def _key(world: BackendWorld, label: KeyLabel = LABEL) -> BackendKey:
    """A key of the cheapest algorithm."""
    return await world.backend.create(label, ALGORITHMS[world.algorithms[0]])


def _kind(key: BackendKey) -> Payload:
    usual = key.algorithm.payload
    return usual if usual in key.kinds else "message"


async def _sign(
    backend: Backend, key: BackendKey, messages: Sequence[bytes] = (MESSAGE,)
) -> Sequence[bytes | BackendError]:
    """Signatures over the messages in the key's usual way."""
    scheme, kind = usual_scheme(key.algorithm), _kind(key)
    payloads = [payload_of(key.public_key, scheme, kind, message) for message in messages]
    return await backend.sign(key.handle, scheme, kind, payloads)


async def _assert_signs(backend: Backend, key: BackendKey) -> None:
    check_signature(key.public_key, usual_scheme(key.algorithm), (await _sign(backend, key))[0], MESSAGE)


def _one_per_family(world: BackendWorld) -> Sequence[str]:
    """The cheapest algorithm of each family."""
    first: dict[str, str] = {}
    for name in world.algorithms:
        first.setdefault(ALGORITHMS[name].family, name)
    return list(first.values())


def _spki(key: BackendKey) -> bytes:
    return key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_every_back_end_has_a_world() -> None:
    """The suite runs over each type of back end that the settings know."""
    expected = {"backend_file", "backend_pkcs11", "backend_nss", "backend_vault", "backend_aws_kms", "backend_gcp_kms"}
    assert expected <= set(WORLDS)


async def test_keys_are_what_was_asked_for(world: BackendWorld) -> None:
    """A new key has the asked algorithm, the offered payload kinds, and evidence of how it is held."""
    for name in world.algorithms:
        key = await world.backend.create(replace(LABEL, name=name), ALGORITHMS[name])
        assert key.algorithm is ALGORITHMS[name] is algorithm_of(key.public_key)
        assert key.kinds == world.backend.offers[name], name
        assert key.enabled
        assert key.handle
        assert world.evidence.items() <= key.evidence.items(), name


async def test_each_kind_and_scheme_signs(world: BackendWorld) -> None:
    """Each payload kind and scheme of each algorithm gives a signature that is one over the whole message."""
    for name in world.algorithms:
        key = await world.backend.create(replace(LABEL, name=name), ALGORITHMS[name])
        schemes = world.rsa_schemes if key.algorithm.family == "rsa" else (key.algorithm.jws,)
        for scheme, kind in product([SCHEMES[scheme] for scheme in schemes], sorted(key.kinds)):
            payload = payload_of(key.public_key, scheme, kind, MESSAGE)
            (signature,) = await world.backend.sign(key.handle, scheme, kind, [payload])
            check_signature(key.public_key, scheme, signature, MESSAGE)
            if scheme.name == key.algorithm.jws:
                assert isinstance(signature, bytes)
                verify_signature(key.public_key, signature, MESSAGE)


async def test_messages_of_any_length(world: BackendWorld) -> None:
    """A key that takes messages signs the shortest one, empty where the back end can, and one of 4096 octets."""
    for name in _one_per_family(world):
        if "message" not in world.backend.offers[name]:
            continue
        key = await world.backend.create(replace(LABEL, name=name), ALGORITHMS[name])
        scheme = usual_scheme(key.algorithm)
        for message in (bytes(world.shortest_message), b"\x00" * 4096):
            (signature,) = await world.backend.sign(key.handle, scheme, "message", [message])
            check_signature(key.public_key, scheme, signature, message)


async def test_kinds_not_offered_are_refused(world: BackendWorld) -> None:
    """A payload kind that the key does not take is refused with its own error, not signed as something else."""
    for name in _one_per_family(world):
        key = await world.backend.create(replace(LABEL, name=name), ALGORITHMS[name])
        for kind in set(KINDS) - key.kinds:
            with pytest.raises(NotOfferedError):
                await world.backend.sign(key.handle, usual_scheme(key.algorithm), kind, [b"\x01" * 64])


async def test_other_schemes_are_refused(world: BackendWorld) -> None:
    """A scheme of another algorithm, hash or family is refused with its own error."""
    key = await _key(world)
    for scheme in SCHEMES.values():
        if scheme in schemes_of(key.algorithm):
            continue
        kind: Payload = "digest" if scheme.hash else "message"
        with pytest.raises(NotOfferedError):
            await world.backend.sign(key.handle, scheme, kind, [bytes(_length(scheme))])


def _length(scheme: Scheme) -> int:
    return {"sha256": 32, "sha384": 48, "sha512": 64, None: 64}[scheme.hash]


async def test_unknown_handles(world: BackendWorld) -> None:
    """A handle that leads nowhere is told as such by each act."""
    await _key(world)
    scheme = usual_scheme(ALGORITHMS[world.algorithms[0]])
    kind = ALGORITHMS[world.algorithms[0]].payload
    for handle in ("no-such-key", "../../etc/passwd", ""):
        with pytest.raises(KeyNotFoundError):
            await world.backend.load(handle)
        with pytest.raises(KeyNotFoundError):
            await world.backend.sign(handle, scheme, kind, [bytes(_length(scheme))])
        with pytest.raises((KeyNotFoundError, NotOfferedError)):
            await world.backend.attest(handle)


async def test_keys_are_found_by_label(world: BackendWorld) -> None:
    """After a lost answer the key is found again by its label; a label without a key finds nothing."""
    key = await _key(world)
    found = await world.backend.find(LABEL)
    assert found is not None
    assert (found.handle, found.algorithm, found.kinds) == (key.handle, key.algorithm, key.kinds)
    assert found.public_key == key.public_key
    await _assert_signs(world.backend, found)
    for missing in (replace(LABEL, version=2), replace(LABEL, name="other"), replace(LABEL, tenant="other")):
        assert await world.backend.find(missing) is None


async def test_keys_are_loaded_by_handle(world: BackendWorld) -> None:
    """A handle gives the key as the back end has it."""
    key = await _key(world)
    loaded = await world.backend.load(key.handle)
    assert (loaded.handle, loaded.algorithm, loaded.kinds, loaded.enabled) == (
        key.handle,
        key.algorithm,
        key.kinds,
        True,
    )
    assert loaded.public_key == key.public_key


async def test_disabled_keys_do_not_sign(world: BackendWorld) -> None:
    """A disabled key is refused as such until it is enabled; where the back end has no such state it goes on."""
    key = await _key(world)
    for _ in range(2):  # repeating it is no error
        await world.backend.set_enabled(key.handle, enabled=False)
    if world.disables:
        with pytest.raises(WrongStateError):
            await _sign(world.backend, key)
        assert not (await world.backend.load(key.handle)).enabled
        found = await world.backend.find(LABEL)
        assert found is not None
        assert not found.enabled
    for _ in range(2):
        await world.backend.set_enabled(key.handle, enabled=True)
    assert (await world.backend.load(key.handle)).enabled
    await _assert_signs(world.backend, key)


async def test_destroyed_keys_are_of_no_use(world: BackendWorld) -> None:
    """A destroyed key does not sign and is not found as usable; destroying it again is safe; others stay."""
    key, other = await _key(world), await _key(world, replace(LABEL, name="other"))
    first = await world.backend.destroy(key.handle)
    assert first.final == world.destroys_at_once
    assert first.at.tzinfo is not None
    assert first.proof
    for _ in range(2):
        with pytest.raises((WrongStateError, KeyNotFoundError)):
            await _sign(world.backend, key)
        found = await world.backend.find(LABEL)
        assert found is None or not found.enabled
        assert (await world.backend.destroy(key.handle)).final == world.destroys_at_once
    await _assert_signs(world.backend, other)


@pytest.mark.parametrize("count", [1, 3, 64])
async def test_batches_keep_their_order(world: BackendWorld, count: int) -> None:
    """Each signature of a batch is that of the payload in its place."""
    key = await _key(world)
    messages = [b"message %d" % number for number in range(count)]
    signatures = await _sign(world.backend, key, messages)
    assert len(signatures) == count
    for signature, message in zip(signatures, messages, strict=True):
        check_signature(key.public_key, usual_scheme(key.algorithm), signature, message)


async def test_handles_outlast_a_restart(world: BackendWorld) -> None:
    """A handle noted before a restart finds the same key after it."""
    key = await _key(world)
    reopened = await world.reopen()
    assert (await reopened.load(key.handle)).public_key == key.public_key
    await _assert_signs(reopened, key)


async def test_versions_are_different_keys(world: BackendWorld) -> None:
    """Two versions of one name have keys and handles of their own; each goes on when the other is destroyed."""
    first, second = await _key(world), await _key(world, replace(LABEL, version=2))
    assert first.handle != second.handle
    assert _spki(first) != _spki(second)
    await _assert_signs(world.backend, first)
    await world.backend.destroy(first.handle)
    await _assert_signs(world.backend, second)


async def test_labels_do_not_run_into_each_other(world: BackendWorld) -> None:
    """Labels that look alike when joined, of other tenants too, are different keys and are found apart."""
    labels = [
        KeyLabel("a", "b-c", 1),
        KeyLabel("a-b", "c", 1),
        KeyLabel("a", "b", 1),
        KeyLabel("a", "b", 2),
        KeyLabel("a", "b-v2", 1),
        KeyLabel("a", "b2", 1),
    ]
    keys = [await _key(world, label) for label in labels]
    assert len({key.handle for key in keys}) == len({_spki(key) for key in keys}) == len(labels)
    for label, key in zip(labels, keys, strict=True):
        found = await world.backend.find(label)
        assert found is not None
        assert _spki(found) == _spki(key)
    await world.backend.destroy(keys[2].handle)
    for key in (*keys[:2], *keys[3:]):
        await _assert_signs(world.backend, key)


async def test_the_longest_label(world: BackendWorld) -> None:
    """The longest tenant and name, and the last version where the back end takes any, make a key that is found."""
    label = KeyLabel("t" * 32, "n" * 63, 2**31 - 1)
    try:
        key = await _key(world, label)
    except WrongStateError:  # it numbers versions by itself, and says that it is not there yet
        assert await world.backend.find(label) is None
        label = replace(label, version=1)
        key = await world.backend.find(label) or await _key(world, label)
    found = await world.backend.find(label)
    assert found is not None
    assert found.handle == key.handle
    await _assert_signs(world.backend, found)


async def test_many_callers_at_once(world: BackendWorld) -> None:
    """Thirty-two tasks that sign with two keys at once each get the signature of their own key and message."""
    keys = [await _key(world), await _key(world, replace(LABEL, version=2))]

    async def sign(number: int) -> None:
        key, message = keys[number % 2], b"task %d" % number
        for _ in range(4):
            (signature,) = await _sign(world.backend, key, [message])
            check_signature(key.public_key, usual_scheme(key.algorithm), signature, message)

    await asyncio.gather(*(sign(number) for number in range(32)))


async def test_keys_made_at_once(world: BackendWorld) -> None:
    """Keys made by several tasks at once are all there."""
    labels = [replace(LABEL, name=f"key-{number}") for number in range(6)]
    keys = await asyncio.gather(*(_key(world, label) for label in labels))
    for label, key in zip(labels, keys, strict=True):
        found = await world.backend.find(label)
        assert found is not None
        assert _spki(found) == _spki(key)


async def test_algorithms_not_offered_are_refused(world: BackendWorld) -> None:
    """An algorithm that the back end does not have is refused with its own error, and leaves no key."""
    strange = replace(ALGORITHMS["ecdsa-p256"], name="ecdsa-p192")
    missing = [row for name, row in ALGORITHMS.items() if name not in world.backend.offers]
    for algorithm in (strange, *missing):
        with pytest.raises(NotOfferedError):
            await world.backend.create(LABEL, algorithm)
    assert await world.backend.find(LABEL) is None


async def test_imported_keys(world: BackendWorld) -> None:
    """A key that was brought in signs as itself; where import is not allowed, that is said with its own error."""
    for name in _one_per_family(world):
        private_key = generate_private_key(ALGORITHMS[name])
        label = replace(LABEL, name=name)
        if name not in world.backend.imports:
            with pytest.raises(NotOfferedError):
                await world.backend.import_key(label, private_key)
            assert await world.backend.find(label) is None
            continue
        key = await world.backend.import_key(label, private_key)
        assert key.public_key == private_key.public_key()
        await _assert_signs(world.backend, key)


async def test_a_known_answer(world: BackendWorld) -> None:
    """An Ed25519 key of RFC 8032 §7.1 (test 2), where it can be brought in, gives the signature of the RFC."""
    if "ed25519" not in world.backend.imports:
        pytest.skip("not run: this back end takes in no Ed25519 keys")
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = await world.backend.import_key(LABEL, ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    (signature,) = await world.backend.sign(key.handle, SCHEMES["EdDSA"], "message", [b"\x72"])
    assert signature == bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


async def test_attestations_claim_no_more_than_they_can(world: BackendWorld) -> None:
    """Without the roots of a device's maker nothing that vouches for a key is called verified."""
    key = await _key(world)
    try:
        attestation = await world.backend.attest(key.handle)
    except NotOfferedError:
        return
    assert not attestation.verified
    assert attestation.by in {"device", "cloud", "module"}
    assert attestation.claims


async def test_a_working_back_end_is_ready(world: BackendWorld) -> None:
    """A back end that signs says that it is ready, in plain facts."""
    await _assert_signs(world.backend, await _key(world))
    health = await world.backend.health()
    assert health.ready, health
    assert all(isinstance(fact, str | int | float | None) for fact in health.detail.values())


async def test_behind_the_guard(world: BackendWorld, tmp_path: Path) -> None:
    """With the guard before it, a key of each family signs under verification, in a batch too, and is counted."""
    registry = CollectorRegistry()
    fields = {"name": world.backend.name, "type": "file", "directory": tmp_path, "passphrase_file": tmp_path}
    settings = FileSettings.model_validate({**fields, "deadline_seconds": 60, "verify": True})
    guard = GuardedBackend(world.backend, settings, SignerMetrics(registry))
    for name in _one_per_family(world):
        key = await guard.create(replace(LABEL, name=name), ALGORITHMS[name])
        scheme = usual_scheme(key.algorithm)
        for messages in ([MESSAGE], [b"one", b"two", b"three"]):
            for signature, message in zip(await _sign(guard, key, messages), messages, strict=True):
                check_signature(key.public_key, scheme, signature, message)
        labels = {"backend": world.backend.name, "scheme": scheme.name, "result": "success"}
        assert registry.get_sample_value("signer_signatures_total", labels) == 4
    assert (await guard.health()).ready
    assert registry.get_sample_value("signer_backend_ready", {"backend": world.backend.name}) == 1
    await guard.aclose()


async def test_closing_twice(world: BackendWorld) -> None:
    """Closing again does nothing; a closed back end answers with an error of ours, and says that it is not ready."""
    key = await _key(world)
    await world.backend.aclose()
    await world.backend.aclose()
    with pytest.raises(BackendError):
        await world.backend.load(key.handle)
    assert not (await world.backend.health()).ready
