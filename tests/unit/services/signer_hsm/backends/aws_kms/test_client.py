from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signer_hsm.backends.aws_kms.client import FIRST_BACKOFF_SECONDS, METHODS, timeouts
from services.signer_hsm.backends.settings import AwsKmsSettings


def settings(**changes: object) -> AwsKmsSettings:
    """Settings of a back end."""
    return AwsKmsSettings.model_validate({"type": "aws_kms", "name": "aws", "region": "eu-central-1"} | changes)


def test_time_outs_that_fit_are_kept() -> None:
    """What the settings say holds where there is time for it."""
    assert timeouts(settings(deadline_seconds=30), 2) == (1.0, 2.0)


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_the_default_settings_fit_their_deadline(attempts: int) -> None:
    """With any number of attempts."""
    connect, read = timeouts(settings(), attempts)
    assert attempts * (connect + read) <= 5.0


@given(st.floats(0.01, 120), st.floats(0.01, 120), st.floats(0.01, 120), st.integers(1, 5))
def test_all_attempts_fit_and_none_is_without_time(deadline: float, connect: float, read: float, attempts: int) -> None:
    """Connecting and reading each have a share, and all together are not longer than the deadline."""
    chosen = settings(deadline_seconds=deadline, connect_timeout_seconds=connect, timeout_seconds=read)
    connecting, reading = timeouts(chosen, attempts)
    assert 0 < connecting <= connect
    assert 0 < reading <= read
    pauses = FIRST_BACKOFF_SECONDS * (2 ** (attempts - 1) - 1)
    assert attempts * (connecting + reading) <= max(deadline - pauses, deadline / 2) + 1e-9


def test_operations_are_methods_of_the_sdk() -> None:
    """The API's names and the SDK's go together."""
    for operation, method in METHODS.items():
        assert method.replace("_", "") == operation.lower()
