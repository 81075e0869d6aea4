"""Databases at the newest schema: the first of a kind in a process is migrated, later ones are copies of it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]  # ships no types

from services.chassis.migrations import migrate

_SQLITE: Final = "sqlite:///"
_templates: dict[tuple[str, Path], str] = {}


async def migrated(url: str, migrations: Path) -> None:
    """As `services.chassis.migrations.migrate`, in a small part of its time where the database is a new one."""
    if _is_new_file(url):
        shutil.copyfile(await _template_file(migrations), url.removeprefix(_SQLITE))
    elif url.startswith(_SQLITE):
        await migrate(url, migrations)
    else:
        await _migrated_database(url, migrations)


def _is_new_file(url: str) -> bool:
    return url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists()


async def _template_file(migrations: Path) -> str:
    if (_SQLITE, migrations) not in _templates:
        template = _temporary_directory() / "template.sqlite3"
        await migrate(f"{_SQLITE}{template}", migrations)
        _templates[_SQLITE, migrations] = str(template)
    return _templates[_SQLITE, migrations]


async def _migrated_database(url: str, migrations: Path) -> None:
    """Of PostgreSQL: one that is there is migrated; one that is not is made, as a copy of the template."""
    parts = urlsplit(url)
    server, name = urlunsplit(parts._replace(path="/postgres")), parts.path.removeprefix("/")
    connection = await asyncpg.connect(server)
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await migrate(url, migrations)
            return
        if (server, migrations) not in _templates:
            template = f"migrated_{len(_templates)}"
            await connection.execute(f"CREATE DATABASE {template}")
            await migrate(urlunsplit(parts._replace(path=f"/{template}")), migrations)
            _templates[server, migrations] = template
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_templates[server, migrations]}")
    finally:
        await connection.close()


def _temporary_directory() -> Path:
    """Removed with the process that made it, and not by one that was forked from it."""
    directory, maker = tempfile.mkdtemp(prefix="pqcpki-migrated-"), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return Path(directory)
