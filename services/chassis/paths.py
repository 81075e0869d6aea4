"""Paths as people wrote them, made such that logs, errors and settings files can name them."""

from pathlib import Path


def plain_path(path: Path) -> Path:
    """The absolute path without `.` and `..`, naming the same file; other symbolic links stay as they are written.

    Behind a link `..` means the parent of what the link leads to, so that link alone is followed.
    """
    plain = Path("/")
    for part in path.absolute().parts[1:]:
        plain = plain / part if part != ".." else (plain.resolve() if plain.is_symlink() else plain).parent
    return plain
