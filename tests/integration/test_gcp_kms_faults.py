"""What the Cloud KMS back end does when KMS, or the way to it, misbehaves; a simulator alone can be made to."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import google_crc32c
import grpc
import pytest
from google.cloud import kms_v1
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_gcp_kms import is_real, resources_of, settings_for
from tests.support.clock import ManualClock
from tests.support.gcp_kms_resources import Code
from tests.support.gcp_kms_simulator import DETAIL, Failure, GcpKmsSimulator, Relay, simulator

pytestmark = pytest.mark.skipif(is_real(), reason="faults can be made in a simulator only")

P256 = ALGORITHMS["ecdsa-p256"]
ES256 = SCHEMES["ES256"]
DIGEST = hashlib.sha256(b"to be signed").digest()
LABEL = KeyLabel("ca", "issuing", 1)


@pytest.fixture
async def server() -> AsyncIterator[GcpKmsSimulator]:
    """An empty Cloud KMS."""
    async with simulator(resources_of(ManualClock())) as running:
        yield running


@asynccontextmanager
async def opened(server: GcpKmsSimulator, **changes: Any) -> AsyncIterator[Backend]:  # noqa: ANN401 - settings of any type
    """A back end that reaches the simulator and gives up soon."""
    settings = settings_for(server, **({"deadline_seconds": 2.0, "timeout_seconds": 1.0} | changes))
    backend = await open_backend(settings, clock=ManualClock())
    try:
        yield backend
    finally:
        await backend.aclose()


@pytest.fixture
async def backend(server: GcpKmsSimulator) -> AsyncIterator[Backend]:
    """A back end of the fixture's simulator."""
    async with opened(server) as running:
        yield running


@asynccontextmanager
async def relayed(server: GcpKmsSimulator, **changes: Any) -> AsyncIterator[tuple[Backend, Relay]]:  # noqa: ANN401 - settings of any type
    """A back end whose way to the simulator can be cut."""
    relay = Relay(server.port)
    await relay.start()
    try:
        async with opened(server, endpoint=f"127.0.0.1:{relay.port}", **changes) as running:
            yield running, relay
    finally:
        await relay.stop()


async def sign(backend: Backend, key: BackendKey) -> bytes:
    """One signature over DIGEST that verifies."""
    (answer,) = await backend.sign(key.handle, ES256, "digest", [DIGEST])
    assert isinstance(answer, bytes)
    verify_payload(key.public_key, ES256, "digest", DIGEST, answer)
    return answer


async def signs_again(backend: Backend, key: BackendKey, within: float) -> None:
    """Wait until the same back end signs again."""
    until = time.monotonic() + within
    while True:
        try:
            await sign(backend, key)
        except (UnavailableError, DeadlineError):
            assert time.monotonic() < until, "no recovery"
            await asyncio.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.CANCELLED, UnavailableError),
        (Code.UNKNOWN, UnavailableError),
        (Code.INVALID_ARGUMENT, BadAnswerError),
        (Code.DEADLINE_EXCEEDED, DeadlineError),
        (Code.NOT_FOUND, KeyNotFoundError),
        (Code.ALREADY_EXISTS, WrongStateError),
        (Code.PERMISSION_DENIED, DeniedError),
        (Code.RESOURCE_EXHAUSTED, ThrottledError),
        (Code.FAILED_PRECONDITION, WrongStateError),
        (Code.ABORTED, UnavailableError),
        (Code.OUT_OF_RANGE, BadAnswerError),
        (Code.UNIMPLEMENTED, NotOfferedError),
        (Code.INTERNAL, UnavailableError),
        (Code.UNAVAILABLE, UnavailableError),
        (Code.DATA_LOSS, BadAnswerError),
        (Code.UNAUTHENTICATED, DeniedError),
    ],
)
async def test_each_status_is_one_class_of_ours_without_the_words_of_kms(
    server: GcpKmsSimulator, backend: Backend, code: grpc.StatusCode, expected: type[BackendError]
) -> None:
    """Every gRPC status becomes its error, names the back end, keeps its cause and leaks no text of the service."""
    key = await backend.create(LABEL, P256)
    server.faults.fail_next(code, 2, "AsymmetricSign")
    with pytest.raises(expected) as caught:
        await sign(backend, key)
    assert isinstance(caught.value, BackendError)
    assert str(caught.value).startswith("gcp: ")
    assert DETAIL not in str(caught.value)
    assert DETAIL in str(caught.value.__cause__)
    server.faults.failures.clear()
    await sign(backend, key)


