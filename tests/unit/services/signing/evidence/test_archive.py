import hashlib
import tarfile
from pathlib import Path

import pytest

from services.signing.evidence.archive import ArchiveFile, EvidenceError, write_archive


def test_large_file_goes_through_in_pieces(tmp_path: Path) -> None:
    """A file on disk comes out as it went in, whatever its length is modulo the block."""
    for size in (0, 1, 511, 512, 513, 700_001):
        content = bytes(size)
        source = tmp_path / f"source-{size}"
        source.write_bytes(content)
        member = ArchiveFile("a/b", size, hashlib.sha256(content).hexdigest(), source)
        written = write_archive(tmp_path / f"{size}.tar", "root", [member, ArchiveFile.of("z", b"end")], 7)
        with tarfile.open(written.path) as archive:
            names = archive.getnames()
            found = archive.extractfile("root/a/b")
            assert found is not None
            assert found.read() == content
        assert names == ["root/a/b", "root/z"]
        assert written.size == written.path.stat().st_size
        assert written.size % 512 == 0


def test_long_paths_are_kept(tmp_path: Path) -> None:
    """A path beyond the old limits of tar is still whole."""
    path = f"signatures/{'a' * 64}/{'b' * 180}.sigstore.json"
    written = write_archive(tmp_path / "x.tar", "r" * 100, [ArchiveFile.of(path, b"1")], 7)
    with tarfile.open(written.path) as archive:
        assert archive.getnames() == [f"{'r' * 100}/{path}"]


def test_wrong_size_or_digest_leaves_nothing(tmp_path: Path) -> None:
    """A file that is not what it was said to be ends the archive, which is removed."""
    good = ArchiveFile.of("a", b"content")
    for bad in (
        ArchiveFile("a", 8, good.sha256, good.content),
        ArchiveFile("a", 7, "0" * 64, good.content),
        ArchiveFile("a", 7, good.sha256, tmp_path / "nowhere"),
    ):
        with pytest.raises(EvidenceError):
            write_archive(tmp_path / "x.tar", "root", [bad], 7)
        assert not (tmp_path / "x.tar").exists()


def test_archive_does_not_overwrite(tmp_path: Path) -> None:
    """An archive that is there stays as it is."""
    (tmp_path / "x.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_archive(tmp_path / "x.tar", "root", [], 7)
    assert (tmp_path / "x.tar").read_bytes() == b"mine"
