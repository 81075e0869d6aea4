"""Each failure of Cloud KMS is one class of ours, stays with its request, and leaks none of the service's words."""

from __future__ import annotations

import hashlib

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.metrics import SignerMetrics
from tests.support.backend_gcp_kms import settings_for
from tests.support.gcp_kms_faults import ES256, LABEL, P256, sign
from tests.support.gcp_kms_resources import Code
from tests.support.gcp_kms_simulator import DETAIL, GcpKmsSimulator


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


async def test_behind_the_guard_a_flapping_kms_is_not_noticed(server: GcpKmsSimulator, backend: Backend) -> None:
    """The guard repeats what was not done, so that single failures never reach the caller."""
    key = await backend.create(LABEL, P256)
    guarded = GuardedBackend(backend, settings_for(server), SignerMetrics(CollectorRegistry()))
    for _ in range(5):
        server.faults.fail_next(Code.UNAVAILABLE)
        await sign(guarded, key)
    await guarded.aclose()


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
