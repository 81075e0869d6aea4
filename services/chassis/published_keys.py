"""Opening the list of keys whose private halves are public, which an operator keeps in a file."""

import mmap
from pathlib import Path

import structlog

from pkicore.errors import MalformedError
from pkicore.weak_keys import PublishedKeys
from services.chassis.errors import SettingsError

_log = structlog.get_logger("settings")


def open_published_keys(path: Path | None) -> PublishedKeys:
    """The list in a file of badkeys' form (`blocklist.dat`), mapped into memory for as long as the process lives.

    A file that is replaced is read at the next start; replace it by a rename, never by writing into it.

    Raises:
        SettingsError: it cannot be read, or is no such list.
    """
    if path is None:
        _log.info("no published_keys_file: keys of Debian's weak generator, and others that leaked, are not known")
        return PublishedKeys()
    try:
        with path.open("rb") as file:
            keys = PublishedKeys(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise SettingsError(f"published_keys_file: {path} cannot be read: {error}") from error
    except MalformedError as error:
        raise SettingsError(f"published_keys_file: {path}: {error}") from error
    return keys
