"""The life of keys in Cloud KMS: the simulator, or the real service (see tests/support/backend_gcp_kms.py)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS, Payload, generate_private_key
from pkicore.clock import SystemClock
from services.signer_hsm.backends import BackendKey, KeyLabel
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import KeyNotFoundError, NotOfferedError, WrongStateError
from services.signer_hsm.schemes import SCHEMES, Scheme
from tests.support.backend_gcp_kms import ALGORITHMS as TRIED
from tests.support.backend_gcp_kms import GcpKmsWorld, is_real, world
from tests.support.clock import ManualClock

P256 = ALGORITHMS["ecdsa-p256"]
ES256 = SCHEMES["ES256"]
DIGEST = hashlib.sha256(b"to be signed").digest()
LABEL = KeyLabel("ca", "issuing", 1)


@pytest.fixture
def clock() -> ManualClock:
    """The simulator's time; for the real service it starts at the present."""
    return ManualClock(SystemClock().now() if is_real() else None)


@pytest.fixture
async def place(tmp_path: Path, clock: ManualClock) -> AsyncIterator[GcpKmsWorld]:
    """An open back end over an empty place."""
    async with world(tmp_path, clock) as opened:
        yield opened
        await opened.backend.aclose()


def case_for(key: BackendKey, count: int = 2) -> tuple[Scheme, Payload, list[bytes]]:
    """The usual scheme of a key, its payload kind and payloads."""
    (kind,) = key.kinds
    scheme = SCHEMES[key.algorithm.jws]
    messages = [b"message %d" % number for number in range(count)]
    if kind == "message":
        return scheme, kind, messages
    hash_name = "sha512" if kind == "mu" else str(scheme.hash)
    return scheme, kind, [hashlib.new(hash_name, message).digest() for message in messages]


def verify_all(
    key: BackendKey, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], answers: Sequence[object]
) -> None:
    """Check each signature over its own payload."""
    assert len(payloads) == len(answers)
    for payload, answer in zip(payloads, answers, strict=True):
        assert isinstance(answer, bytes)
        verify_payload(key.public_key, scheme, kind, payload, answer)


@pytest.mark.parametrize("name", TRIED)
async def test_a_key_of_every_algorithm_signs_and_says_how_it_is_held(place: GcpKmsWorld, name: str) -> None:
    """Signatures of each algorithm verify, in their payloads' order, and the evidence names the protection level."""
    key = await place.backend.create(LABEL, ALGORITHMS[name])
    assert key.algorithm is ALGORITHMS[name]
    assert key.enabled
    assert key.kinds == place.backend.offers[name]
    scheme, kind, payloads = case_for(key)
    verify_all(key, scheme, kind, payloads, await place.backend.sign(key.handle, scheme, kind, payloads))
    in_software = name in place.settings.software_algorithms or place.settings.protection_level == "SOFTWARE"
    assert key.evidence["protection_level"] == ("SOFTWARE" if in_software else "HSM")
    assert key.evidence["imported"] is False


async def test_an_rsa_key_signs_with_the_one_scheme_it_was_made_for(place: GcpKmsWorld) -> None:
    """KMS binds padding and hash to the key, so any other scheme is not offered, and nothing is asked."""
    key = await place.backend.create(LABEL, ALGORITHMS["rsa-2048"])
    for name in ("PS256", "RS512"):
        with pytest.raises(NotOfferedError, match="RS256 of a digest only"):
            await place.backend.sign(key.handle, SCHEMES[name], "digest", [DIGEST])


async def test_rsa_keys_for_pss_are_made_by_a_back_end_that_is_set_so(place: GcpKmsWorld, clock: ManualClock) -> None:
    """With rsa_scheme PS256 new keys sign PSS; another back end on the ring signs with them too, by their handle."""
    settings = place.settings.model_copy(update={"rsa_scheme": "PS256", "name": "gcp-pss"})
    pss = await open_backend(settings, clock=clock)
    key = await pss.create(LABEL, ALGORITHMS["rsa-2048"])
    await pss.aclose()
    payloads = [DIGEST]
    answers = await place.backend.sign(key.handle, SCHEMES["PS256"], "digest", payloads)
    verify_all(key, SCHEMES["PS256"], "digest", payloads, answers)
    with pytest.raises(NotOfferedError):
        await place.backend.sign(key.handle, SCHEMES["RS256"], "digest", payloads)
    with pytest.raises(WrongStateError, match="RSA_SIGN_PSS_2048_SHA256"):
        await place.backend.create(LABEL, ALGORITHMS["rsa-2048"])