async def test_throttled_says_when_to_come_back(server: GcpKmsSimulator, backend: Backend) -> None:
    """The delay that KMS asks for reaches the caller; a second where it names none; never more than a minute."""
    key = await backend.create(LABEL, P256)
    for asked, given in ((0.25, 0.25), (None, 1.0)):
        server.faults.fail_next(Code.RESOURCE_EXHAUSTED, retry_delay=asked)
        with pytest.raises(ThrottledError) as caught:
            await sign(backend, key)
        assert caught.value.retry_after == given
    assert server.requests["AsymmetricSign"] == 2


def _altered(**fields: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - fields of any message
    def change(answer: Any) -> Any:  # noqa: ANN401 - a message of any method
        changed = type(answer)(answer)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed

    return change


CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "another version's name": _altered(name="projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"),
    "no name": _altered(name=""),
    "a wrong checksum": _altered(signature_crc32c=1),
    "no checksum": _altered(signature_crc32c=None),
    "a bit flipped on the way": lambda answer: _altered(signature=answer.signature[:-1] + b"!")(answer),
    "a payload whose checksum was not compared": _altered(verified_digest_crc32c=False),
    "the other flag": _altered(verified_digest_crc32c=False, verified_data_crc32c=True),
    "another protection level": _altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE),
    "an empty message": lambda _answer: kms_v1.AsymmetricSignResponse(),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corrupted_answer_is_asked_for_once_more_and_then_refused(
    server: GcpKmsSimulator, backend: Backend, corruption: str
) -> None:
    """One bad answer is repaired by one repetition; two in a row are a bad answer, and there is no third request."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", CORRUPTIONS[corruption])
    await sign(backend, key)
    assert server.requests["AsymmetricSign"] == 2
    server.faults.change_next("AsymmetricSign", CORRUPTIONS[corruption], 2)
    with pytest.raises(BadAnswerError):
        await sign(backend, key)
    assert server.requests["AsymmetricSign"] == 4


async def test_octets_that_are_no_message_are_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Garbage instead of a message is a bad answer for every operation, and the next request works."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", lambda _answer: b"\xff\xff garbage", 2)
    server.faults.change_next("GetCryptoKeyVersion", lambda _answer: b"\xff\xff garbage")
    with pytest.raises(BadAnswerError, match="no message"):
        await sign(backend, key)
    with pytest.raises(BadAnswerError, match="no message"):
        await backend.load(key.handle)
    await sign(backend, key)


async def test_a_status_that_contradicts_itself_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Details that do not fit their status make the SDK stumble; the caller sees a bad answer, not the SDK's error."""
    key = await backend.create(LABEL, P256)
    failure = Failure(Code.RESOURCE_EXHAUSTED, 2, "AsymmetricSign", retry_delay=1.0, words="something else")
    server.faults.failures.append(failure)
    with pytest.raises(BadAnswerError, match="makes no sense"):
        await sign(backend, key)
    await sign(backend, key)


