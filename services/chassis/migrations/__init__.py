"""Schema migrations, the environment shared by every service.

A service keeps only `migrations/versions/NUMBER_WHAT.py`, each with its number as revision: the highest is the newest.
"""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, column, select, table

from pkicore.clock import SystemClock
from services.chassis.database import Database
from services.chassis.errors import UnavailableError

_REVISION: Final[Select[Any]] = select(column("version_num")).select_from(table("alembic_version"))


async def migrate(url: str, script_location: Path) -> None:
    """Brings a database to the newest schema; does nothing where it is there already.

    Args:
        url: As for `Database.open`.
        script_location: The service's migrations folder, which holds `versions/`.

    Raises:
        SettingsError: the URL is of another form.
        UnavailableError: the database cannot be reached or changed.
    """
    versions = script_location / "versions"
    if await _revision(url) == newest_revision(versions):
        return
    # Alembic and SQLAlchemy's ORM take as long to load as the rest of a service's start, and here is work for them.
    from services.chassis.migrations.upgrade import upgrade_schema

    await upgrade_schema(url, versions)


def newest_revision(versions: Path) -> str:
    """The number that the last of the versions' file names begins with."""
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*.py"))


async def _revision(url: str) -> str | None:
    """What the database says of its schema; None where it says nothing, and the upgrade finds out why."""
    try:
        database = await Database.open(url, clock=SystemClock())
        try:
            row = await database.fetch_one(database.prepare(_REVISION))
        finally:
            await database.close()
    except UnavailableError:
        return None
    return None if row is None else str(row["version_num"])