async def test_a_rotated_key_has_two_versions_and_each_signs_for_itself(place: GcpKmsWorld) -> None:
    """Version 2 is a crypto key of its own beside version 1, which goes on signing."""
    first = await place.backend.create(LABEL, P256)
    second = await place.backend.create(KeyLabel("ca", "issuing", 2), P256)
    assert first.handle.endswith("-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/1")
    assert second.handle.endswith("-ca/cryptoKeys/issuing_v2/cryptoKeyVersions/1")
    for key in (first, second):
        verify_all(key, ES256, "digest", [DIGEST], await place.backend.sign(key.handle, ES256, "digest", [DIGEST]))
    assert first.public_key != second.public_key


async def test_a_key_is_found_again_after_a_restart(place: GcpKmsWorld) -> None:
    """Label and handle lead to the same key in a new process; what was never made is None."""
    key = await place.backend.create(LABEL, P256)
    backend = await place.reopen()
    assert await backend.find(LABEL) == key
    assert await backend.load(key.handle) == key
    verify_all(key, ES256, "digest", [DIGEST], await backend.sign(key.handle, ES256, "digest", [DIGEST]))
    for missing in (KeyLabel("ca", "issuing", 2), KeyLabel("ca", "other", 1), KeyLabel("other", "issuing", 1)):
        assert await backend.find(missing) is None


async def test_creating_a_key_twice_gives_the_same_key(place: GcpKmsWorld) -> None:
    """A repeated creation takes over what the first one made; nothing is made in vain."""
    first = await place.backend.create(LABEL, P256)
    assert await place.backend.create(LABEL, P256) == first
    assert await place.backend.find(KeyLabel("ca", "issuing", 2)) is None


async def test_a_disabled_key_does_not_sign_until_it_is_enabled(place: GcpKmsWorld) -> None:
    """Disabling and enabling show in the answer, can be repeated, and decide over signing."""
    key = await place.backend.create(LABEL, P256)
    for _ in range(2):
        await place.backend.set_enabled(key.handle, enabled=False)
    assert not (await place.backend.load(key.handle)).enabled
    with pytest.raises(WrongStateError):
        await place.backend.sign(key.handle, ES256, "digest", [DIGEST])
    for _ in range(2):
        await place.backend.set_enabled(key.handle, enabled=True)
    verify_all(key, ES256, "digest", [DIGEST], await place.backend.sign(key.handle, ES256, "digest", [DIGEST]))


async def test_the_public_key_of_a_disabled_version_is_not_to_be_had_after_a_restart(place: GcpKmsWorld) -> None:
    """KMS keeps it back, so `load` says the state is wrong instead of answering without a key."""
    key = await place.backend.create(LABEL, P256)
    await place.backend.set_enabled(key.handle, enabled=False)
    backend = await place.reopen()
    with pytest.raises(WrongStateError):
        await backend.load(key.handle)
    await backend.set_enabled(key.handle, enabled=True)
    assert (await backend.load(key.handle)).enabled


async def test_a_destroyed_key_waits_and_a_repetition_changes_nothing(place: GcpKmsWorld) -> None:
    """Destruction is scheduled with the time from KMS; asking again gives the same time; nothing signs meanwhile."""
    key = await place.backend.create(LABEL, P256)
    destruction = await place.backend.destroy(key.handle)
    assert not destruction.final
    assert destruction.at.microsecond == 0
    assert destruction.proof["state"] == "DESTROY_SCHEDULED"
    assert destruction.proof["key_version"] == key.handle
    again = await place.backend.destroy(key.handle)
    assert again == destruction
    with pytest.raises(WrongStateError):
        await place.backend.sign(key.handle, ES256, "digest", [DIGEST])
    with pytest.raises(WrongStateError):
        await place.backend.set_enabled(key.handle, enabled=True)
    assert not (await place.backend.load(key.handle)).enabled


async def test_the_label_of_a_destroyed_key_is_not_used_again(place: GcpKmsWorld) -> None:
    """A new key under a used up label is refused; the next version is made."""
    key = await place.backend.create(LABEL, P256)
    await place.backend.destroy(key.handle)
    with pytest.raises(WrongStateError, match="DESTROY_SCHEDULED"):
        await place.backend.create(LABEL, P256)
    assert (await place.backend.create(KeyLabel("ca", "issuing", 2), P256)).enabled


