"""The upgrade of a database's schema, by Alembic: one transaction, and one process at a time.

A second process that starts meanwhile waits for it and finds nothing left to do.
"""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from services.chassis.database import parse_url
from services.chassis.database.sqlite import create_private
from services.chassis.errors import UnavailableError

_ENVIRONMENT = Path(__file__).parent
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_ADVISORY_LOCK = 0x70716370  # "pqcp": one upgrade at a time per PostgreSQL database
_LOCK_SECONDS = 60


async def upgrade_schema(url: str, versions: Path) -> None:
    """Brings a database to the newest schema; does nothing where it is there already.

    Args:
        url: As for `Database.open`.
        versions: The folder of the service's versions.

    Raises:
        SettingsError: the URL is of another form.
        UnavailableError: the database cannot be reached or changed.
    """
    config = Config()
    config.set_main_option("script_location", str(_ENVIRONMENT))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(versions))

    def upgrade(connection: Connection) -> None:
        _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = _engine(url)
    try:
        if engine.dialect.name == "sqlite":
            create_private(Path(str(engine.url.database)))
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    except (SQLAlchemyError, OSError) as error:
        shown = parse_url(url).render_as_string()
        raise UnavailableError(
            f"cannot bring the database {shown} to the newest schema: {getattr(error, 'orig', error)}"
        ) from error
    finally:
        await engine.dispose()


async def schema_differences(url: str, metadata: MetaData) -> list[object]:
    """What a migrated database has that the schema in code has not, and the reverse; empty when they agree."""

    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    engine = _engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


def _engine(url: str) -> AsyncEngine:
    parsed = parse_url(url)
    engine = create_async_engine(
        parsed.set(drivername=_DRIVERS[parsed.drivername]),
        poolclass=NullPool,
        connect_args={"timeout": _LOCK_SECONDS},
    )
    if parsed.drivername == "sqlite":
        event.listen(engine.sync_engine, "connect", _leave_transactions_to_us)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def _leave_transactions_to_us(connection: object, _record: object) -> None:
    """Else Python's sqlite3 would commit before each statement that changes the schema."""
    connection.isolation_level = None  # type: ignore[attr-defined] # a DBAPI connection has no common type


def _begin_immediate(connection: Connection) -> None:
    """Takes the write lock at once: a second process waits here, before it looks at the schema's version."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
