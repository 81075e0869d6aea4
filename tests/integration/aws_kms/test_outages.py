"""AWS KMS that is slow, gone or overloaded: typed errors in time, and recovery without a restart."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import BusyError, DeadlineError, ThrottledError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.aws_kms_faults import DEADLINE, LABEL, P256, opened, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator


async def test_an_answer_that_comes_too_late_is_a_deadline(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The error comes within the deadline, and the next call works."""
    key = await kms.create(LABEL, P256)
    simulator.delay(5.0, operation="Sign")
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await sign(kms, key)
    assert time.monotonic() - started < DEADLINE
    assert await sign(kms, key)


async def test_all_attempts_together_stay_within_the_deadline(simulator: AwsKmsSimulator) -> None:
    """Five attempts at an endpoint that never answers take no longer than the deadline, whatever the time-outs say."""
    async with opened(simulator) as usual:
        key = await usual.create(LABEL, P256)
    async with opened(simulator, attempts=5, deadline_seconds=6.0, timeout_seconds=60) as backend:
        simulator.delay(30, operation="Sign", times=100)
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - started < 20  # and not five times 30 s
        assert simulator.calls["Sign"] == 5


async def test_an_endpoint_that_is_gone_and_comes_back(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """Unavailable while it is gone; the same back end signs when it is back."""
    key = await kms.create(LABEL, P256)
    simulator.kill()
    with pytest.raises(UnavailableError) as caught:
        await sign(kms, key)
    assert caught.value.retry_after
    with pytest.raises(UnavailableError):  # nobody was reached, so nothing was made
        await kms.create(KeyLabel("ca", "other", 1), P256)
    assert not (await kms.health()).ready
    simulator.start()
    assert await sign(kms, key)
    assert (await kms.health()).ready


async def test_an_endpoint_killed_in_mid_call(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The waiting caller gets its error when the connection breaks."""
    key = await kms.create(LABEL, P256)
    simulator.delay(30, operation="Sign")
    killer = threading.Timer(0.15, simulator.kill)
    killer.start()
    with pytest.raises(UnavailableError):
        await sign(kms, key)
    await asyncio.to_thread(killer.join)
    simulator.start()
    assert await sign(kms, key)


async def test_a_flapping_endpoint_is_ridden_out_by_the_sdk(simulator: AwsKmsSimulator) -> None:
    """Every second answer is an internal error; two attempts are enough for every call."""
    async with opened(simulator, attempts=2) as backend:
        key = await backend.create(LABEL, P256)
        for _ in range(10):
            simulator.fail("KMSInternalException", status=500, operation="Sign")
            assert await sign(backend, key)


async def test_throttling_says_how_long_to_wait(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The header's seconds where there are any, one second otherwise."""
    key = await kms.create(LABEL, P256)
    for code, header, seconds in (("ThrottlingException", 7, 7), ("LimitExceededException", None, 1)):
        simulator.fail(code, operation="Sign", retry_after=header)
        with pytest.raises(ThrottledError) as caught:
            await sign(kms, key)
        assert caught.value.retry_after == seconds


async def test_a_full_queue_says_so(simulator: AwsKmsSimulator) -> None:
    """More callers than threads and waiting places are refused at once; the accepted ones are served."""
    async with opened(simulator, attempts=1, workers=1, queue=1) as backend:
        key = await backend.create(LABEL, P256)
        simulator.delay(0.2, operation="Sign", times=2)
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, bytes) for answer in answers) == 2
    assert sum(isinstance(answer, BusyError) for answer in answers) == 3


async def test_a_batch_stops_when_the_back_end_breaks(simulator: AwsKmsSimulator) -> None:
    """What was signed before stays; the rest is not tried one by one."""
    async with opened(simulator, attempts=1, workers=1) as backend:
        key = await backend.create(LABEL, P256)
        simulator.delay(0, operation="Sign", times=3)
        simulator.fail("KMSInternalException", status=500, operation="Sign", times=100)
        answers = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)] * 64)
    assert [isinstance(answer, bytes) for answer in answers] == [True] * 3 + [False] * 61
    assert all(isinstance(answer, UnavailableError) for answer in answers[3:])
    assert simulator.calls["Sign"] == 4
