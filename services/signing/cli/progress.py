"""How far reading and sending have come, on standard error: for whoever watches a terminal, or asks for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Final

_LARGE: Final = 32 << 20  # octets; what is smaller is done before anybody has read a line
_REDRAW: Final = 0.1  # seconds
_STEP: Final = 10  # per cent, where lines are not redrawn
_MIB: Final = 1 << 20


class Progress:
    """One line that is redrawn on a terminal, a line for each tenth elsewhere.

    Args:
        what: is being done.
        total: octets.
        asked: whether it was asked for; else only large files on a terminal are spoken of.
        stream: standard error.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        asked: bool,
        stream: IO[str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: IO[str] = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._enabled = asked or (self._is_terminal and total >= _LARGE)
        self._what = what
        self._total = total
        self._done = 0
        self._monotonic = monotonic
        self._drawn_at = monotonic() - _REDRAW
        self._told = -1

    def advance(self, octets: int) -> None:
        """So many more are done."""
        self._done += octets
        if not self._enabled:
            return
        if self._is_terminal:
            now = self._monotonic()
            if now - self._drawn_at >= _REDRAW:
                self._drawn_at = now
                self._write(f"\r{self._line()}")
        elif (tenth := self._percent() // _STEP) > self._told:
            self._told = tenth
            self._write(f"{self._line()}\n")

    def end(self) -> None:
        """Leave the line as it is, whole."""
        if self._enabled and self._is_terminal:
            self._write(f"\r{self._line()}\n")

    def _percent(self) -> int:
        return 100 if self._done >= self._total else 100 * self._done // self._total

    def _line(self) -> str:
        return f"{self._what}: {self._percent():3} % of {self._total / _MIB:.1f} MiB"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
