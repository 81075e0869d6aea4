"""Directories that last as long as the process that made them, and what a killed one left behind.

Whoever makes one holds a lock on it, which the kernel frees when the process dies: what nobody holds is left over.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.ca.errors import CeremonyError
from services.ca.layout import FAMILIES, SIGNER, SIGNING, Layout
from services.ca.signer_settings import TENANT
from services.ca.signing_settings import KEYS

_KEYS: Final = tuple(f"{TENANT}.{name}-{family}" for name in ("issuing", "ocsp-issuing") for family in FAMILIES)


@contextmanager
def held_directory(prefix: str, beside: Path) -> Iterator[Path]:
    """A private directory of this process below `beside`; at the end it is deleted, if it still has its name.

    Raises:
        CeremonyError: `beside` cannot be written.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
    except OSError as error:
        raise CeremonyError(f"{beside} cannot be written: {error.strerror}") from error
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def abandoned(prefix: str, beside: Path) -> list[Path]:
    """The directories of that prefix whose process is dead."""
    return [path for path in sorted(beside.glob(f"{glob.escape(prefix)}*")) if path.is_dir() and not _is_held(path)]


def remove_abandoned(prefix: str, beside: Path) -> None:
    """Delete what a process that was killed left behind."""
    for left in abandoned(prefix, beside):
        shutil.rmtree(left, ignore_errors=True)


def remove_unfinished(layout: Layout) -> list[str]:
    """Delete what a killed ceremony of this directory left beside it; a sentence for each names the keys, too.

    Keys in a back end that does not lie in the directory outlive it. Their names are all that can be said here: the
    back ends of that ceremony are not known to this one.
    """
    told = []
    for left in abandoned(partial_prefix(layout), layout.root.parent):
        had_signer, had_signing = (Layout(left).state(service).is_dir() for service in (SIGNER, SIGNING))
        names = (*_KEYS, *(KEYS if had_signing else ()))
        shutil.rmtree(left, ignore_errors=True)
        also = f"; keys of these names may be left in its back ends: {', '.join(names)}" if had_signer else ""
        told.append(f"removed {left}, which a ceremony that was cut short had left{also}")
    return told


@contextmanager
def staged(layout: Layout, left: Sequence[str]) -> Iterator[Layout]:
    """A private directory beside the final one, which takes its place when all is done; `left` are keys elsewhere.

    Raises:
        CeremonyError: it cannot be made, or put in place.
    """
    with held_directory(partial_prefix(layout), layout.root.parent) as made:
        yield Layout(made)
        try:
            made.rename(layout.root)
        except OSError as error:
            keys = f"; in the back ends these keys are left: {', '.join(left)}" if left else ""
            raise CeremonyError(f"{layout.root} cannot be put in place: {error.strerror}{keys}") from error


def partial_prefix(layout: Layout) -> str:
    """How the directory of an unfinished ceremony is called."""
    return f"{layout.root.name}.partial-"


def _is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
