"""Runs a service that dies by SIGKILL around one of its commits, or records its commits; for crash tests.

Usage: crashing_service.py ca|acme --config FILE --armed FILE --record FILE
       crashing_service.py ca|acme --config FILE --armed FILE --kill before|after --label LABEL --nth N

Nothing is counted or recorded before the file `--armed` exists, so that commits of the start do not matter.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from services.acme.app import serve as serve_acme
from services.acme.settings import AcmeSettings
from services.ca.app import serve as serve_ca
from services.ca.settings import CaSettings
from services.chassis.observability import configure_logging
from services.chassis.runner import run
from services.chassis.settings import load_settings

Moment = Literal["before", "after"]


class Killer:
    """Dies at the n-th commit with a label."""

    def __init__(self, moment: Moment, label: str, nth: int) -> None:
        self._moment = moment
        self._label = label
        self._left = nth

    def __call__(self, moment: Moment, label: str) -> None:
        """Count, and die at the right one: no handler, no clean-up, no last words."""
        if (moment, label) == (self._moment, self._label):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Recorder:
    """Writes the label of each commit as a line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, moment: Moment, label: str) -> None:
        """Append the label once per commit."""
        if moment == "before":
            with self._file.open("a") as lines:
                lines.write(label + "\n")


def armed(file: Path, observer: Callable[[Moment, str], None]) -> Callable[[Moment, str], None]:
    """The observer, once the file exists."""

    def observe(moment: Moment, label: str) -> None:
        if file.exists():
            observer(moment, label)

    return observe


def main() -> None:
    """Run the service with the observer that the arguments describe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=["ca", "acme"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--armed", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--kill", choices=["before", "after"])
    parser.add_argument("--label")
    parser.add_argument("--nth", type=int, default=1)
    options = parser.parse_args()
    chosen = Recorder(options.record) if options.record else Killer(options.kill, options.label, options.nth)
    observer = armed(options.armed, chosen)
    if options.service == "ca":
        ca = load_settings(CaSettings, options.config)
        configure_logging("ca", ca.log_level, ca.log_format)
        run(serve_ca(ca, commit_observer=observer))
    else:
        acme = load_settings(AcmeSettings, options.config)
        configure_logging("acme", acme.log_level, acme.log_format)
        run(serve_acme(acme, commit_observer=observer))


if __name__ == "__main__":
    main()
