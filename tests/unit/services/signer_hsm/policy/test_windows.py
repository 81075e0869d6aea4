"""Time windows: days, midnight, the end of the week."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signer_hsm.policy.document import Window
from services.signer_hsm.policy.windows import inside, spans_of

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def window(start: str, end: str, *days: str) -> Window:
    """One window."""
    members: dict[str, Any] = {"days": days or DAYS, "from": start, "to": end}
    return Window.model_validate(members)


@pytest.mark.parametrize(
    ("start", "end", "day", "time", "expected"),
    [
        ("08:00", "17:00", 0, "07:59", False),
        ("08:00", "17:00", 0, "08:00", True),
        ("08:00", "17:00", 0, "16:59", True),
        ("08:00", "17:00", 0, "17:00", False),
        ("08:00", "17:00", 1, "12:00", False),
        ("22:00", "06:00", 0, "21:59", False),
        ("22:00", "06:00", 0, "23:59", True),
        ("22:00", "06:00", 0, "03:00", False),
        ("22:00", "06:00", 1, "00:00", True),
        ("22:00", "06:00", 1, "05:59", True),
        ("22:00", "06:00", 1, "06:00", False),
        ("00:00", "24:00", 0, "00:00", True),
        ("00:00", "24:00", 0, "23:59", True),
        ("00:00", "24:00", 1, "00:00", False),
        ("22:00", "00:00", 0, "23:59", True),
        ("22:00", "00:00", 1, "00:00", False),
    ],
)
def test_a_window_that_begins_on_monday(start: str, end: str, day: int, time: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """The first minute is in, the last is out; past midnight it is still Monday's."""
    hour, minute = map(int, time.split(":"))
    at = MONDAY + timedelta(days=day, hours=hour, minutes=minute, seconds=59)
    assert inside(spans_of([window(start, end, "mon")]), at) is expected


def test_sundays_night_goes_on_into_monday() -> None:
    """The week is a circle."""
    spans = spans_of([window("22:00", "06:00", "sun")])
    assert inside(spans, MONDAY + timedelta(hours=5, minutes=59))
    assert not inside(spans, MONDAY + timedelta(hours=6))
    assert inside(spans, MONDAY + timedelta(days=6, hours=22))
    assert not inside(spans, MONDAY + timedelta(days=5, hours=22))


_TIME = st.integers(0, 24 * 60 - 1)


@given(_TIME, _TIME, st.sets(st.sampled_from(DAYS), min_size=1), st.integers(0, 7 * 24 * 60 - 1))
def test_windows_agree_with_walking_through_them(start: int, end: int, days: set[str], minute: int) -> None:
    """The spans say what a walk from each window's beginning, minute by minute, says."""
    if start == end:
        return
    spell = "{:02}:{:02}".format
    spans = spans_of([window(spell(*divmod(start, 60)), spell(*divmod(end, 60)), *sorted(days))])
    length = (end - start) % (24 * 60)
    walked = any((minute - DAYS.index(day) * 24 * 60 - start) % (7 * 24 * 60) < length for day in days)
    assert inside(spans, MONDAY + timedelta(minutes=minute)) is walked
