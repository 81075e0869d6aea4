from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from services.signer_hsm.backends.aws_kms.settling import Settling
from services.signer_hsm.errors import BackendError, DeniedError, KeyNotFoundError, WrongStateError

ARN = "arn"


def failing(times: int, error: BackendError) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    """Something that works after so many failures, and the count of its calls."""
    calls = [0]

    async def attempt() -> str:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return "done"

    return calls, attempt


async def test_expected_failures_of_a_changed_key_pass() -> None:
    """Each of those that were named."""
    settling = Settling(1.0)
    settling.begin(ARN, KeyNotFoundError, DeniedError)
    for error in (KeyNotFoundError("no"), DeniedError("no")):
        calls, attempt = failing(2, error)
        assert await settling.call(ARN, attempt) == "done"
        assert calls == [3]


@pytest.mark.parametrize(("arn", "error"), [("other", KeyNotFoundError("no")), (ARN, WrongStateError("no"))])
async def test_other_keys_and_other_failures_do_not(arn: str, error: BackendError) -> None:
    """They are raised at once."""
    settling = Settling(1.0)
    settling.begin(ARN, KeyNotFoundError)
    calls, attempt = failing(1, error)
    with pytest.raises(type(error)):
        await settling.call(arn, attempt)
    assert calls == [1]


async def test_a_key_that_changed_again_is_not_waited_for() -> None:
    """Disabled, or ordered to be destroyed."""
    settling = Settling(1.0)
    settling.begin(ARN, WrongStateError)
    settling.end(ARN)
    settling.end(ARN)
    assert not settling.is_settling(ARN)
    calls, attempt = failing(1, WrongStateError("no"))
    with pytest.raises(WrongStateError):
        await settling.call(ARN, attempt)
    assert calls == [1]


async def test_patience_ends() -> None:
    """With the failure itself, in time."""
    settling = Settling(0.2)
    settling.begin(ARN, KeyNotFoundError)
    _, attempt = failing(1000, KeyNotFoundError("no"))
    started = time.monotonic()
    with pytest.raises(KeyNotFoundError):
        await settling.call(ARN, attempt)
    assert time.monotonic() - started < 5
