from pathlib import Path

from services.chassis.paths import plain_path


def test_dots_are_taken_out_without_following_links(tmp_path: Path) -> None:
    """A link that merely stands in the path stays, as in /var/lib -> /data: its owner may turn it elsewhere."""
    (tmp_path / "data").mkdir()
    (tmp_path / "lib").symlink_to(tmp_path / "data")
    assert plain_path(tmp_path / "x" / ".." / "lib" / "." / "ca.key") == tmp_path / "lib" / "ca.key"


def test_a_parent_behind_a_link_is_that_of_its_target(tmp_path: Path) -> None:
    """As the kernel has it: `link/../name` is beside what the link leads to, not beside the link."""
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "name").touch()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    written = tmp_path / "link" / ".." / "name"
    assert written.exists()
    assert plain_path(written) == (tmp_path / "far" / "name").resolve()


def test_above_the_root_is_the_root() -> None:
    """As the kernel has it."""
    assert plain_path(Path("/../../etc")) == Path("/etc")
