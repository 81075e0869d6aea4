"""The health of the AWS KMS back end: why signing would not work, found out without a signature."""

from __future__ import annotations

import pytest

from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from tests.support.aws_kms_faults import LABEL, P256
from tests.support.aws_kms_simulator import AwsKmsSimulator


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [
        ("AccessDeniedException", 400, "denied"),
        ("ThrottlingException", 400, "throttled"),
        ("KMSInternalException", 500, "unavailable"),
        ("WhatIsThis", 400, "bad-answer"),
    ],
)
async def test_health_tells_why_signing_would_not_work(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, code: str, status: int, cause: str
) -> None:
    """It does not raise, and makes no signature."""
    key = await kms.create(LABEL, P256)
    simulator.fail(code, status=status)
    health = await kms.health()
    assert not health.ready
    assert health.detail["problem"] == cause
    assert (await kms.health()).ready
    assert simulator.account.key(key.handle).signatures == 0


async def test_the_trouble_of_one_key_is_not_that_of_the_back_end(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """A disabled or vanished key is not rehearsed with again."""
    key = await kms.create(LABEL, P256)
    simulator.account.disable_key({"KeyId": key.handle})
    assert (await kms.health()).detail["probe"] == "ListAliases"
    await kms.health()
    assert simulator.calls["Sign"] == 1


async def test_an_endpoint_that_signs_a_rehearsal_is_not_trusted(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """DryRun must not make a signature."""
    await kms.create(LABEL, P256)
    simulator.garble(b'{"KeyId":"x","Signature":"eA==","SigningAlgorithm":"ECDSA_SHA_256"}', operation="Sign")
    health = await kms.health()
    assert (health.ready, health.detail["problem"]) == (False, "bad-answer")
