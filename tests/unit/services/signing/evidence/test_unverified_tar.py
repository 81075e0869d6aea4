"""What an archive's headers may claim, and what they get: a refusal that says where, in little time and memory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from services.signing.evidence.archive import ArchiveFile, EvidenceError, write_archive
from services.signing.evidence.unverified_tar import MAX_NAME, read_members

END = bytes(1024)
LONG = "d" * 150 + "/ü" + "n" * 150


def header(name: str = "r/a", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header block with a good checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(*records: bytes, size: int | None = None) -> bytes:
    """An extended header with its records."""
    body = b"".join(records)
    return header("x", len(body) if size is None else size, tarfile.XHDTYPE) + body + bytes(-len(body) % 512)


def record(key: str, value: str) -> bytes:
    """One record, which begins with its own length."""
    rest = f" {key}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return b"%d%s" % (length, rest)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Names of any length and alphabet that fit, empty files, and files of whole blocks."""
    contents = {"a": b"", "b/c": b"x" * 512, LONG: b"y" * 513}
    files = [ArchiveFile.of(name, content) for name, content in contents.items()]
    write_archive(tmp_path / "e.tar", "root", files, at=1_700_000_000)
    data = (tmp_path / "e.tar").read_bytes()
    found = read_members(io.BytesIO(data))
    assert {name: data[one.offset : one.offset + one.size] for name, one in found.items()} == contents
    assert all(hashlib.sha256(contents[name]).hexdigest() == one.sha256 for name, one in found.items())


ATTACKS: dict[str, tuple[bytes, str]] = {
    "sparse": (header(size=0, kind=tarfile.GNUTYPE_SPARSE) + END, "no plain file: its type is b'S'"),
    "sparse by pax": (extended(record("GNU.sparse.size", "9" * 12)) + header() + END, "with GNU.sparse.size"),
    "long name of GNU": (header("l", 1 << 33, tarfile.GNUTYPE_LONGNAME) + END, "no plain file: its type is b'L'"),
    "long link of GNU": (header("l", 9, tarfile.GNUTYPE_LONGLINK) + END, "no plain file: its type is b'K'"),
    "global header": (header("g", 0, tarfile.XGLTYPE) + header() + END, "no plain file: its type is b'g'"),
    "huge pax": (extended(record("path", "r/a"), size=1 << 32) + header() + END, "8192 is the most"),
    "empty pax": (extended() + header() + END, "an extended header of 0 octets"),
    "chain of pax": (extended(record("path", "r/a")) * 5000 + header() + END, "followed by no file"),
    "pax at the end": (extended(record("path", "r/a")) + END, "followed by no file"),
    "pax that is cut off": (extended(record("path", "r/a"))[:600], "ends within|end is missing|no file"),
    "pax with a wrong length": (extended(b"99 path=r/a\n") + header() + END, "does not parse"),
    "pax with no end of line": (extended(b"11 path=r/a") + header() + END, "does not parse"),
    "pax with a length of zero": (extended(b"0 path=r/a\n") + header() + END, "does not parse"),
    "pax with two paths": (extended(record("path", "r/a"), record("path", "r/b")) + header() + END, "each once"),
    "pax with a negative size": (extended(record("size", "-1")) + header() + END, "is no size"),
    "pax with a size that is none": (extended(record("size", "1e9")) + header() + END, "is no size"),
    "pax with a link": (extended(record("linkpath", "/etc/passwd")) + header() + END, "with linkpath"),
    "size behind the end": (header(size=1 << 40) + END, "octets; 1099511626752 are missing"),
    "negative size": (header(size=-1) + END, "is no size"),
    "long name": (extended(record("path", "r/" + "n" * MAX_NAME)) + header() + END, "1026 characters"),
    "parent": (header("r/../a") + END, "no plain path"),
    "absolute": (header("/r/a") + END, "no plain path"),
    "empty part": (header("r//a") + END, "no plain path"),
    "backslash": (header("r/..\\a") + END, "no plain path"),
    "escape": (header("r/\x1b[2J") + END, "no plain path"),
    "no UTF-8": (extended(record("path", "r/a").replace(b"r/a", b"r/\xff")) + header() + END, "no plain path"),
    "twice": (header() * 2 + END, "there twice"),
    "twice, once by pax": (header() + extended(record("path", "r/a")) + header("r/b") + END, "there twice"),
    "two directories": (header() + header("s/a") + END, "no plain file of one directory"),
    "no directory": (header("a") + END, "no plain file of one directory"),
    "a bad checksum": (header().replace(b"r/a", b"r/b") + END, "at 0: bad checksum"),
    "no end": (header(), "end is missing"),
    "more behind the end": (header() + END + header("r/b"), "goes on behind its end"),
    "no files": (END, "has no files"),
    "nothing": (b"", "no tar file"),
    "compressed": (b"\x1f\x8b\x08" + b"\1" * 600, "no tar file"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_archives_that_nobody_wrote(attack: str) -> None:
    """Each is refused for what it is; what a header claims costs nothing."""
    data, expected = ATTACKS[attack]
    with pytest.raises(EvidenceError, match=expected):
        read_members(io.BytesIO(data))


def test_the_number_of_files_is_bounded() -> None:
    """One file more than an archive has ends it."""
    data = header("r/a") + header("r/b")
    assert len(read_members(io.BytesIO(data + END), most=2)) == 2
    with pytest.raises(EvidenceError, match="more than 2 files"):
        read_members(io.BytesIO(data + header("r/c") + END), most=2)
