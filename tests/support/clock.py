"""A clock that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Stands still at `start` until advanced."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = (start or datetime(2030, 1, 1, tzinfo=UTC)).replace(microsecond=0)

    def now(self) -> datetime:
        """The present: aware UTC, microsecond 0."""
        return self._now

    def advance(self, step: timedelta) -> None:
        """Let time pass; backwards too, for those who test that."""
        self._now += step
