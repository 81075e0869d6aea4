"""AWS KMS behind its guard: what callers of the service meet when AWS misbehaves."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import BackendKey, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.errors import BackendError, BadAnswerError, DeadlineError, UnavailableError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import HASH_BYTES, MU_BYTES, Scheme, schemes_of
from tests.support.aws_kms_account import Fields
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated, simulator_settings

P256 = ALGORITHMS["ecdsa-p256"]
DEADLINE = 3.0
SETTINGS = {"deadline_seconds": DEADLINE, "breaker_failures": 3, "breaker_seconds": 0.3, "attempts": 1}


@asynccontextmanager
async def opened(simulator: AwsKmsSimulator, **changed: float) -> AsyncIterator[GuardedBackend]:
    """The back end as the service has it: with deadline, breaker and verification."""
    wanted = SETTINGS | changed
    backend = await open_simulated(simulator, SystemClock(), **wanted)
    made = GuardedBackend(backend, simulator_settings(simulator, **wanted), SignerMetrics(CollectorRegistry()))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def guarded(simulator: AwsKmsSimulator) -> AsyncIterator[GuardedBackend]:
    """Opened with the usual settings."""
    async with opened(simulator) as made:
        yield made


def payload_for(scheme: Scheme) -> bytes:
    """Octets of the right length."""
    return bytes(HASH_BYTES[scheme.hash] if scheme.hash is not None else MU_BYTES)


async def sign(guarded: GuardedBackend, key: BackendKey) -> bytes:
    """One signature with the usual scheme of the key."""
    scheme = schemes_of(key.algorithm)[0]
    (signature,) = await guarded.sign(key.handle, scheme, key.algorithm.payload, [payload_for(scheme)])
    assert isinstance(signature, bytes)
    return signature


async def served(guarded: GuardedBackend, key: BackendKey) -> bool:
    """Whether there is a signature now."""
    try:
        return bool(await sign(guarded, key))
    except BackendError:
        return False


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65"])
async def test_a_wrong_signature_never_reaches_the_caller(
    simulator: AwsKmsSimulator, guarded: GuardedBackend, name: str
) -> None:
    """A signature with one bit turned, and a good one over another payload, are bad answers."""
    key = await guarded.create(KeyLabel("ca", name, 1), ALGORITHMS[name])
    scheme = schemes_of(key.algorithm)[0]
    (other,) = await guarded.sign(key.handle, scheme, key.algorithm.payload, [b"\x01" * len(payload_for(scheme))])
    assert isinstance(other, bytes)

    def turn_a_bit(reply: Fields) -> Fields:
        signature = bytearray(base64.b64decode(reply["Signature"]))
        signature[-1] ^= 1
        return reply | {"Signature": base64.b64encode(signature).decode()}

    for lie in (turn_a_bit, lambda reply: reply | {"Signature": base64.b64encode(other).decode()}):
        simulator.alter("Sign", lie)
        with pytest.raises(BadAnswerError):
            await sign(guarded, key)
    assert await sign(guarded, key)


async def test_the_caller_waits_no_longer_than_the_deadline(
    simulator: AwsKmsSimulator, guarded: GuardedBackend
) -> None:
    """Eight callers of a hanging endpoint with two threads are all answered in time."""
    key = await guarded.create(KeyLabel("ca", "issuing", 1), P256)
    simulator.delay(30, operation="Sign", times=100)
    started = time.monotonic()
    answers = await asyncio.gather(*(sign(guarded, key) for _ in range(8)), return_exceptions=True)
    assert time.monotonic() - started < 10 * DEADLINE  # and not the 30 s of the endpoint
    assert all(isinstance(answer, BackendError) for answer in answers)
    assert any(isinstance(answer, DeadlineError) for answer in answers)


async def test_the_breaker_opens_and_closes_without_a_restart(simulator: AwsKmsSimulator) -> None:
    """While AWS is gone, callers are refused at once; soon after it is back, they are served."""
    async with opened(simulator, deadline_seconds=30) as guarded:  # attempts are refused, however slow the machine
        key = await guarded.create(KeyLabel("ca", "issuing", 1), P256)
        await sign(guarded, key)
        simulator.kill()
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await sign(guarded, key)
        assert (await guarded.health()).detail["breaker"] == "open"
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await sign(guarded, key)
        assert time.monotonic() - started < 1
        simulator.start()
        async with asyncio.timeout(10):
            while not await served(guarded, key):  # noqa: ASYNC110 - nothing tells of it but an attempt
                await asyncio.sleep(0.35)
        assert guarded.breaker.state == "closed"


async def test_denial_and_throttling_do_not_keep_the_back_end_away(
    simulator: AwsKmsSimulator, guarded: GuardedBackend
) -> None:
    """However often credentials are refused, the first good answer is served: nothing locks up in AWS."""
    key = await guarded.create(KeyLabel("ca", "issuing", 1), P256)
    await guarded.set_enabled(key.handle, enabled=True)  # no longer new: a denial is not waited out
    for code in ("AccessDeniedException", "ExpiredTokenException", "ValidationException", "InvalidArnException"):
        for _ in range(4):
            simulator.fail(code, operation="Sign")
            with pytest.raises(BackendError):
                await sign(guarded, key)
    assert guarded.breaker.state == "closed"
    assert await sign(guarded, key)
