"""Time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pkicore.clock import SystemClock, from_unix, unix


def test_the_system_clock_gives_whole_seconds_utc() -> None:
    """No microseconds, no local time."""
    now = SystemClock().now()
    assert now.microsecond == 0
    assert now.utcoffset() == timedelta(0)


def test_unix_seconds_there_and_back() -> None:
    """The zone of a datetime does not change its second."""
    moment = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert from_unix(unix(moment)) == moment
    assert from_unix(0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_datetime_without_zone_is_refused() -> None:
    """A naive datetime would silently be taken for local time."""
    with pytest.raises(ValueError, match="time zone"):
        unix(datetime(2030, 1, 1))  # noqa: DTZ001 - this is what must be refused
