"""Suggested windows and when to ask again, by arithmetic."""

from __future__ import annotations

import pytest

from services.acme.renewals.renewal_info import Window, past_window, poll_seconds, usual_window, window_of
from services.acme.store.renewals import RenewalRow

DAY = 86_400
BEGIN = 1_800_000_000


@pytest.mark.parametrize(
    ("life", "centre"),
    [
        (90 * DAY, 60 * DAY),
        (10 * DAY, 20 * DAY // 3),
        (10 * DAY - 1, (10 * DAY - 1) // 2),
        (6 * DAY, 3 * DAY),
        (3600, 1800),
    ],
    ids=["ninety-days", "ten-days", "a-second-less", "six-days", "an-hour"],
)
def test_the_usual_window(life: int, centre: int) -> None:
    """Two thirds into the life, half-way where it is shorter than ten days, and 2 % of it wide."""
    window = usual_window(BEGIN, BEGIN + life - 1)
    assert window.start + window.end == 2 * (BEGIN + centre)
    assert window.end - window.start == 2 * (life // 100)


@pytest.mark.requirement("rfc9773-4.2-04")
def test_a_window_ends_after_it_starts() -> None:
    """So too for a certificate that lives for a second, and for one that is due at once (RFC 9773 §4.2)."""
    for window in (usual_window(BEGIN, BEGIN), past_window(BEGIN)):
        assert window.start < window.end


def test_what_is_revoked_or_in_an_incident_is_due() -> None:
    """The window was over when that happened; what an incident says goes before what revocation does."""
    revoked = RenewalRow(BEGIN, BEGIN + 90 * DAY, BEGIN + DAY, None)
    assert window_of(revoked) == past_window(BEGIN + DAY)
    assert window_of(revoked).end < BEGIN + DAY
    both = RenewalRow(BEGIN, BEGIN + 90 * DAY, BEGIN + DAY, (BEGIN, BEGIN + 1, ""))
    assert window_of(both) == Window(BEGIN, BEGIN + 1)


def test_polls_are_spread_and_each_certificate_keeps_its_own() -> None:
    """Six hours give or take a fifth; less for short lives, and while an incident is open."""
    row = RenewalRow(BEGIN, BEGIN + 90 * DAY, None, None)
    found = [poll_seconds(f"aYhb.{number}", row) for number in range(200)]
    assert found == [poll_seconds(f"aYhb.{number}", row) for number in range(200)]
    assert 0.8 * 21_600 <= min(found) < 0.85 * 21_600
    assert 1.15 * 21_600 < max(found) <= 1.2 * 21_600
    assert poll_seconds("aYhb.1", RenewalRow(BEGIN, BEGIN + DAY, None, None)) <= 1.2 * DAY / 12
    incident = RenewalRow(BEGIN, BEGIN + 90 * DAY, None, (BEGIN, BEGIN + 1, ""))
    assert poll_seconds("aYhb.1", incident) <= 1.2 * 1800