async def test_an_answer_without_end_is_not_read(server: GcpKmsSimulator, backend: Backend) -> None:
    """An answer larger than the limit is refused by the channel, typed, without being taken into memory."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", _altered(signature=bytes(2 * 1024 * 1024)))
    with pytest.raises(BackendError):
        await sign(backend, key)
    await sign(backend, key)


async def test_a_wrong_signature_with_the_right_checksum_is_caught_by_verifying(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Checksums do not tell a signature by another key: the verification that the settings ask for does."""
    key = await backend.create(LABEL, P256)
    other = await backend.create(KeyLabel("ca", "other", 1), P256)
    wrong = await sign(backend, other)
    server.faults.change_next("AsymmetricSign", _altered(signature=wrong, signature_crc32c=google_crc32c.value(wrong)))
    guarded = GuardedBackend(backend, settings_for(server), SignerMetrics(CollectorRegistry()))
    with pytest.raises(BadAnswerError):
        await sign(guarded, key)
    await sign(guarded, key)
    await guarded.aclose()


async def test_behind_the_guard_a_flapping_kms_is_not_noticed(server: GcpKmsSimulator, backend: Backend) -> None:
    """The guard repeats what was not done, so that single failures never reach the caller."""
    key = await backend.create(LABEL, P256)
    guarded = GuardedBackend(backend, settings_for(server), SignerMetrics(CollectorRegistry()))
    for _ in range(5):
        server.faults.fail_next(Code.UNAVAILABLE)
        await sign(guarded, key)
    await guarded.aclose()


@pytest.mark.parametrize(
    "change",
    [
        _altered(name="projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"),
        _altered(pem_crc32c=1),
        _altered(pem_crc32c=None),
        _altered(pem="garbage", pem_crc32c=google_crc32c.value(b"garbage")),
        _altered(algorithm=kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P384_SHA384),
        _altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE),
    ],
)
async def test_a_corrupted_public_key_is_refused(
    server: GcpKmsSimulator, backend: Backend, change: Callable[[Any], Any]
) -> None:
    """A public key is believed after the same checks; once corrupted it is asked for again, twice it is refused."""
    server.faults.change_next("GetPublicKey", change, 2)
    with pytest.raises(BadAnswerError):
        await backend.create(LABEL, P256)
    server.faults.change_next("GetPublicKey", change)
    assert (await backend.create(LABEL, P256)).enabled


async def test_the_public_key_of_another_curve_is_refused(server: GcpKmsSimulator, backend: Backend) -> None:
    """A well-formed key of another algorithm than the version's is a bad answer."""
    other = await backend.create(KeyLabel("ca", "other", 1), ALGORITHMS["ecdsa-p384"])
    request = kms_v1.GetPublicKeyRequest(name=other.handle)
    pem = server.resources.public_key(request).pem
    change = _altered(pem=pem, pem_crc32c=google_crc32c.value(pem.encode()))
    server.faults.change_next("GetPublicKey", change, 2)
    with pytest.raises(BadAnswerError, match="another algorithm"):
        await backend.create(LABEL, P256)


async def test_an_answer_about_another_version_is_refused(server: GcpKmsSimulator, backend: Backend) -> None:
    """Evidence, state and attestation of another version are not taken for this one's."""
    key = await backend.create(LABEL, P256)
    for act in (backend.load, backend.attest):
        server.faults.change_next("GetCryptoKeyVersion", _altered(name=f"{key.handle}1"))
        with pytest.raises(BadAnswerError):
            await act(key.handle)


async def test_a_slow_kms_ends_at_the_time_limit_and_works_again(server: GcpKmsSimulator) -> None:
    """Each request has its own limit; the caller hears in time, and the next request on the same channel works."""
    async with opened(server, timeout_seconds=0.2) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 5.0
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - began < 4.5
        assert not (await backend.health()).ready
        server.faults.delay = 0.0
        await sign(backend, key)


async def test_the_deadline_holds_over_all_requests_of_an_operation(server: GcpKmsSimulator) -> None:
    """An operation of two requests, each within its own limit, still ends at the operation's deadline."""
    async with opened(server, deadline_seconds=0.5, timeout_seconds=0.45) as backend:
        await backend.create(LABEL, P256)
        server.faults.delay = 0.35
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="not done within the deadline"):
            await backend.find(LABEL)
        assert time.monotonic() - began < 4.5


