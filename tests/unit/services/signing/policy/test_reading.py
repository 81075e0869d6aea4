"""A directory of policies: bounded, no links, nothing that anybody may write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.signing.policy import PolicySetError
from services.signing.policy.reading import MAX_FILES, MAX_OCTETS, read_files, stamp_of


def refusal(directory: Path) -> str:
    """Why a directory is not read."""
    with pytest.raises(PolicySetError) as refused:
        read_files(directory, ".cedar")
    return str(refused.value)


def test_files_of_a_suffix_by_name(tmp_path: Path) -> None:
    """Others are left alone, whatever they are."""
    for name in ("b.cedar", "a.cedar", "Z.cedar", "README.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "more").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert list(read_files(tmp_path, ".cedar").items()) == [(name, name) for name in ("Z.cedar", "a.cedar", "b.cedar")]


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    """To files, to nothing, and for the directory itself: what is read is what lies there."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "real.txt").write_text("")
    (target / "a.cedar").symlink_to(target / "real.txt")
    assert "symbolic link" in refusal(target)
    (target / "a.cedar").unlink()
    (target / "a.cedar").symlink_to("nowhere")
    assert "symbolic link" in refusal(target)
    (target / "a.cedar").unlink()
    (tmp_path / "link").symlink_to(target)
    assert "directory" in refusal(tmp_path / "link")
    assert read_files(target, ".cedar") == {}


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe is not waited for."""
    os.mkfifo(tmp_path / "a.cedar")
    assert "is no file" in refusal(tmp_path)
    (tmp_path / "a.cedar").unlink()
    (tmp_path / "a.cedar").mkdir()
    assert "is no file" in refusal(tmp_path)


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, or a file."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        assert "cannot be read as a directory" in refusal(path)


def test_a_file_that_anybody_may_write(tmp_path: Path) -> None:
    """It is nobody's word."""
    (tmp_path / "a.cedar").write_text("")
    (tmp_path / "a.cedar").chmod(0o646)
    assert "chmod o-w" in refusal(tmp_path)
    (tmp_path / "a.cedar").chmod(0o664)
    assert read_files(tmp_path, ".cedar") == {"a.cedar": ""}


@pytest.mark.parametrize(
    "name", ["a b.cedar", ".cedar", ".a.cedar", "ä.cedar", "a\nb.cedar", "-a.cedar", "x" * 130 + ".cedar"]
)
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    """sha256sum and a shell's `*.cedar` see the same names, and no log line is broken by one."""
    (tmp_path / name).write_text("")
    found = refusal(tmp_path)
    assert "name must be" in found
    assert found.isprintable()
    assert found.isascii()


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    """Octets of all files together, and their number."""
    (tmp_path / "a.cedar").write_text("x" * (MAX_OCTETS - 1))
    (tmp_path / "b.cedar").write_text("y")
    assert len(read_files(tmp_path, ".cedar")) == 2
    (tmp_path / "b.cedar").write_text("yy")
    assert "octets together" in refusal(tmp_path)
    (tmp_path / "a.cedar").unlink()
    for number in range(MAX_FILES):
        (tmp_path / f"n{number}.cedar").write_text("")
    assert "more than" in refusal(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """UTF-8 or nothing."""
    (tmp_path / "a.cedar").write_bytes(b"\xff\xfe")
    assert "UTF-8" in refusal(tmp_path)


def test_the_stamp_changes_with_the_files(tmp_path: Path) -> None:
    """Written, added, replaced, removed, gone; other files do not count."""
    stamps = [stamp_of(tmp_path, ".cedar")]
    (tmp_path / "README.md").write_text("x")
    assert stamp_of(tmp_path, ".cedar") == stamps[0]
    (tmp_path / "a.cedar").write_text("1")
    stamps.append(stamp_of(tmp_path, ".cedar"))
    (tmp_path / "a.cedar").write_text("22")
    stamps.append(stamp_of(tmp_path, ".cedar"))
    (tmp_path / "new").write_text("22")
    (tmp_path / "new").replace(tmp_path / "a.cedar")
    stamps.append(stamp_of(tmp_path, ".cedar"))
    stamps.append(stamp_of(tmp_path / "missing", ".cedar"))
    assert all(one != other for number, one in enumerate(stamps) for other in stamps[:number])
    (tmp_path / "a.cedar").unlink()
    assert stamp_of(tmp_path, ".cedar") == stamps[0]
