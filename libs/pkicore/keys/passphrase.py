"""Where the passphrase of sealed keys comes from: a file, never an argument or a variable."""

import os
import stat
from pathlib import Path

from pkicore.errors import KeyNotFoundError, KeyPermissionError

_MAX_PASSPHRASE = 4096  # octets
_OTHERS = 0o077


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file that nobody else may read; a line end after it does not count.

    Raises:
        KeyNotFoundError: the file is not there, or empty.
        KeyPermissionError: others may read it, or it is no plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang
    except OSError as error:
        raise KeyNotFoundError(f"the passphrase file {path} cannot be read: {error.strerror}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise KeyPermissionError(f"the passphrase file {path} is not a plain file")
        if state.st_mode & _OTHERS:
            raise KeyPermissionError(f"the passphrase file {path} may be read by others: run chmod 600 on it")
        passphrase = os.read(descriptor, _MAX_PASSPHRASE).rstrip(b"\r\n")
    finally:
        os.close(descriptor)
    if not passphrase:
        raise KeyNotFoundError(f"the passphrase file {path} is empty")
    return passphrase
