from __future__ import annotations

import asyncio

import pytest

from services.signer_hsm.backends.aws_kms.batch import sign_each
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    NotOfferedError,
    UnavailableError,
)

PAYLOADS = [bytes([number]) for number in range(8)]


async def echo(payload: bytes) -> bytes:
    """A signature, as it were."""
    await asyncio.sleep(0.001 * (8 - payload[0]))  # the last one first
    return b"signed " + payload


@pytest.mark.parametrize("at_once", [1, 3, 20])
async def test_order_is_kept(at_once: int) -> None:
    """Whichever is ready first."""
    assert await sign_each(PAYLOADS, echo, at_once) == [b"signed " + payload for payload in PAYLOADS]


async def test_no_more_than_so_many_at_once() -> None:
    """And as many as that."""
    running, most = 0, 0

    async def count(payload: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return payload

    await sign_each(PAYLOADS, count, 3)
    assert most == 3


@pytest.mark.parametrize("kind", [NotOfferedError, BadAnswerError])
async def test_what_is_wrong_with_one_payload_spares_the_rest(kind: type[BackendError]) -> None:
    """Its error is in its place."""

    async def fail_third(payload: bytes) -> bytes:
        if payload == PAYLOADS[3]:
            raise kind("no")
        return payload

    answers = await sign_each(PAYLOADS, fail_third, 2)
    assert isinstance(answers[3], kind)
    assert [*answers[:3], *answers[4:]] == [*PAYLOADS[:3], *PAYLOADS[4:]]


@pytest.mark.parametrize("kind", [UnavailableError, DeadlineError, DeniedError, BusyError])
async def test_what_is_wrong_with_the_back_end_ends_the_batch(kind: type[BackendError]) -> None:
    """The rest has the same error and is not tried."""
    tried = []

    async def fail_from_third(payload: bytes) -> bytes:
        tried.append(payload)
        if payload >= PAYLOADS[3]:
            raise kind("no")
        return payload

    answers = await sign_each(PAYLOADS, fail_from_third, 1)
    assert answers[:3] == PAYLOADS[:3]
    assert all(isinstance(answer, kind) for answer in answers[3:])
    assert tried == PAYLOADS[:4]


async def test_when_none_could_be_signed_the_first_error_is_raised() -> None:
    """A caller of one payload gets an exception, not a list."""

    async def fail(payload: bytes) -> bytes:
        raise NotOfferedError(f"number {payload[0]}")

    with pytest.raises(NotOfferedError, match="number 0"):
        await sign_each(PAYLOADS, fail, 2)


async def test_other_exceptions_are_not_hidden() -> None:
    """A mistake of ours is no back end's error."""

    async def fail(payload: bytes) -> bytes:
        raise LookupError(payload)

    with pytest.raises(LookupError):
        await sign_each(PAYLOADS, fail, 2)
