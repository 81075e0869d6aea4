"""Reads a directory of small text files: no links, nothing that others may write, everything bounded."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from services.signing.policy.errors import Fault, PolicySetError

SUFFIX: Final = ".cedar"
MAX_FILES: Final = 256
MAX_OCTETS: Final = 1 << 20  # of all files
_MAX_ENTRIES: Final = 4096  # of the directory, other files included
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def read_files(directory: Path, *suffixes: str) -> dict[str, str]:
    """The texts of the files with one of these suffixes, by name, in the order of the names' octets.

    Raises:
        PolicySetError: the directory or a file cannot be read, is a link or no file, may be written by others, or is
            not UTF-8; or there are too many, or too long ones.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise PolicySetError(Fault(str(directory), None, f"cannot be read as a directory: {error.strerror}")) from error
    try:
        texts: dict[str, str] = {}
        left = MAX_OCTETS
        for name in _names(handle, directory, suffixes):
            content = _read(handle, name, left)
            left -= len(content)
            texts[name] = _decoded(name, content)
        return texts
    finally:
        os.close(handle)


def stamp_of(directory: Path, *suffixes: str) -> object:
    """What changes when one of the files is written, replaced, added or removed; None while they cannot be listed."""
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if entry.name.endswith(suffixes)]
            stats = [(entry.name, entry.stat(follow_symlinks=False)) for entry in found]
    except OSError:
        return None
    return sorted((name, is_.st_mtime_ns, is_.st_ctime_ns, is_.st_size, is_.st_ino) for name, is_ in stats)


def _names(handle: int, directory: Path, suffixes: tuple[str, ...]) -> list[str]:
    names = os.listdir(handle)
    found = sorted(name for name in names if name.endswith(suffixes))
    if len(names) > _MAX_ENTRIES or len(found) > MAX_FILES:
        raise PolicySetError(Fault(str(directory), None, f"holds more than {MAX_FILES} policy files"))
    for name in found:
        if not _NAME.fullmatch(name):
            shown = ascii(name)[1:41]
            raise PolicySetError(Fault(shown, None, "the file's name must be of letters, digits, ., _ and -"))
    return found


def _read(handle: int, name: str, most: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for whoever writes to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
        try:
            _check_mode(name, os.fstat(descriptor).st_mode)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PolicySetError(Fault(name, None, f"cannot be read, or is a symbolic link: {error.strerror}")) from error
    if len(content) > most:
        raise PolicySetError(Fault(name, None, f"the policy files have more than {MAX_OCTETS} octets together"))
    return content


def _check_mode(name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise PolicySetError(Fault(name, None, "is no file"))
    if mode & stat.S_IWOTH:
        raise PolicySetError(Fault(name, None, "may be written by anybody: chmod o-w"))


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicySetError(Fault(name, None, "is not a text in UTF-8")) from error
