"""How many refusals a caller has in a second: each is a durable record, so nobody may have as many as it likes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

_CALLERS: Final = 4096  # with a budget of their own in a second; who comes later shares one
_OTHERS: Final = object()


class RefusalBudget:
    """Counts the refusals of each caller in the running second.

    Args:
        monotonic: seconds that never go back.
        most: refusals of one caller in a second.
    """

    def __init__(self, monotonic: Callable[[], float], most: int) -> None:
        self._monotonic = monotonic
        self._most = most
        self._second = 0
        self._spent: dict[Hashable, int] = {}

    def is_spent(self, caller: Hashable) -> bool:
        """Whether the caller has had all its refusals of this second."""
        if not self._spent:
            return False
        spent = self._of_this_second()
        return spent.get(self._known(caller, spent), 0) >= self._most

    def spend(self, caller: Hashable) -> int:
        """Count a refusal; answers how many there were in this second, this one included."""
        spent = self._of_this_second()
        place = self._known(caller, spent)
        spent[place] = spent.get(place, 0) + 1
        return spent[place]

    @staticmethod
    def _known(caller: Hashable, spent: dict[Hashable, int]) -> Hashable:
        return caller if caller in spent or len(spent) < _CALLERS else _OTHERS

    def _of_this_second(self) -> dict[Hashable, int]:
        second = int(self._monotonic())
        if second != self._second:
            self._second = second
            self._spent.clear()
        return self._spent
