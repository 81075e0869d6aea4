"""A tar file with the same octets for the same content (POSIX ustar with pax headers), written piece by piece."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.signing.errors import SigningError
from services.signing.objects import NewFile, WrittenFile, sync_directory

_CHUNK: Final = 256 * 1024
_MODE: Final = 0o644


class EvidenceError(SigningError):
    """What was to go into an archive is not what its record says."""


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of an archive.

    Attributes:
        path: within it, with slashes.
        size: octets.
        sha256: lower-case hexadecimal.
        content: the octets, or where they are.
    """

    path: str
    size: int
    sha256: str
    content: bytes | Path = field(repr=False)

    @classmethod
    def of(cls, path: str, content: bytes) -> ArchiveFile:
        """One that is at hand."""
        return cls(path, len(content), hashlib.sha256(content).hexdigest(), content)


def write_archive(path: Path, root: str, files: Iterable[ArchiveFile], at: int) -> WrittenFile:
    """Write an archive and have it on disk; to be called beside the event loop.

    Args:
        path: of a file that is not there yet.
        root: the directory that everything is in.
        files: in any order, each path once.
        at: time of every member, Unix seconds.

    Raises:
        EvidenceError: a file has other octets than it was said to have; nothing is left behind.
        OSError: it cannot be written.
    """
    file = NewFile(path)
    try:
        for member in sorted(files, key=lambda member: member.path):
            for piece in _member(root, member, at):
                file.write(piece)
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        written = file.complete()
        sync_directory(path.parent)
    except BaseException:
        file.close()
        path.unlink(missing_ok=True)
        raise
    return written


def _member(root: str, file: ArchiveFile, at: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(f"{root}/{file.path}")
    info.size, info.mtime, info.mode = file.size, at, _MODE
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8")
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(file.content):
        digest.update(piece)
        size += len(piece)
        yield piece
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise EvidenceError(f"{file.path} is not what its record says: {size} octets, {digest.hexdigest()[:16]}…")
    yield bytes(-size % tarfile.BLOCKSIZE)


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    try:
        with content.open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece
    except FileNotFoundError as error:
        raise EvidenceError("a file that a record names is not there") from error
