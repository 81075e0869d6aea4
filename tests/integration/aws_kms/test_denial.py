"""AWS KMS that refuses us: what is said of it, and a clock that is off told from a wrong secret."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import DeniedError
from tests.support.aws_kms_faults import LABEL, P256, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator


async def test_denial_is_typed_and_passes_on_nothing_of_what_aws_said(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """AWS names principals, accounts and resources in its sentence; ours names the operation and the code."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=True)  # no longer new, so denial is not waited out
    simulator.fail("AccessDeniedException", operation="Sign")
    with pytest.raises(DeniedError) as caught:
        await sign(kms, key)
    assert "as told" not in str(caught.value)
    assert "AccessDeniedException" in str(caught.value)
    assert "as told" in str(caught.value.__cause__)


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_clock_that_is_off_is_told_from_a_wrong_secret(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, minutes: int
) -> None:
    """The error names the difference; when the clocks agree again, the back end works."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=True)
    simulator.skew = timedelta(minutes=minutes)
    with pytest.raises(DeniedError, match=r"the clock of this machine is (599|60\d) s (ahead of|behind)"):
        await sign(kms, key)
    simulator.skew = timedelta(0)
    assert await sign(kms, key)
