"""The errors of a transparency log.

TileLogError
├─ ForkedLogError       what is stored does not continue what was signed; nothing is signed any more
├─ LogContendedError    other processes were quicker, again and again; nothing of the batch was written
├─ EntryTooLargeError   more than a bundle of entries can hold
└─ NoEntryError         the log has no such entry, or is not as large
"""

from services.chassis.errors import ChassisError, UnavailableError


class TileLogError(ChassisError):
    """The root of the log's errors."""


class ForkedLogError(TileLogError):
    """What is stored does not continue what this log has signed: restore the database that does."""


class LogContendedError(TileLogError, UnavailableError):
    """Other processes appended first, again and again; nothing was appended, try again."""


class EntryTooLargeError(TileLogError):
    """An entry is larger than a bundle of entries can hold (65535 octets)."""


class NoEntryError(TileLogError):
    """The log has no such entry, or is not as large as asked for."""