async def test_the_deadline_holds_while_waiting_for_a_permit(server: GcpKmsSimulator) -> None:
    """Callers who wait behind slow requests hear within their deadline too."""
    async with opened(server, workers=1, deadline_seconds=0.5, timeout_seconds=0.4) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 5.0
        began = time.monotonic()
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(answer, DeadlineError) for answer in answers)
        assert time.monotonic() - began < 4.5


async def test_the_back_end_killed_in_mid_call_and_back_again(server: GcpKmsSimulator) -> None:
    """A connection that dies under a request is a typed error at once; the same back end signs after the return."""
    async with relayed(server, deadline_seconds=5.0, timeout_seconds=5.0) as (backend, relay):
        key = await backend.create(LABEL, P256)
        server.faults.delay = 3.0
        calls = [asyncio.create_task(sign(backend, key)) for _ in range(4)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await relay.stop()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, UnavailableError) for answer in answers)
        with pytest.raises(UnavailableError):
            await sign(backend, key)
        assert time.monotonic() - began < 4.5
        assert (await backend.health()).detail["problem"] == "unavailable"
        server.faults.delay = 0.0
        await relay.start()
        await signs_again(backend, key, within=4.0)


async def test_a_server_that_stops_in_mid_call_and_starts_again(server: GcpKmsSimulator) -> None:
    """The server's own shutdown is typed the same, and its keys are there after its restart."""
    async with opened(server, timeout_seconds=2.0) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 1.0
        call = asyncio.create_task(sign(backend, key))
        await asyncio.sleep(0.1)
        await server.kill()
        with pytest.raises(UnavailableError):
            await call
        server.faults.delay = 0.0
        await server.start()
        await signs_again(backend, key, within=4.0)


async def test_a_network_that_swallows_everything_is_a_deadline(server: GcpKmsSimulator) -> None:
    """When nothing comes through and nothing is reset, the time limit speaks; flowing again, it signs again."""
    async with relayed(server, timeout_seconds=0.3) as (backend, relay):
        key = await backend.create(LABEL, P256)
        relay.flowing.clear()
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - began < 4.5
        relay.flowing.set()
        await signs_again(backend, key, within=2.0)


async def test_a_flapping_kms_fails_every_other_request_and_no_more(server: GcpKmsSimulator, backend: Backend) -> None:
    """Each failure stays with its request; none poisons the next."""
    key = await backend.create(LABEL, P256)
    for _ in range(10):
        server.faults.fail_next(Code.UNAVAILABLE)
        with pytest.raises(UnavailableError):
            await sign(backend, key)
        await sign(backend, key)


async def test_one_of_a_batch_fails_alone(server: GcpKmsSimulator, backend: Backend) -> None:
    """A payload that could not be signed has its error in its place; the others have their signatures."""
    key = await backend.create(LABEL, P256)
    payloads = [hashlib.sha256(b"%d" % number).digest() for number in range(8)]
    server.faults.fail_next(Code.UNAVAILABLE, 1, "AsymmetricSign")
    answers = await backend.sign(key.handle, ES256, "digest", payloads)
    assert sum(isinstance(answer, UnavailableError) for answer in answers) == 1
    for payload, answer in zip(payloads, answers, strict=True):
        if isinstance(answer, bytes):
            verify_payload(key.public_key, ES256, "digest", payload, answer)
    server.faults.fail_next(Code.UNAVAILABLE, 8, "AsymmetricSign")
    with pytest.raises(UnavailableError):
        await backend.sign(key.handle, ES256, "digest", payloads)


