"""A tar of plain files below one directory, read strictly: what `archive` writes, and nothing beside it.

Header for header, in bounded memory, whatever the headers claim: a general reader of tar believes lengths of extended
headers, takes sparse files for as long as they say, and follows chains of headers to the end of its stack.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from services.signing.evidence.archive import EvidenceError

MAX_FILES: Final = 100_000
MAX_NAME: Final = 1024  # characters
_MAX_EXTENDED: Final = 8192  # octets of an extended header, which has a name and a size
_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 256 * 1024
_EXTENDED: Final = frozenset({"path", "size"})
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ([a-zA-Z0-9.]{1,40})=", re.ASCII)
_SIZE: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file is: octets, and their offset; SHA-256 in lower-case hexadecimal."""

    size: int
    offset: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Header:
    """Of a file: its whole name and size."""

    name: str
    size: int


def read_members(file: BinaryIO, most: int = MAX_FILES) -> Mapping[str, Member]:
    """The files, so many at most, by their path below the one directory; each is read once.

    Raises:
        EvidenceError: it is no such tar; the sentence says where, and what is wrong there.
        OSError: it cannot be read.
    """
    return _Reader(file, most).members()


class _Reader:
    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self._offset = 0

    def members(self) -> dict[str, Member]:
        found: dict[str, Member] = {}
        root: str | None = None
        while (header := self._header()) is not None:
            directory, _, name = header.name.partition("/")
            root = directory if root is None else root
            if directory != root or not name or name in found:
                raise EvidenceError(f"{_shown(header.name)} is no plain file of one directory, or is there twice")
            if len(found) == self._most:
                raise EvidenceError(f"the archive has more than {self._most} files")
            found[name] = self._content(header)
        self._require_end()
        if not found:
            raise EvidenceError("the archive is no tar file, or has no files")
        return found

    def _header(self) -> _Header | None:
        """The next file's; None at the end."""
        info = self._info()
        if info is None:
            return None
        extended: Mapping[str, str] = {}
        if info.type == tarfile.XHDTYPE:
            extended = self._extended(info)
            info = self._info()
            if info is None or info.type == tarfile.XHDTYPE:
                raise EvidenceError(f"at {self._offset}: an extended header is followed by no file")
        if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
            raise EvidenceError(f"{_shown(info.name)} is no plain file: its type is {info.type!a}")
        name = _checked_name(extended.get("path", info.name))
        if info.size < 0 or ("size" in extended and not _SIZE.fullmatch(extended["size"])):
            raise EvidenceError(f"the size of {_shown(name)} is no size")
        return _Header(name, int(extended.get("size", info.size)))

    def _info(self) -> tarfile.TarInfo | None:
        at, block = self._offset, self._read(_BLOCK)
        if not block.strip(b"\0"):
            if len(block) != _BLOCK:
                raise EvidenceError("the archive is no tar file, or its end is missing")
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise EvidenceError(f"the archive is no tar file: at {at}: {error}") from error

    def _extended(self, info: tarfile.TarInfo) -> dict[str, str]:
        """The records of an extended header (POSIX pax)."""
        at = self._offset
        if not 0 < info.size <= _MAX_EXTENDED:
            raise EvidenceError(f"at {at}: an extended header of {info.size} octets; {_MAX_EXTENDED} is the most")
        records, rest = dict[str, str](), self._padded(info.size)
        while rest:
            match = _RECORD.match(rest)
            length = 0 if match is None else int(match[1])
            if match is None or not match.end() < length <= len(rest) or rest[length - 1 : length] != b"\n":
                raise EvidenceError(f"at {at}: an extended header that does not parse")
            key, value = match[2].decode(), rest[match.end() : length - 1].decode("utf-8", "surrogateescape")
            if key not in _EXTENDED or key in records:
                raise EvidenceError(f"at {at}: an extended header with {key}; there are path and size, each once")
            records[key], rest = value, rest[length:]
        return records

    def _content(self, header: _Header) -> Member:
        offset, left, digest = self._offset, header.size, hashlib.sha256()
        while left:
            piece = self._read(min(left, _CHUNK))
            if not piece:
                raise EvidenceError(f"{_shown(header.name)} is said to have {header.size} octets; {left} are missing")
            digest.update(piece)
            left -= len(piece)
        self._read(-header.size % _BLOCK)
        return Member(header.size, offset, digest.hexdigest())

    def _padded(self, size: int) -> bytes:
        content = self._read(size + -size % _BLOCK)
        if len(content) < size:
            raise EvidenceError(f"at {self._offset}: the archive ends within an extended header")
        return content[:size]

    def _require_end(self) -> None:
        while piece := self._read(_CHUNK):
            if piece.strip(b"\0"):
                raise EvidenceError("the archive goes on behind its end")

    def _read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._offset += len(piece)
        return piece


def _checked_name(name: str) -> str:
    if len(name) > MAX_NAME:
        raise EvidenceError(f"a name of {len(name)} characters; {MAX_NAME} is the most")
    if not name.isprintable() or "\\" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise EvidenceError(f"{_shown(name)} is no plain file: its name is no plain path")
    return name


def _shown(name: str) -> str:
    return f"{name[:200]!a}"
