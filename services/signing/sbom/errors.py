"""What checking an SBOM raises.

SbomError
├─ BadSbomError            what was sent is not an SBOM of an accepted format; `.problems` says where and what
├─ SbomTooCostlyError      the check would take more memory or time than one document may have
├─ SbomBusyError           too many checks at once: try again later
└─ SbomCheckFailedError    the check broke down: a fault of ours, for the log
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_PROBLEMS: Final = 10
_MAX_PATH: Final = 160  # characters
_MAX_MESSAGE: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document: where (a JSON path from `$`) and what, both bounded and printable."""

    path: str
    message: str

    @classmethod
    def at(cls, path: str, message: str) -> Problem:
        """Build one out of texts that may come from the document."""
        return cls(bounded(path, _MAX_PATH), bounded(message, _MAX_MESSAGE))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class SbomError(Exception):
    """The root of this package's errors."""


class BadSbomError(SbomError):
    """What was sent is not an SBOM of an accepted format.

    Attributes:
        problems: 1 to 10 of the things that are wrong.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, path: str, message: str) -> BadSbomError:
        """One problem."""
        return cls([Problem.at(path, message)])


class SbomTooCostlyError(SbomError):
    """Checking the document takes more than one document may have.

    Attributes:
        resource: `memory`, `processor time` or `time`.
    """

    def __init__(self, resource: str) -> None:
        super().__init__(f"checking this SBOM takes more {resource} than is allowed")
        self.resource = resource


class SbomBusyError(SbomError):
    """Too many SBOMs are being checked.

    Attributes:
        retry_after: seconds.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many SBOMs are being checked at the moment")
        self.retry_after = retry_after


class SbomCheckFailedError(SbomError):
    """The check broke down."""


def bounded(text: str, limit: int) -> str:
    """At most `limit` characters, all printable."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)
