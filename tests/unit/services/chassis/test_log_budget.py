"""The log's budget: each caller has its own, nothing is lost uncounted, and memory is bounded."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from services.chassis.log_budget import LogBudget, neighbourhood

SECOND = 0.05


async def test_the_first_lines_are_written_and_the_others_counted() -> None:
    """A caller over its budget is told of once, when the second is over; another one keeps its lines."""
    told: list[tuple[str, int]] = []
    budget = LogBudget(lambda caller, lines: told.append((caller, lines)), lines=3, seconds=SECOND)
    assert [budget.spend("noisy") for _ in range(10)] == [True] * 3 + [False] * 7
    assert all(budget.spend("quiet") for _ in range(3))
    assert told == []
    await asyncio.sleep(3 * SECOND)
    assert told == [("noisy", 7)]


async def test_a_new_second_is_a_new_budget() -> None:
    """What was left out is said once, and the next second begins with its first line."""
    told: list[tuple[str, int]] = []
    budget = LogBudget(lambda caller, lines: told.append((caller, lines)), lines=1, seconds=SECOND)
    for _ in range(2):
        assert [budget.spend("noisy") for _ in range(2)] == [True, False]
        await asyncio.sleep(3 * SECOND)
    assert told == [("noisy", 1), ("noisy", 1)]


async def test_many_names_share_what_is_left() -> None:
    """Whoever shows more names than are told apart gets one more budget, and costs no more memory."""
    told: list[tuple[str, int]] = []
    budget = LogBudget(lambda caller, lines: told.append((caller, lines)), lines=2, seconds=SECOND)
    written = sum(budget.spend(f"caller-{number}") for number in range(2000))
    assert written == 1024 + 2
    await asyncio.sleep(3 * SECOND)
    assert told == [("others", 2000 - 1024 - 2)]


async def test_the_report_is_of_no_request() -> None:
    """The line about what was left out does not carry the id of the request that came first."""
    seen: list[dict[str, object]] = []
    budget = LogBudget(lambda *_: seen.append(structlog.contextvars.get_contextvars()), lines=0, seconds=SECOND)
    with structlog.contextvars.bound_contextvars(request_id="first"):
        budget.spend("noisy")
    await asyncio.sleep(3 * SECOND)
    assert seen == [{}]


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("/run/x.sock", "/run/x.sock"),
        ("", ""),
    ],
)
def test_whose_budget_it_is(address: str, whose: str) -> None:
    """A host's own choice of an IPv6 address gives it no second budget."""
    assert neighbourhood(address) == whose
