"""Key states that AWS KMS, or somebody in its console, brings about."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pkicore.clock import SystemClock
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import BackendError, KeyNotFoundError, UnavailableError, WrongStateError
from tests.support.aws_kms_faults import LABEL, P256, opened, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator


@pytest.mark.parametrize(
    ("state", "error"),
    [("PendingImport", WrongStateError), ("Unavailable", UnavailableError), ("Updating", WrongStateError)],
)
async def test_other_key_states(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, state: str, error: type[BackendError]
) -> None:
    """A key store that is not connected is an outage; other states are the key's own."""
    key = await kms.create(LABEL, P256)
    simulator.account.key(key.handle).state = state
    with pytest.raises(error):
        await sign(kms, key)


async def test_a_disabled_key_that_was_never_seen_shows_no_public_key(simulator: AwsKmsSimulator) -> None:
    """KMS gives none out, and a key without one is of no use to anybody."""
    async with opened(simulator, attempts=1) as backend:
        key = await backend.create(LABEL, P256)
        await backend.set_enabled(key.handle, enabled=False)
    async with opened(simulator, attempts=1) as reopened:
        with pytest.raises(WrongStateError):
            await reopened.load(key.handle)
        await reopened.set_enabled(key.handle, enabled=True)
        assert (await reopened.load(key.handle)).enabled


async def test_a_key_is_gone_after_its_window_and_destroying_it_again_is_final(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """What KMS no longer knows, though we made it, is destroyed for good."""
    key = await kms.create(LABEL, P256)
    first = await kms.destroy(key.handle)
    simulator.account.key(key.handle).deletion_date = SystemClock().now() - timedelta(seconds=1)
    last = await kms.destroy(key.handle)
    assert (first.final, last.final) == (False, True)
    assert last.proof["code"] == "NotFoundException"
    with pytest.raises(KeyNotFoundError):
        await kms.load(key.handle)
    assert await kms.find(LABEL) is None


async def test_a_deletion_that_was_cancelled_in_aws_is_ordered_anew(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Repeating `destroy` brings about what was asked, with the date that now holds."""
    key = await kms.create(LABEL, P256)
    await kms.destroy(key.handle)
    simulator.account.cancel_key_deletion({"KeyId": key.handle})
    again = await kms.destroy(key.handle)
    assert "RequestId" in again.proof
    assert simulator.account.key(key.handle).state == "PendingDeletion"
