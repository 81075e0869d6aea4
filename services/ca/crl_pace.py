"""When the next CRL may come, and what is said while none comes.

A complete list of a million entries costs a good part of a second each time: it rests in proportion to that, while its
delta and the shards tell of every revocation at once.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from pkicore.clock import Clock, unix

_SMALL: Final = 1 << 20  # octets up to which a list needs no rest: making one takes some ten milliseconds
_SHARE: Final = 0.1  # of the time, at most, that is spent on making one list
_PROMPT: Final = 100_000  # entries up to which a list is never more than _LATEST late
_LATEST: Final = 3.0  # seconds
_RETRY: Final = 1.0  # seconds after the first failure
_MOST: Final = 5.0  # seconds after any failure
_SAID_AGAIN: Final = 300.0  # seconds between two lines of the log at most

_log = structlog.get_logger("services.ca.publication")


class Pace:
    """How long each list rests after it was made; those of at most `small` octets need not."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, small: int = _SMALL) -> None:
        self._monotonic = monotonic
        self._small = small
        self._rested_at: dict[str, float] = {}

    def spent(self, path: str, seconds: float, *, octets: int, entries: int) -> None:
        """A list was made, and that took so long."""
        rest = 0.0 if octets <= self._small else seconds * (1 / _SHARE - 1)
        if entries <= _PROMPT:
            rest = min(rest, _LATEST)
        self._rested_at[path] = self._monotonic() + rest

    def rest(self, path: str) -> float:
        """Seconds until the list may be made again."""
        return max(0.0, self._rested_at.get(path, 0.0) - self._monotonic())

    def hurry(self) -> None:
        """Each may be made now."""
        self._rested_at.clear()


class Trouble:
    """Says that lists are not published: at once, then at growing intervals, and when it is over."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._since = self._say_at = self._interval = 0.0

    def failed(self, error: Exception) -> float:
        """Once more; seconds until the next attempt."""
        now = self._monotonic()
        if not self._failures:
            self._since, self._say_at, self._interval = now, now, _RETRY
        self._failures += 1
        if now >= self._say_at:
            self._interval = min(2 * self._interval, _SAID_AGAIN)
            self._say_at = now + self._interval
            seconds = round(now - self._since)
            _log.error("CRL not published", error=str(error), failures=self._failures, seconds=seconds)
        return min(_RETRY * self._failures, _MOST)

    def over(self) -> None:
        """It was possible again."""
        if self._failures:
            seconds = round(self._monotonic() - self._since)
            _log.info("CRLs are published again", failures=self._failures, seconds=seconds)
        self._failures = 0


class Overdue:
    """Since when each list is due, as a metric: the age of what has waited longest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: Mapping[str, int] = {}
        self._gauge = Gauge(
            "pqcpki_ca_crl_overdue_seconds",
            "For how long the list that waits longest to be published has been due; 0 where none is.",
            registry=None,
        )
        self._gauge.set_function(self.seconds)

    def register(self, registry: CollectorRegistry) -> None:
        """Show the metric in a registry."""
        registry.register(self._gauge)

    def note(self, due: set[str]) -> None:
        """These are due now."""
        now = unix(self._clock.now())
        self._since = {path: self._since.get(path, now) for path in due}

    def seconds(self) -> float:
        """The longest wait."""
        now = unix(self._clock.now())
        return float(max((now - since for since in self._since.values()), default=0))
