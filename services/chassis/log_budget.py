"""How many lines of the log a caller may cause: the first of a second are written, the others counted.

Whoever may connect may also be refused, as often as it likes; without a budget it would fill the log at line rate, and
what happened to others would be lost in it. When the second is over, one line says how many were left out.
"""

import asyncio
import contextvars
import ipaddress
from collections.abc import Callable
from typing import Final

LINES: Final = 20
"""Of one caller in a second."""
_CALLERS: Final = 1024
"""With a budget of their own; who comes later in the same second shares one."""
_OTHERS: Final = "others"
_SECONDS: Final = 1.0
_OWN_PREFIX: Final = 64
"""Bits of an IPv6 address that a host cannot choose (RFC 4291 §2.5.4)."""


def neighbourhood(address: str) -> str:
    """Whose budget it is: an IPv4 address has one, an IPv6 address one with all that its host may take."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket's path, or nothing that is known
        return address
    if found.version == 4:  # noqa: PLR2004 - IP version
        return address
    if found.ipv4_mapped:  # IPv4 on a listener for both (RFC 4291 §2.5.5.2)
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((address, _OWN_PREFIX), strict=False))


class LogBudget:
    """The lines of the running second, by caller; the second begins with its first line.

    Args:
        report: told each caller that had more lines than its budget, and how many were left out.
        lines: budget of each caller.
        seconds: how long it is for.
    """

    def __init__(self, report: Callable[[str, int], None], *, lines: int = LINES, seconds: float = _SECONDS) -> None:
        self._report = report
        self._lines = lines
        self._seconds = seconds
        self._spent: dict[str, int] = {}

    def spend(self, caller: str) -> bool:
        """Whether the caller's line may still be written."""
        if not self._spent:
            # an empty context: the report is of no single request, and must not carry the first one's id
            asyncio.get_running_loop().call_later(self._seconds, self._end, context=contextvars.Context())
        if caller not in self._spent and len(self._spent) >= _CALLERS:
            caller = _OTHERS
        spent = self._spent[caller] = self._spent.get(caller, 0) + 1
        return spent <= self._lines

    def _end(self) -> None:
        spent, self._spent = self._spent, {}
        for caller, lines in spent.items():
            if lines > self._lines:
                self._report(caller, lines - self._lines)