async def test_workers_and_queue_bound_what_is_under_way(server: GcpKmsSimulator) -> None:
    """KMS sees no more than `workers` requests at once; past `queue` waiting ones the rest is refused at once."""
    async with opened(server, workers=3, queue=5) as backend:
        key = await backend.create(LABEL, P256)
        server.peak, server.faults.delay = 0, 0.05
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(20)), return_exceptions=True)
        assert server.peak == 3
        assert sum(isinstance(answer, bytes) for answer in answers) == 8
        assert sum(isinstance(answer, BusyError) for answer in answers) == 12
        server.faults.delay = 0.0
        await sign(backend, key)


async def test_a_batch_larger_than_the_queue_is_signed(server: GcpKmsSimulator) -> None:
    """A batch takes no more places than there are workers, so 64 payloads pass where four may wait."""
    async with opened(server, workers=2, queue=4) as backend:
        key = await backend.create(LABEL, P256)
        payloads = [hashlib.sha256(b"%d" % number).digest() for number in range(64)]
        server.faults.delay = 0.002
        batches = await asyncio.gather(*(backend.sign(key.handle, ES256, "digest", payloads) for _ in range(3)))
        for answers in batches:
            for payload, answer in zip(payloads, answers, strict=True):
                assert isinstance(answer, bytes)
                verify_payload(key.public_key, ES256, "digest", payload, answer)
        assert server.peak == 2


