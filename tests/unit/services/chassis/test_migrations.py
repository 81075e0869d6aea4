import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, MetaData, Table, Text

from services.chassis.errors import SettingsError, UnavailableError
from services.chassis.migrations import migrate, newest_revision
from services.chassis.migrations.upgrade import schema_differences

ROOT = Path(__file__).parents[4]
FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

def upgrade():
    op.create_table("loaves", sa.Column("name", sa.Text, primary_key=True))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

def upgrade():
    op.add_column("loaves", sa.Column("flour", sa.Text))
    {end}
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A service's migrations folder with one version."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "0001_loaves.py").write_text(FIRST)
    return versions.parent


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that does not exist yet."""
    return f"sqlite:///{tmp_path}/loaves.sqlite3"


def schema(*columns: str) -> MetaData:
    """The schema in code."""
    metadata = MetaData()
    Table("loaves", metadata, Column("name", Text, primary_key=True), *(Column(name, Text) for name in columns))
    return metadata


async def test_a_new_database_gets_the_schema_and_is_its_owners_alone(scripts: Path, url: str) -> None:
    """Running it again changes nothing."""
    for _ in range(2):
        await migrate(url, scripts)
        assert await schema_differences(url, schema()) == []
    assert stat.S_IMODE(os.stat(url.removeprefix("sqlite:///")).st_mode) == 0o600  # noqa: PTH116 - a look, no wait


async def test_processes_that_start_together_migrate_once(scripts: Path, url: str) -> None:
    """All but one wait, and find nothing to do."""
    await asyncio.gather(*(migrate(url, scripts) for _ in range(5)))
    assert await schema_differences(url, schema()) == []


async def test_a_later_version_is_added_to_what_is_there(scripts: Path, url: str) -> None:
    """Rows survive."""
    await migrate(url, scripts)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("INSERT INTO loaves VALUES ('rye')")
    connection.close()
    (scripts / "versions" / "0002_flour.py").write_text(SECOND.format(end=""))
    await migrate(url, scripts)
    assert await schema_differences(url, schema("flour")) == []
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("SELECT name, flour FROM loaves").fetchall() == [("rye", None)]
    connection.close()


async def test_a_version_that_fails_leaves_the_database_as_it_was(scripts: Path, url: str) -> None:
    """The upgrade is one transaction, changes of the schema included."""
    await migrate(url, scripts)
    (scripts / "versions" / "0002_flour.py").write_text(SECOND.format(end='op.execute("no sql")'))
    with pytest.raises(UnavailableError, match="cannot bring the database"):
        await migrate(url, scripts)
    assert await schema_differences(url, schema()) == []


async def test_a_database_of_a_later_program_is_refused(scripts: Path, url: str) -> None:
    """Its schema is another than the one in code, so nothing is done in it."""
    later = scripts / "versions" / "0002_flour.py"
    later.write_text(SECOND.format(end=""))
    await migrate(url, scripts)
    later.unlink()
    with pytest.raises(Exception, match="0002"):
        await migrate(url, scripts)


@pytest.mark.parametrize("service", ["acme", "ca", "signer_hsm"])
def test_the_highest_file_name_is_the_newest_version(service: str) -> None:
    """What the quick look at a start compares with is what Alembic would upgrade to."""
    versions = ROOT / "services" / service / "migrations" / "versions"
    config = Config()
    config.set_main_option("script_location", str(ROOT / "services" / "chassis" / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(versions))
    assert ScriptDirectory.from_config(config).get_current_head() == newest_revision(versions)


async def test_differences_name_what_code_and_database_do_not_share(scripts: Path, url: str) -> None:
    """A column that only the code has is reported."""
    await migrate(url, scripts)
    assert "flour" in str(await schema_differences(url, schema("flour")))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite:////no/such/directory/x.sqlite3", UnavailableError),
        ("postgresql://baker:hunter2@127.0.0.1:1/x", UnavailableError),
        ("oracle://x/y", SettingsError),
    ],
)
async def test_a_database_that_cannot_be_had_is_named_without_its_password(
    scripts: Path, url: str, error: type[Exception]
) -> None:
    """The sentence is fit for a log."""
    with pytest.raises(error) as caught:
        await migrate(url, scripts)
    assert "hunter2" not in str(caught.value)
