"""Databases of both engines, and a CA, for the contract tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.ca_world import CaWorld
from tests.support.databases import create_schema
from tests.support.postgres import PostgresMissingError, PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer | None]:
    """One private server per worker, or None where PostgreSQL is missing."""
    try:
        server = PostgresServer.start()
    except PostgresMissingError:
        yield None
        return
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database with the schema."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/contract.sqlite3"
    else:
        server: PostgresServer | None = request.getfixturevalue("postgres")
        if server is None:
            pytest.skip("not run: postgresql missing (apt-get install postgresql)")
        url = server.url()
    await create_schema(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either engine that `tests.support.migrated` is to make."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.sqlite3"
    server: PostgresServer | None = request.getfixturevalue("postgres")
    if server is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    return server.unmade_database()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A started CA without listeners."""
    opened = await (await CaWorld.open(tmp_path)).start()
    yield opened
    await opened.close()
