"""Time windows of a rule: minutes of the week in UTC, so that one past midnight, or past Sunday, is two spans."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, TypeAlias

from services.signer_hsm.policy.document import Window

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY

Spans: TypeAlias = tuple[tuple[int, int], ...]
"""From the first minute of the week up to, not including, the second."""


def spans_of(windows: Iterable[Window]) -> Spans:
    """The windows as spans of the week, sorted."""
    spans: set[tuple[int, int]] = set()
    for window in windows:
        start, end = _minute(window.start), _minute(window.end)
        length = (end - start) % _DAY or _DAY
        for day in window.days:
            first = _DAYS.index(day) * _DAY + start
            last = first + length
            spans.add((first, min(last, _WEEK)))
            if last > _WEEK:
                spans.add((0, last - _WEEK))
    return tuple(sorted(spans))


def inside(spans: Spans, at: datetime) -> bool:
    """Whether a moment (aware UTC) is in one of the spans."""
    minute = at.weekday() * _DAY + at.hour * 60 + at.minute
    return any(first <= minute < last for first, last in spans)


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)
