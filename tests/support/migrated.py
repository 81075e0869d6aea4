"""Databases at the newest schema: the first of a kind in a process is migrated, later SQLite ones are copies of it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from services.chassis.migrations import migrate

_SQLITE: Final = "sqlite:///"
_templates: dict[Path, Path] = {}


async def migrated(url: str, migrations: Path) -> None:
    """As `services.chassis.migrations.migrate`, in a hundredth of its time where the SQLite file is not there yet."""
    if not _is_new_file(url):
        await migrate(url, migrations)
        return
    if migrations not in _templates:
        template = _temporary_directory() / "template.sqlite3"
        await migrate(f"{_SQLITE}{template}", migrations)
        _templates[migrations] = template
    shutil.copyfile(_templates[migrations], url.removeprefix(_SQLITE))


def _is_new_file(url: str) -> bool:
    return url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists()


def _temporary_directory() -> Path:
    """Removed with the process that made it, and not by one that was forked from it."""
    directory, maker = tempfile.mkdtemp(prefix="pqcpki-migrated-"), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return Path(directory)
