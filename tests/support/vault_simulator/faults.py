"""What can go wrong on the way, on order: the next N requests whose path begins so get this instead of an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """One kind of trouble.

    Attributes:
        path: the beginning of the paths it hits, below /v1/.
        method: only requests with this one, where given.
        times: how many requests.
        delay: seconds before anything else.
        hang_up: close the connection instead of answering; "before" the act is done, or "after".
        status: answer so, with `body` and `headers`, instead of doing the act.
        drip: send the answer's body one octet per so many seconds.
        change: alter the JSON of a good answer.
    """

    path: str
    method: str = ""
    times: int = 1
    delay: float = 0.0
    hang_up: str = ""
    status: int = 0
    body: bytes = b'{"errors":["simulated"]}'
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    drip: float = 0.0
    change: Callable[[dict[str, Any]], object] | None = None


class Faults:
    """The faults that wait for their requests; may be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let it wait for its requests."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of this request, if any."""
        with self._lock:
            for fault in self._waiting:
                if path.startswith(fault.path) and fault.method in {"", method}:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                    return fault
        return None