async def test_a_caller_who_gives_up_leaves_no_permit_behind(server: GcpKmsSimulator) -> None:
    """Cancelled requests free their places, waiting and under way."""
    async with opened(server, workers=1, queue=2) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 0.5
        calls = [asyncio.create_task(sign(backend, key)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        server.faults.delay = 0.0
        await sign(backend, key)
        health = await backend.health()
        assert (health.detail["under_way"], health.detail["waiting"]) == (0, 0)


async def test_closing_ends_what_is_under_way(server: GcpKmsSimulator) -> None:
    """Requests under way at the close, and any after it, fail as unavailable."""
    async with opened(server) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 0.9
        call = asyncio.create_task(sign(backend, key))
        await asyncio.sleep(0.1)
        await backend.aclose()
        with pytest.raises(UnavailableError):
            await call
        with pytest.raises(UnavailableError):
            await sign(backend, key)
        assert not (await backend.health()).ready


async def test_a_lost_answer_to_the_making_of_a_ring_is_made_good_by_a_repetition(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """The first try made the ring and nobody heard; the second finds it there."""
    server.faults.lose_answer("CreateKeyRing")
    with pytest.raises(UnavailableError):
        await backend.create(LABEL, P256)
    await sign(backend, await backend.create(LABEL, P256))
    assert server.requests["CreateKeyRing"] == 1


async def test_two_who_make_the_same_ring_at_once(server: GcpKmsSimulator, backend: Backend) -> None:
    """The ring is missed by both and made by one; ALREADY_EXISTS is as good."""
    labels = [KeyLabel("ca", f"key-{number}", 1) for number in range(4)]
    keys = await asyncio.gather(*(backend.create(label, P256) for label in labels))
    assert len({key.handle for key in keys}) == 4
    assert server.requests["CreateKeyRing"] > 1


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL])
async def test_a_lost_answer_to_the_making_of_a_key_makes_no_second_one(
    server: GcpKmsSimulator, backend: Backend, code: grpc.StatusCode
) -> None:
    """The one repetition is told that the key exists, and takes it, since the labels are its own."""
    server.resources.make_ring(kms_v1.CreateKeyRingRequest(parent=server.resources.location, key_ring_id="pqcpki-ca"))
    server.faults.lose_answer("CreateCryptoKey", code)
    key = await backend.create(LABEL, P256)
    await sign(backend, key)
    assert server.requests["CreateCryptoKey"] == 2


async def test_a_garbled_answer_to_the_making_of_a_key_makes_no_second_one(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """A key whose answer was garbled is there all the same: it is looked up and taken."""
    server.faults.change_next("CreateCryptoKey", lambda _answer: b"\xff\xff garbage")
    await sign(backend, await backend.create(LABEL, P256))


async def test_a_key_of_the_same_name_that_came_meanwhile_is_not_taken_without_our_labels(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """ALREADY_EXISTS is no proof that it is ours: without the labels it is refused."""
    theirs = kms_v1.CryptoKey(
        purpose=kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
        version_template=kms_v1.CryptoKeyVersionTemplate(
            algorithm=kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
        ),
    )
    ring = server.resources.make_ring(
        kms_v1.CreateKeyRingRequest(parent=server.resources.location, key_ring_id="pqcpki-ca")
    )
    server.resources.make_key(
        kms_v1.CreateCryptoKeyRequest(parent=ring.name, crypto_key_id="issuing_v1", crypto_key=theirs)
    )
    server.faults.fail_next(Code.NOT_FOUND, 1, "GetCryptoKey")
    with pytest.raises(WrongStateError, match="labels"):
        await backend.create(LABEL, P256)
    assert await backend.find(LABEL) is None


async def test_an_unknown_outcome_is_said_to_be_one(server: GcpKmsSimulator, backend: Backend) -> None:
    """When the repetition gets no answer either, the error says that it may have been made; `find` tells later."""
    await backend.create(KeyLabel("ca", "other", 1), P256)
    server.faults.lose_answer("CreateCryptoKey")
    server.faults.skip_then_fail(1, Code.UNAVAILABLE, "CreateCryptoKey")
    with pytest.raises(DeadlineError, match="may have been made"):
        await backend.create(LABEL, P256)
    found = await backend.find(LABEL)
    assert found is not None
    assert await backend.create(LABEL, P256) == found


@pytest.mark.parametrize("method", ["GetCryptoKeyVersion", "GetPublicKey"])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_key_that_is_made_and_not_shown_leaves_the_outcome_open(
    server: GcpKmsSimulator, backend: Backend, method: str, code: grpc.StatusCode
) -> None:
    """Unavailable means that nothing was done; once the key is made, the error says so, and `find` has it."""
    server.faults.fail_next(code, 1, method)
    with pytest.raises(DeadlineError, match="is made"):
        await backend.create(LABEL, P256)
    found = await backend.find(LABEL)
    assert found is not None
    await sign(backend, found)


async def test_a_key_that_takes_its_time_is_waited_for(server: GcpKmsSimulator, backend: Backend) -> None:
    """PENDING_GENERATION is asked about again until the key is there."""
    server.resources.pending_reads = 3
    await sign(backend, await backend.create(LABEL, P256))


async def test_a_key_that_takes_too_long_is_found_later(server: GcpKmsSimulator) -> None:
    """Past the deadline the outcome is unknown; once generated, the key is found under its label."""
    async with opened(server, deadline_seconds=0.2) as backend:
        server.resources.pending_reads = 1000
        with pytest.raises(DeadlineError):
            await backend.create(LABEL, P256)
        with pytest.raises(DeadlineError):
            await backend.find(LABEL)
        name = f"{server.resources.location}/keyRings/pqcpki-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/1"
        server.resources.version(name).pending_reads = 0
        found = await backend.find(LABEL)
        assert found is not None
        await sign(backend, found)


async def test_a_generation_that_fails_uses_its_number_up(server: GcpKmsSimulator, backend: Backend) -> None:
    """GENERATION_FAILED is a wrong state; the next version is made in its stead."""
    server.resources.pending_reads, server.resources.generation_fails = 1, True
    for _ in range(2):
        with pytest.raises(WrongStateError, match="GENERATION_FAILED"):
            await backend.create(LABEL, P256)
    assert await backend.find(LABEL) is None
    server.resources.pending_reads, server.resources.generation_fails = 0, False
    await sign(backend, await backend.create(KeyLabel("ca", "issuing", 2), P256))


async def test_a_lost_answer_to_a_destruction_is_made_good_by_a_repetition(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """The repetition finds the destruction scheduled and reports it."""
    key = await backend.create(LABEL, P256)
    server.faults.lose_answer("DestroyCryptoKeyVersion")
    with pytest.raises(UnavailableError):
        await backend.destroy(key.handle)
    assert (await backend.destroy(key.handle)).proof["state"] == "DESTROY_SCHEDULED"
    assert server.requests["DestroyCryptoKeyVersion"] == 1


async def test_a_destruction_that_somebody_else_was_quicker_with(server: GcpKmsSimulator, backend: Backend) -> None:
    """Refused because it is scheduled already, the destruction is reported as it stands."""
    key = await backend.create(LABEL, P256)

    def meanwhile(answer: Any) -> Any:  # noqa: ANN401 - a message of any method
        server.resources.destroy_version(kms_v1.DestroyCryptoKeyVersionRequest(name=key.handle))
        return answer

    server.faults.change_next("UpdateCryptoKeyVersion", meanwhile)
    assert not (await backend.destroy(key.handle)).final


async def test_a_destruction_that_stops_half_way_leaves_the_key_disabled(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Disabled comes first, so that a key whose destruction failed signs no more."""
    key = await backend.create(LABEL, P256)
    server.faults.denied = {"cloudkms.cryptoKeyVersions.destroy"}
    with pytest.raises(DeniedError):
        await backend.destroy(key.handle)
    assert not (await backend.load(key.handle)).enabled


async def test_a_key_that_the_operator_restored_is_disabled_until_it_is_enabled(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """RestoreCryptoKeyVersion is the operator's act; the service sees its outcome."""
    key = await backend.create(LABEL, P256)
    await backend.destroy(key.handle)
    server.resources.restore_version(kms_v1.RestoreCryptoKeyVersionRequest(name=key.handle))
    assert not (await backend.load(key.handle)).enabled
    await backend.set_enabled(key.handle, enabled=True)
    await sign(backend, key)


async def test_denied_is_typed_and_ends_when_the_permission_comes(server: GcpKmsSimulator, backend: Backend) -> None:
    """A missing permission is the service's own trouble, and its return needs no restart."""
    key = await backend.create(LABEL, P256)
    server.faults.denied = {"cloudkms.cryptoKeyVersions.useToSign", "cloudkms.keyRings.list"}
    with pytest.raises(DeniedError) as caught:
        await sign(backend, key)
    assert "useToSign" not in str(caught.value)
    health = await backend.health()
    assert (health.ready, health.detail["problem"]) == (False, "denied")
    server.faults.denied = set()
    await sign(backend, key)


LEAST = frozenset(
    f"cloudkms.{permission}"
    for permission in (
        "keyRings.create",
        "keyRings.list",
        "cryptoKeys.create",
        "cryptoKeys.get",
        "cryptoKeyVersions.get",
        "cryptoKeyVersions.update",
        "cryptoKeyVersions.destroy",
        "cryptoKeyVersions.viewPublicKey",
        "cryptoKeyVersions.useToSign",
    )
)


async def test_the_documented_permissions_are_enough_and_each_is_needed(server: GcpKmsSimulator) -> None:
    """The role in docs/operations/gcp-kms.md is enough for every operation, and none of its permissions is too many."""

    async def life(name: str) -> bool:
        async with opened(server) as backend:
            label = KeyLabel(name, "issuing", 1)
            key = await backend.create(label, P256)
            await sign(backend, key)
            assert await backend.find(label)
            await backend.attest(key.handle)
            await backend.set_enabled(key.handle, enabled=False)
            await backend.destroy(key.handle)
            return (await backend.health()).ready

    server.faults.granted = LEAST
    assert await life("all")
    for number, permission in enumerate(sorted(LEAST)):
        server.faults.granted = LEAST - {permission}
        try:
            assert not await life(f"tenant-{number}"), permission
        except DeniedError:
            continue


async def test_signing_alone_needs_two_permissions(server: GcpKmsSimulator, backend: Backend) -> None:
    """A process that only signs gets along with `get` and `useToSign`."""
    key = await backend.create(LABEL, P256)
    async with opened(server) as signer:
        server.faults.granted = frozenset({"cloudkms.cryptoKeyVersions.get", "cloudkms.cryptoKeyVersions.useToSign"})
        await sign(signer, key)


async def test_ml_dsa_where_the_location_has_no_such_hsm(server: GcpKmsSimulator) -> None:
    """A location that does not make the algorithm in its HSM is a typed refusal that names level and algorithm."""
    async with opened(server, software_algorithms=()) as backend:
        with pytest.raises(NotOfferedError, match="PQ_SIGN_ML_DSA_65_EXTERNAL_MU at the protection level HSM"):
            await backend.create(LABEL, ALGORITHMS["ml-dsa-65"])


async def test_a_key_made_at_another_protection_level_is_not_handed_out(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """A version in software where the HSM was asked for is refused for good, not looked for again and then taken."""
    change = _altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE)
    server.faults.change_next("GetCryptoKeyVersion", change)
    with pytest.raises(NotOfferedError, match="at SOFTWARE, not EC_SIGN_P256_SHA256 at HSM"):
        await backend.create(LABEL, P256)


async def test_new_keys_are_at_the_level_that_is_set_now_and_old_ones_at_their_own(server: GcpKmsSimulator) -> None:
    """After a change of the settings the next version is in the HSM; a retried creation of the old one is refused."""
    async with opened(server, protection_level="SOFTWARE") as backend:
        await backend.create(LABEL, P256)
    async with opened(server) as backend:
        with pytest.raises(
            WrongStateError, match="level SOFTWARE, not for EC_SIGN_P256_SHA256 at the protection level HSM"
        ):
            await backend.create(LABEL, P256)
        found = await backend.find(LABEL)
        assert found is not None
        assert found.evidence["protection_level"] == "SOFTWARE"
        await sign(backend, found)
        following = await backend.create(KeyLabel("ca", "issuing", 2), P256)
        assert following.evidence["protection_level"] == "HSM"


async def test_the_attestation_of_an_hsm_key_is_kept_as_it_comes_and_not_called_verified(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Statement and chains are handed on with their format; nobody here has checked them, and the record says so."""
    key = await backend.create(LABEL, P256)
    attestation = await backend.attest(key.handle)
    given = server.resources.version(key.handle).message.attestation
    assert (attestation.format, attestation.by, attestation.verified) == ("gcp-cavium-v2", "device", False)
    assert attestation.statement == given.content
    assert len(attestation.chain) == 4
    assert attestation.claims["cavium_certs"] == 2
    assert attestation.claims["protection_level"] == "HSM"


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08"])
async def test_a_garbled_attestation_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend, content: bytes) -> None:
    """A statement that is no gzip, or is cut off, is not stored."""
    key = await backend.create(LABEL, P256)
    server.resources.version(key.handle).message.attestation.content = content
    with pytest.raises(BadAnswerError):
        await backend.attest(key.handle)


async def test_a_certificate_that_is_none_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Each certificate of the chains must be one."""
    key = await backend.create(LABEL, P256)
    server.resources.version(key.handle).message.attestation.cert_chains.cavium_certs = ["garbage"]
    with pytest.raises(BadAnswerError):
        await backend.attest(key.handle)


async def test_no_kms_at_all(server: GcpKmsSimulator, backend: Backend) -> None:
    """With nobody listening every operation is unavailable at once, and health does not raise."""
    await server.kill()
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await backend.create(LABEL, P256)
    with pytest.raises(UnavailableError):
        await backend.find(LABEL)
    assert not (await backend.health()).ready
    assert time.monotonic() - began < 4.5
