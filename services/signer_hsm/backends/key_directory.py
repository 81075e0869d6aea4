"""A directory of sealed keys, for the `file` back end; everything here blocks and runs in its lane.

`TENANT.NAME.vVERSION.key` is a key that signs, `TENANT.NAME.vVERSION.disabled` one that does not; each holds an
envelope of `pkicore.keys.envelope`. One mutex covers the files and what is kept of them in memory, so that no key signs
which the directory calls disabled, whatever caller gave up in the middle; and a key that many ask for is unsealed once.

`directory.id` is the directory's name for itself, written when it is first used. Without it, or with another one, the
directory is away (not mounted, say): nothing in it is missing then, and nothing destroyed.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from pkicore.algorithms import Algorithm, PrivateKey, algorithm_of, generate_private_key
from pkicore.encoding import sync_directory, write_new
from pkicore.errors import KeyLockedError, PkiError
from pkicore.keys.envelope import unseal
from pkicore.keys.file import create_file_key, read_key_file
from services.signer_hsm.backends import BackendKey, Facts, KeyLabel
from services.signer_hsm.backends.payloads import kinds_of
from services.signer_hsm.errors import (
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    SecretRefusedError,
    UnavailableError,
    WrongStateError,
)

__all__ = ["KeyDirectory", "OpenKey"]

_KEPT: Final = 1024  # unsealed keys in memory
_TRIED: Final = 3  # key files that the passphrase is tried on
_OTHERS: Final = 0o077
_MARKER: Final = "directory.id"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_HANDLE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\.[a-z0-9][a-z0-9-]{0,62}\.v[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class OpenKey:
    """An unsealed key and what is told of it."""

    private_key: PrivateKey
    told: BackendKey


class KeyDirectory:
    """The keys of one directory under one passphrase."""

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._mutex = threading.Lock()
        self._opened: dict[str, OpenKey] = {}
        self._id = ""

    @property
    def id(self) -> str:
        """The directory's name for itself."""
        return self._id

    @property
    def evidence(self) -> Facts:
        """How every key here is held, and where."""
        return {"storage": "sealed file", "extractable": True, "directory": self._id}

    def prepare(self) -> None:
        """Make the directory where it is missing, and see that the passphrase opens what lies there.

        One that has no name yet gets it: it is used for the first time, or its keys are older than these names.

        Raises:
            MisconfiguredError: others may read the directory.
            SecretRefusedError: the passphrase opens none of the keys.
            UnavailableError: its name is none.
            OSError: the directory or its name cannot be made.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & _OTHERS:
            raise MisconfiguredError(f"others may enter {self._directory}: run chmod 700 on it")
        with suppress(FileExistsError):
            write_new(self._directory / _MARKER, f"{secrets.token_hex(16)}\n".encode(), 0o600)
        self._id = self._present_id()
        some = list(islice(self.handles(), _TRIED))
        if some and not any(self._opens(handle) for handle in some):
            raise SecretRefusedError(f"the passphrase does not open the keys in {self._directory}")

    def require_present(self) -> None:
        """See that the directory is the one that was opened.

        Raises:
            UnavailableError: it is away, or another one is in its place.
        """
        if self._present_id() != self._id:
            raise UnavailableError(f"another directory is in the place of {self._directory}")

    def _present_id(self) -> str:
        try:
            found = (self._directory / _MARKER).read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise UnavailableError(f"the key directory {self._directory} is away: it has no {_MARKER}") from error
        if not _ID.fullmatch(found):
            raise UnavailableError(f"the key directory {self._directory} cannot be told: its {_MARKER} is damaged")
        return found

    def handles(self) -> Iterator[str]:
        """The handles of all keys, in no order."""
        for path in self._directory.iterdir():
            if path.suffix in {".key", ".disabled"} and _HANDLE.fullmatch(path.stem):
                yield path.stem

    def _opens(self, handle: str) -> bool:
        try:
            self.open(handle)
        except WrongStateError as error:
            return not isinstance(error.__cause__, KeyLockedError)
        return True

    def opened(self, handle: str) -> OpenKey | None:
        """The key if it is unsealed already; does not block."""
        return self._opened.get(handle)

    def forget(self) -> None:
        """Keep no key in memory any more; does not wait for a thread that hangs."""
        self._opened.clear()

    def create(self, label: KeyLabel, algorithm: Algorithm, private_key: PrivateKey | None = None) -> BackendKey:
        """Write a new key, or the given one, durably.

        Raises:
            NotOfferedError: the label is no name for a key.
            WrongStateError: there is such a key.
            UnavailableError: the directory is away.
        """
        handle = str(label)
        if not _HANDLE.fullmatch(handle):
            raise NotOfferedError("a key's label is made of small letters, digits and hyphens, and a version from 1")
        origin = "generated" if private_key is None else "imported"
        key = private_key if private_key is not None else generate_private_key(algorithm)
        with self._mutex:
            self.require_present()
            if any(path.exists() for path in self._paths(handle)):
                raise WrongStateError(f"there is a key {handle} already")
            create_file_key(self._paths(handle)[0], algorithm, self._passphrase, key)
            told = self._keep(handle, key, enabled=True).told
        return replace(told, evidence={**told.evidence, "origin": origin})

    def open(self, handle: str) -> OpenKey:
        """The key, unsealed now if it was not before.

        Raises:
            KeyNotFoundError: there is none.
            UnavailableError: the directory is away.
            WrongStateError: its file does not open: altered, another passphrase's, or readable by others.
        """
        with self._mutex:
            found = self._opened.get(handle)
            return found if found is not None else self._unseal(handle)

    def _unseal(self, handle: str) -> OpenKey:
        path = self._existing(handle)
        try:
            key = unseal(read_key_file(path), self._passphrase)
        except PkiError as error:
            raise WrongStateError(f"the file of the key {handle} does not open") from error
        return self._keep(handle, key, enabled=path.suffix == ".key")

    def _keep(self, handle: str, private_key: PrivateKey, *, enabled: bool) -> OpenKey:
        public_key = private_key.public_key()
        algorithm = algorithm_of(public_key)
        told = BackendKey(handle, algorithm, public_key, kinds_of(algorithm), enabled, self.evidence)
        if len(self._opened) >= _KEPT:
            del self._opened[next(iter(self._opened))]
        self._opened[handle] = OpenKey(private_key, told)
        return self._opened[handle]

    def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Let the key sign, or no longer; durable.

        Raises:
            KeyNotFoundError: there is none.
            UnavailableError: the directory is away.
        """
        with self._mutex:
            path = self._existing(handle)
            self._opened.pop(handle, None)
            path.rename(self._paths(handle)[0 if enabled else 1])
            sync_directory(self._directory)

    def destroy(self, handle: str) -> Facts | None:
        """Overwrite and remove the key's file; says what was done, None if there was no such file.

        Journals, snapshots and flash may keep older copies; those are sealed.

        Raises:
            UnavailableError: the directory is away.
        """
        with self._mutex:
            self._opened.pop(handle, None)
            paths = self._paths(handle)
            self.require_present()
            path = next(filter(Path.exists, paths), None)
            if path is None:
                return None
            octets = _overwrite(path)
            path.unlink()
            sync_directory(self._directory)
            return {"method": "overwritten, synced, unlinked", "file": path.name, "octets": octets}

    def _existing(self, handle: str) -> Path:
        path = next(filter(Path.exists, self._paths(handle)), None)
        if path is None:
            self.require_present()
            raise KeyNotFoundError(f"there is no key {handle}")
        return path

    def _paths(self, handle: str) -> tuple[Path, Path]:
        """Where an enabled and a disabled key of that handle lie; nothing outside of the directory has a handle."""
        if not _HANDLE.fullmatch(handle):
            raise KeyNotFoundError("that is no handle of a key file")
        return self._directory / f"{handle}.key", self._directory / f"{handle}.disabled"


def _overwrite(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, os.urandom(size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size
