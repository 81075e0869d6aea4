"""One service for all tests of commands; each has a user and an artefact of its own, and puts back what it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.pqcsign_world import Cli, PqcsignWorld, user


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PqcsignWorld]:
    """The whole service in memory; tests that use it share its event loop: `asyncio(loop_scope="session")`."""
    async with PqcsignWorld.opened(tmp_path_factory.mktemp("signing")) as opened:
        yield opened


@pytest.fixture
def cli(service: PqcsignWorld, tmp_path: Path) -> Cli:
    """A user and an artefact."""
    return user(service, tmp_path)
