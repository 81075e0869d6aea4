"""Time as the whole project knows it: aware UTC, whole seconds, from a clock that is handed in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the present comes from."""

    def now(self) -> datetime:
        """The present: aware UTC, microsecond 0."""
        ...


class SystemClock:
    """The machine's clock, cut to the second."""

    def now(self) -> datetime:
        """The present: aware UTC, microsecond 0."""
        return datetime.fromtimestamp(int(time.time()), UTC)


def unix(moment: datetime) -> int:
    """Seconds since 1970 of an aware datetime.

    Raises:
        ValueError: the datetime names no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone is no moment")
    return int(moment.timestamp())


def from_unix(seconds: int) -> datetime:
    """The aware UTC datetime of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)
