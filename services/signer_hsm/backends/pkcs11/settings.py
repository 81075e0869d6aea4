"""The user PIN, from where the settings say."""

import os
import stat

from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import MisconfiguredError

_MAX_PIN = 255


def read_pin(settings: Pkcs11Settings) -> bytes:
    """The PIN as it stands now in its file (without the line's end) or environment variable.

    Raises:
        MisconfiguredError: it is missing, empty, too long, or its file may be read by others.
    """
    pin = _from_file(settings) if settings.pin_file else os.environ.get(settings.pin_variable, "").encode()
    if not pin:
        raise MisconfiguredError(f"the PIN of {settings.name} is missing: {settings.pin_file or settings.pin_variable}")
    if len(pin) > _MAX_PIN:
        raise MisconfiguredError(f"the PIN of {settings.name} has more than {_MAX_PIN} octets")
    return pin


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _from_file(settings: Pkcs11Settings) -> bytes:
    if settings.pin_file is None:
        return b""
    try:
        with open(settings.pin_file, "rb", opener=_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_PIN + 3)
    except OSError as error:
        raise MisconfiguredError(f"the PIN file {settings.pin_file} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise MisconfiguredError(f"the PIN file {settings.pin_file} must be a file of mode 0600")
    return content.rstrip(b"\r\n")
