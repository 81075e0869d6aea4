"""The breaker's three states, what counts as a failure, and what only a person may undo."""

from __future__ import annotations

import asyncio

import pytest

from services.signer_hsm.backends.breaker import CircuitBreaker
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    SecretRefusedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)

FAILURES = 3
SECONDS = 5.0


class Time:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        """The present."""
        return self.now


@pytest.fixture
def time() -> Time:
    """A clock at some moment."""
    return Time()


@pytest.fixture
def breaker(time: Time) -> CircuitBreaker:
    """A closed breaker."""
    return CircuitBreaker("hsm", time.read, FAILURES, SECONDS)


def state(breaker: CircuitBreaker) -> str:
    """What it is now; a property that changes between two looks."""
    return breaker.state


def call(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    """One call that ends so."""
    try:
        with breaker.attempt():
            if error is not None:
                raise error
    except (BackendError, asyncio.CancelledError, RuntimeError) as raised:
        if raised is not error:
            raise


def opened(breaker: CircuitBreaker) -> None:
    """Fail until it is open."""
    for _ in range(FAILURES):
        call(breaker, UnavailableError("down"))
    assert state(breaker) == "open"


@pytest.mark.parametrize("error", [UnavailableError, DeadlineError, BadAnswerError])
def test_silence_and_garbage_open_it(breaker: CircuitBreaker, error: type[BackendError]) -> None:
    """So many calls in a row without a proper answer open it, and the next is refused without a call."""
    for _ in range(FAILURES):
        assert state(breaker) == "closed"
        call(breaker, error("x"))
    assert state(breaker) == "open"
    with pytest.raises(UnavailableError, match="left alone") as refusal:
        breaker.attempt()
    assert refusal.value.retry_after == SECONDS
    with pytest.raises(UnavailableError):
        breaker.check()


@pytest.mark.parametrize(
    "answer",
    [ThrottledError, DeniedError, KeyNotFoundError, NotOfferedError, WrongStateError, SecretRefusedError, None],
)
def test_answers_are_no_failures(breaker: CircuitBreaker, answer: type[BackendError] | None) -> None:
    """A back end that answers, were it by a refusal, is there: the count begins anew."""
    for _ in range(FAILURES * 3):
        call(breaker, UnavailableError("x"))
        call(breaker, UnavailableError("x"))
        call(breaker, None if answer is None else answer("x"))
    assert state(breaker) == "closed"


@pytest.mark.parametrize("nothing", [BusyError("x"), asyncio.CancelledError(), RuntimeError("bug")])
def test_what_says_nothing_of_the_back_end(breaker: CircuitBreaker, nothing: BaseException) -> None:
    """Our own full queue, a caller that left, or a fault of ours neither opens it nor starts the count anew."""
    for _ in range(FAILURES * 2):
        call(breaker, nothing)
    assert state(breaker) == "closed"
    call(breaker, UnavailableError("x"))
    call(breaker, UnavailableError("x"))
    call(breaker, nothing)
    call(breaker, UnavailableError("x"))
    assert state(breaker) == "open"


def test_one_probe_at_a_time(breaker: CircuitBreaker, time: Time) -> None:
    """After its time one call may try while the others are refused; its success closes the breaker."""
    opened(breaker)
    time.now += SECONDS
    assert state(breaker) == "half-open"
    with breaker.attempt():
        assert state(breaker) == "half-open"
        with pytest.raises(UnavailableError):
            breaker.attempt()
    assert state(breaker) == "closed"
    call(breaker)


def test_a_failed_probe_opens_it_for_another_while(breaker: CircuitBreaker, time: Time) -> None:
    """One failure of the probe is enough, and the time begins anew."""
    opened(breaker)
    time.now += SECONDS
    call(breaker, DeadlineError("x"))
    assert state(breaker) == "open"
    time.now += SECONDS - 0.1
    assert state(breaker) == "open"
    time.now += 0.1
    assert state(breaker) == "half-open"


@pytest.mark.parametrize("nothing", [BusyError("x"), asyncio.CancelledError(), RuntimeError("bug")])
def test_a_probe_that_never_was_lets_another_try(breaker: CircuitBreaker, time: Time, nothing: BaseException) -> None:
    """A probe whose caller left leaves the breaker half-open and the next call is the probe."""
    opened(breaker)
    time.now += SECONDS
    call(breaker, nothing)
    assert state(breaker) == "half-open"
    call(breaker)
    assert state(breaker) == "closed"


def test_old_news_do_not_count(breaker: CircuitBreaker, time: Time) -> None:
    """Calls begun before the breaker opened change nothing when they end after it."""
    late_success, late_failures = breaker.attempt(), [breaker.attempt() for _ in range(FAILURES)]
    opened(breaker)
    late_success.__exit__(None, None, None)
    assert state(breaker) == "open"
    time.now += SECONDS
    call(breaker)
    for attempt in late_failures:
        attempt.__exit__(UnavailableError, UnavailableError("x"), None)
    assert state(breaker) == "closed"


def test_a_wrong_pin_is_never_tried_again(breaker: CircuitBreaker, time: Time) -> None:
    """A configuration error opens it at once and for good, with its own sentence, until somebody resets it."""
    call(breaker, MisconfiguredError("the PIN is wrong"))
    for _ in range(3):
        time.now += SECONDS * 1000
        assert state(breaker) == "open"
        with pytest.raises(MisconfiguredError, match="the PIN is wrong"):
            breaker.check()
        with pytest.raises(MisconfiguredError, match="the PIN is wrong"):
            breaker.attempt()
    breaker.reset()
    assert state(breaker) == "closed"
    call(breaker)


def test_a_wrong_pin_in_the_probe(breaker: CircuitBreaker, time: Time) -> None:
    """A probe that meets a configuration error opens it for good, too."""
    opened(breaker)
    time.now += SECONDS
    call(breaker, MisconfiguredError("the PIN is wrong"))
    time.now += SECONDS
    assert state(breaker) == "open"
