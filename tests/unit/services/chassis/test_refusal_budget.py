from __future__ import annotations

from services.chassis.refusal_budget import RefusalBudget


class Seconds:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def test_each_caller_has_so_many_in_a_second() -> None:
    """One caller's refusals are none of another's, and the next second is a new one."""
    seconds = Seconds()
    budget = RefusalBudget(seconds, 2)
    assert not budget.is_spent("a")
    assert [budget.spend("a"), budget.spend("a")] == [1, 2]
    assert budget.is_spent("a")
    assert not budget.is_spent("b")
    seconds.now += 1
    assert not budget.is_spent("a")
    assert budget.spend("a") == 1


def test_strangers_without_number_share_one_budget() -> None:
    """Memory is bounded; who came first keeps its own budget."""
    budget = RefusalBudget(Seconds(), 3)
    for number in range(5000):
        budget.spend(number)
    assert budget.is_spent("stranger")
    assert not budget.is_spent(0)
    assert budget.spend(0) == 2