async def test_two_tenants_whose_rings_share_a_name_do_not_meet(place: GcpKmsWorld, clock: ManualClock) -> None:
    """Prefix `x` with tenant `a-b` and prefix `x-a` with tenant `b` name one ring; the labels keep them apart."""
    settings = place.settings
    longer = settings.model_copy(update={"key_ring_prefix": f"{settings.key_ring_prefix}-a", "name": "gcp-other"})
    other = await open_backend(longer, clock=clock)
    await place.backend.create(KeyLabel("a-b", "issuing", 1), P256)
    assert await other.find(KeyLabel("b", "issuing", 1)) is None
    with pytest.raises(WrongStateError, match="labels"):
        await other.create(KeyLabel("b", "issuing", 1), P256)
    await other.aclose()


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "issuing",
        "projects/other/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/1",
        "{location}/keyRings/foreign/cryptoKeys/issuing_v1/cryptoKeyVersions/1",
        "{location}/keyRings/{prefix}-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/2",
        "{location}/keyRings/{prefix}-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/1/",
        "{location}/keyRings/{prefix}-ca/cryptoKeys/../cryptoKeyVersions/1",
        "{location}/keyRings/{prefix}-ca/cryptoKeys/missing_v1/cryptoKeyVersions/1",
    ],
)
async def test_handles_that_are_not_ours_lead_nowhere(place: GcpKmsWorld, handle: str) -> None:
    """A handle of another project, ring or form is no key of ours, whatever is asked of it."""
    settings = place.settings
    location = f"projects/{settings.project}/locations/{settings.location}"
    handle = handle.format(location=location, prefix=settings.key_ring_prefix)
    with pytest.raises(KeyNotFoundError):
        await place.backend.load(handle)
    with pytest.raises(KeyNotFoundError):
        await place.backend.sign(handle, ES256, "digest", [DIGEST])
    with pytest.raises(KeyNotFoundError):
        await place.backend.destroy(handle)
    with pytest.raises(KeyNotFoundError):
        await place.backend.attest(handle)
    with pytest.raises(KeyNotFoundError):
        await place.backend.set_enabled(handle, enabled=True)


async def test_existing_keys_are_not_taken(place: GcpKmsWorld) -> None:
    """Import is not offered, and says what to do instead."""
    assert place.backend.imports == frozenset()
    with pytest.raises(NotOfferedError, match="make a new key"):
        await place.backend.import_key(LABEL, generate_private_key(P256))


async def test_an_algorithm_that_kms_lacks_is_not_offered(place: GcpKmsWorld) -> None:
    """There are no P-521 keys in KMS."""
    assert "ecdsa-p521" not in place.backend.offers
    with pytest.raises(NotOfferedError, match="ecdsa-p521"):
        await place.backend.create(LABEL, ALGORITHMS["ecdsa-p521"])


async def test_a_key_in_software_has_no_attestation_but_kms_word(place: GcpKmsWorld) -> None:
    """The attestation of a software key is the service's own word and says so."""
    key = await place.backend.create(LABEL, ALGORITHMS["ml-dsa-65"])
    attestation = await place.backend.attest(key.handle)
    assert (attestation.format, attestation.by, attestation.verified) == ("attributes", "cloud", False)
    assert attestation.claims["protection_level"] == "SOFTWARE"
    assert attestation.statement is None


async def test_health_is_ready_and_says_how_busy_it_is(place: GcpKmsWorld) -> None:
    """A back end that is reached is ready; the numbers are there for people."""
    health = await place.backend.health()
    assert health.ready
    assert health.detail["under_way"] == 0
    assert isinstance(health.detail["milliseconds"], int)


async def test_sixty_four_signatures_at_once(place: GcpKmsWorld) -> None:
    """64 callers at once each get a signature of their own payload."""
    key = await place.backend.create(LABEL, P256)
    payloads = [hashlib.sha256(b"%d" % number).digest() for number in range(64)]
    answers = await asyncio.gather(
        *(place.backend.sign(key.handle, ES256, "digest", [payload]) for payload in payloads)
    )
    verify_all(key, ES256, "digest", payloads, [answer for (answer,) in answers])


async def test_no_payloads_no_signatures(place: GcpKmsWorld) -> None:
    """An empty batch is answered with nothing."""
    key = await place.backend.create(LABEL, P256)
    assert list(await place.backend.sign(key.handle, ES256, "digest", [])) == []


@pytest.mark.skipif(is_real(), reason="only the simulator's time can be moved")
async def test_when_its_time_has_come_a_key_is_gone_for_good(place: GcpKmsWorld, clock: ManualClock) -> None:
    """After the window the destruction is final, and the key is not found by label or handle."""
    key = await place.backend.create(LABEL, P256)
    scheduled = await place.backend.destroy(key.handle)
    assert scheduled.at == clock.now() + timedelta(days=30)
    clock.advance(timedelta(days=31))
    destruction = await place.backend.destroy(key.handle)
    assert destruction.final
    assert destruction.at == scheduled.at
    assert destruction.proof["destroy_event_time"] == scheduled.proof["destroy_time"]
    assert await place.backend.find(LABEL) is None
    with pytest.raises(KeyNotFoundError):
        await place.backend.load(key.handle)
