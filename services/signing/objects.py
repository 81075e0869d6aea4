"""Files of the service: temporary ones while a request is under way, and those that records name, by their SHA-256.

    DIR/uploads/RANDOM                    temporary: removed with the request, or by upkeep after a crash
    DIR/objects/sha256/ab/cdef…           kept: written under a temporary name, synced, then renamed; never changed

A file is in place before the commit that names it, so a crash leaves at most files that nothing names, and upkeep
removes those. Two records may name one file; whether there is another is nothing that a caller can see.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UNNAMED_SECONDS: Final = 3600.0  # files younger than this may belong to a request under way
_PRIVATE: Final = 0o600


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A temporary file that is complete.

    Attributes:
        path: where it is.
        size: octets.
        sha256: of its octets, lower-case hexadecimal.
    """

    path: Path
    size: int
    sha256: str


class NewFile:
    """A temporary file that is being written; its octets are hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._hash = hashlib.sha256()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            OSError: it cannot be written.
        """
        view = memoryview(piece)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._hash.update(piece)
        self.size += len(piece)

    def complete(self) -> WrittenFile:
        """Have it on disk.

        Raises:
            OSError: it is not.
        """
        try:
            os.fsync(self._descriptor)
        finally:
            self.close()
        return WrittenFile(self._path, self.size, self._hash.hexdigest())

    def close(self) -> None:
        """Give the descriptor back; more than once does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Scratch:
    """The temporary files of one request; they are gone when it ends, but for those that were kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[NewFile] = []
        self._paths: list[Path] = []

    def new(self) -> NewFile:
        """An empty file.

        Raises:
            OSError: it cannot be made.
        """
        path = self._directory / secrets.token_hex(16)
        self._paths.append(path)
        file = NewFile(path)
        self._files.append(file)
        return file

    def write(self, pieces: Iterable[bytes]) -> WrittenFile:
        """A file of these pieces, on disk; to be called beside the event loop.

        Raises:
            OSError: it cannot be written.
        """
        file = self.new()
        for piece in pieces:
            file.write(piece)
        return file.complete()

    def remove(self) -> None:
        """Remove what is still there."""
        for file in self._files:
            file.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


class Objects:
    """Both directories.

    Args:
        directory: of the service's state.

    Raises:
        OSError: they cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._uploads = directory / "uploads"
        self._objects = directory / "objects" / "sha256"
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._objects.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Scratch]:
        """Temporary files for one request; without any, this costs nothing."""
        scratch = Scratch(self._uploads)
        try:
            yield scratch
        finally:
            scratch.remove()

    @asynccontextmanager
    async def kept(self, files: Iterable[WrittenFile]) -> AsyncIterator[None]:
        """Put files in their places, and hold them there until the commit that names them is through.

        Raises:
            OSError: they are not there; the commit must not happen.
        """
        held = [file.sha256 for file in files]
        self._held.update(held)
        try:
            if held:
                await asyncio.to_thread(self._put, list(files))
            yield
        finally:
            self._held.subtract(held)
            self._held += Counter()  # those that nobody holds are forgotten

    def _put(self, files: Iterable[WrittenFile]) -> None:
        for file in files:
            place = self.path(file.sha256)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            file.path.rename(place)  # over one with the same octets, if it is there: so it is young again
            sync_directory(place.parent)
        sync_directory(self._objects)

    def path(self, sha256: str) -> Path:
        """Where the file with these octets is."""
        return self._objects / sha256[:2] / sha256[2:]

    async def sweep(self, is_used: Callable[[str], Awaitable[bool]], now: float | None = None) -> int:
        """Remove what a crash left behind: old temporary files, and old files that nothing names; answers how many.

        Args:
            is_used: whether any record names the file with this SHA-256.
            now: by the clock of the file system, as `time.time`; the present if not given.
        """
        before = (time.time() if now is None else now) - _UNNAMED_SECONDS
        count = await asyncio.to_thread(_remove_old, self._uploads, before)
        for sha256 in await asyncio.to_thread(lambda: list(self._old_objects(before))):
            if self._held[sha256] or await is_used(sha256):
                continue
            path = self.path(sha256)
            if not self._held[sha256] and _is_old(path, before):  # nobody has put it there again meanwhile
                path.unlink(missing_ok=True)
                count += 1
        return count

    def _old_objects(self, before: float) -> Iterator[str]:
        for path in self._objects.glob("??/*"):
            if _is_old(path, before):
                yield path.parent.name + path.name


def _remove_old(directory: Path, before: float) -> int:
    old = [path for path in directory.iterdir() if _is_old(path, before)]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _is_old(path: Path, before: float) -> bool:
    try:
        return path.stat().st_ctime < before
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Have a directory's names on disk: a file that was synced is lost all the same where its name is not.

    Raises:
        OSError: they are not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
