"""What checking SBOMs may cost."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one check, and all of them together, may take.

    Attributes:
        document_bytes: the longest document.
        memory_bytes: address space of a checking process (RLIMIT_AS).
        processor_seconds: processor time of a check (RLIMIT_CPU).
        wall_seconds: time of a check.
        children: checks at once.
        waiting: checks that may wait for one of these.
        wait_seconds: how long they wait.
    """

    document_bytes: int = 64 * _MIB
    memory_bytes: int = 768 * _MIB
    processor_seconds: int = 120
    wall_seconds: int = 240
    children: int = 2
    waiting: int = 16
    wait_seconds: float = 60.0
