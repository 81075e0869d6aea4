from __future__ import annotations

from pathlib import Path

from services.ca.app import MIGRATIONS
from services.ca.schema import metadata
from services.chassis.migrations import migrate
from services.chassis.migrations.upgrade import schema_differences


async def test_migrations_make_the_schema(tmp_path: Path) -> None:
    """A database that was migrated has exactly the tables, columns and indexes of the schema in code."""
    url = f"sqlite:///{tmp_path / 'acme.sqlite3'}"
    await migrate(url, MIGRATIONS)
    assert await schema_differences(url, metadata) == []
