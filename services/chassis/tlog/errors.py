"""The errors of a transparency log.

TileLogError
├─ ForkedLogError       what is stored does not continue what was signed; nothing is signed any more
│  └─ RenamedLogError     what is stored is a log of another name
├─ LogContendedError    other processes were quicker, again and again; nothing of the batch was written
├─ EntryTooLargeError   more than a bundle of entries can hold
└─ NoEntryError         the log has no such entry, or is not as large
"""

from services.chassis.errors import ChassisError, UnavailableError


class TileLogError(ChassisError):
    """The root of the log's errors."""


class ForkedLogError(TileLogError):
    """What is stored does not continue what this log has signed: restore the database that does."""


class RenamedLogError(ForkedLogError):
    """What is stored is a log of another origin, `stored`: a log keeps its name."""

    def __init__(self, stored: str, origin: str) -> None:
        super().__init__(
            f"the stored log is called {stored}, and was opened as {origin}: a log keeps its name, since verifiers "
            "know it by that; give it its origin again"
        )
        self.stored = stored


class LogContendedError(TileLogError, UnavailableError):
    """Other processes appended first, again and again; nothing was appended, try again."""


class EntryTooLargeError(TileLogError):
    """An entry is larger than a bundle of entries can hold (65535 octets)."""


class NoEntryError(TileLogError):
    """The log has no such entry, or is not as large as asked for."""
