"""AWS KMS in which what was just done is not yet so everywhere: waited for, and no longer than the deadline."""

from __future__ import annotations

import time

import pytest

from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import DeadlineError, KeyNotFoundError, WrongStateError
from tests.support.aws_kms_faults import DEADLINE, LABEL, P256, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator


async def test_a_new_key_that_is_not_known_everywhere_yet_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """NotFound just after creation passes."""
    simulator.account.lag = 3
    key = await kms.create(LABEL, P256)
    simulator.account.key(key.handle).hidden_for = 2
    assert await sign(kms, key)


async def test_patience_with_a_new_key_ends_before_the_deadline(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """What does not settle is an open outcome, in time."""
    simulator.account.lag = 10_000
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await kms.create(LABEL, P256)
    assert time.monotonic() - started < DEADLINE


async def test_a_policy_by_tags_that_does_not_know_the_new_key_yet_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """AccessDenied just after creation passes too."""
    simulator.fail("AccessDeniedException", operation="CreateAlias", times=2)
    assert await sign(kms, await kms.create(LABEL, P256))


async def test_a_key_that_was_enabled_a_moment_ago_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Part of KMS still calls it disabled."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=False)
    await kms.set_enabled(key.handle, enabled=True)
    simulator.fail("DisabledException", operation="Sign", times=2)
    assert await sign(kms, key)


async def test_a_key_that_somebody_else_disabled_is_refused_at_once(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Patience is for our own changes only."""
    key = await kms.create(LABEL, P256)
    simulator.account.disable_key({"KeyId": key.handle})
    with pytest.raises(WrongStateError):
        await sign(kms, key)
    assert simulator.calls["Sign"] == 1


async def test_a_new_key_that_is_not_known_everywhere_is_not_taken_for_destroyed(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """NotFound of a key that was just made proves nothing."""
    key = await kms.create(LABEL, P256)
    simulator.fail("NotFoundException", operation="ScheduleKeyDeletion", times=1000)
    with pytest.raises(KeyNotFoundError):
        await kms.destroy(key.handle)
