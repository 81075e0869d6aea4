from datetime import timedelta
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.ca.crl_pace import Overdue, Pace, Trouble
from tests.support.clock import ManualClock


class Seconds:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.mark.parametrize(
    ("octets", "entries", "rest"),
    [(1 << 20, 20_000, 0), (5_000_000, 100_000, 3), (50_000_000, 1_000_000, 18)],
)
def test_a_list_rests_nine_times_what_it_cost(octets: int, entries: int, rest: float) -> None:
    """Small ones not at all, those of up to a hundred thousand entries three seconds at most."""
    seconds = Seconds()
    pace = Pace(seconds)
    pace.spent("i", 2.0, octets=octets, entries=entries)
    assert (pace.rest("i"), pace.rest("j")) == (rest, 0)
    seconds.now += rest
    assert pace.rest("i") == 0


def test_who_is_in_a_hurry_waits_for_no_rest() -> None:
    """An operator asks for a new list."""
    pace = Pace(Seconds())
    pace.spent("i", 2.0, octets=1 << 30, entries=1_000_000)
    pace.hurry()
    assert pace.rest("i") == 0


def test_a_long_trouble_is_told_of_at_growing_intervals_and_when_it_ends() -> None:
    """An hour without a signer is some lines of the log, not thousands; the next trouble is told of at once."""
    seconds = Seconds()
    trouble = Trouble(seconds)
    with capture_logs() as lines:
        trouble.over()
        assert [trouble.failed(OSError("away")) for _ in range(7)] == [1, 2, 3, 4, 5, 5, 5]
        for _ in range(720):
            seconds.now += 5
            trouble.failed(OSError("away"))
        told = [line["seconds"] for line in lines]
        assert (told[:5], len(told) < 24) == ([0, 5, 10, 20, 40], True)
        assert all(later - earlier <= 305 for earlier, later in pairwise(told))
        trouble.over()
        trouble.over()
        trouble.failed(OSError("again"))
    assert [(line["log_level"], line["event"]) for line in lines[-2:]] == [
        ("info", "CRLs are published again"),
        ("error", "CRL not published"),
    ]
    assert lines[-2]["failures"] == 727


def test_the_longest_wait_is_a_metric() -> None:
    """As long as a list is due, and not one second longer."""
    clock, registry = ManualClock(), CollectorRegistry()
    overdue = Overdue(clock)
    overdue.register(registry)
    read = [registry.get_sample_value("pqcpki_ca_crl_overdue_seconds")]
    overdue.note({"i"})
    clock.advance(timedelta(seconds=40))
    overdue.note({"i", "j"})
    clock.advance(timedelta(seconds=2))
    read.append(registry.get_sample_value("pqcpki_ca_crl_overdue_seconds"))
    overdue.note({"j"})
    read.append(registry.get_sample_value("pqcpki_ca_crl_overdue_seconds"))
    overdue.note(set())
    read.append(registry.get_sample_value("pqcpki_ca_crl_overdue_seconds"))
    assert read == [0, 42, 2, 0]
