"""A circuit breaker: a back end that does not answer is left alone for a while instead of being waited for.

closed → open after so many failures in a row; open → half-open after some seconds: one call may try, the others are
refused; half-open → closed when that one succeeds, → open when it fails. Whatever the back end *answers* is a success,
a refusal too; only silence and garbage are failures. A configuration error opens it until `reset`. A refused secret is
an answer: the back end itself tries none twice (each further try could lock a token), and takes up the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, TypeAlias

from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    MisconfiguredError,
    SecretRefusedError,
    UnavailableError,
)

__all__ = ["BreakerState", "CircuitBreaker"]

BreakerState: TypeAlias = Literal["closed", "half-open", "open"]

_FAILURES: Final = (UnavailableError, DeadlineError, BadAnswerError)


class CircuitBreaker:
    """One back end's breaker.

    Attributes:
        name: of the back end.
        misconfigured: the sentence of the error that opened it until `reset`, None otherwise.
    """

    def __init__(self, name: str, monotonic: Callable[[], float], failures: int, open_seconds: float) -> None:
        """Closed.

        Args:
            name: of the back end.
            monotonic: a clock that never goes back, in seconds.
            failures: in a row, that open it.
            open_seconds: until one call may try.
        """
        self.name = name
        self.misconfigured: str | None = None
        self._monotonic = monotonic
        self._limit = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._opened_at: float | None = None
        self._probe: _Attempt | None = None
        self._epoch = 0

    @property
    def state(self) -> BreakerState:
        """What the next call meets."""
        if self._opened_at is None:
            return "closed"
        if self.misconfigured is None and (self._probe is not None or self._wait() <= 0):
            return "half-open"
        return "open"

    def check(self) -> None:
        """Refuse a call that has no chance, before it waits for its turn.

        Raises:
            MisconfiguredError: the settings must change first.
            UnavailableError: open, or somebody is trying already.
        """
        if self._opened_at is None:
            return
        if self.misconfigured is not None:
            raise MisconfiguredError(self.misconfigured)
        wait = self._wait()
        if wait > 0 or self._probe is not None:
            raise UnavailableError(
                f"the back end {self.name} did not answer lately and is left alone", retry_after=max(wait, 1.0)
            )

    def attempt(self) -> _Attempt:
        """A context for one call; its outcome counts.

        Raises:
            MisconfiguredError: as `check`.
            UnavailableError: as `check`.
        """
        self.check()
        attempt = _Attempt(self, self._epoch)
        if self._opened_at is not None:
            self._probe = attempt
        return attempt

    def reset(self) -> None:
        """Close it: the settings have changed."""
        self.misconfigured = None
        self._close()

    def _wait(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._open_seconds - self._monotonic()

    def _close(self) -> None:
        self._failures, self._opened_at, self._probe = 0, None, None
        self._epoch += 1

    def _open(self) -> None:
        self._opened_at, self._probe = self._monotonic(), None
        self._epoch += 1

    def _ended(self, attempt: _Attempt, error: BaseException | None) -> None:
        if isinstance(error, MisconfiguredError) and not isinstance(error, SecretRefusedError):
            self.misconfigured = str(error)
            self._open()
        elif attempt.epoch != self._epoch:
            return  # begun before the breaker last opened or closed: old news
        elif isinstance(error, _FAILURES):
            self._failures += 1
            if attempt is self._probe or self._failures >= self._limit:
                self._open()
        elif error is None or (isinstance(error, BackendError) and not isinstance(error, BusyError)):
            self._answered(attempt)
        elif attempt is self._probe:
            self._probe = None  # given up or never sent: nothing was learnt, another may try

    def _answered(self, attempt: _Attempt) -> None:
        if attempt is self._probe:
            self._close()
        else:
            self._failures = 0


class _Attempt:
    """One call under the breaker."""

    __slots__ = ("breaker", "epoch")

    def __init__(self, breaker: CircuitBreaker, epoch: int) -> None:
        self.breaker = breaker
        self.epoch = epoch

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.breaker._ended(self, error)  # noqa: SLF001 - two halves of one thing
