"""The migrations come to the schema in code."""

from __future__ import annotations

from pathlib import Path

from services.chassis.migrations import migrate
from services.chassis.migrations.upgrade import schema_differences
from services.signing.app import MIGRATIONS
from services.signing.schema import metadata


async def test_a_migrated_database_has_the_tables_of_the_code(tmp_path: Path) -> None:
    """Column for column, index for index."""
    url = f"sqlite:///{tmp_path}/signing.sqlite3"
    await migrate(url, MIGRATIONS)
    assert await schema_differences(url, metadata) == []
