from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.acme_server import AcmeServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A fresh service."""
    running = await AcmeServer.start(tmp_path)
    yield running
    await running.stop()


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A server that makes accounts only for clients with an external account."""
    running = await AcmeServer.start(tmp_path, external_account_required=True)
    yield running
    await running.stop()


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A fresh service that answers `processing` at once where the outside world is slow."""
    running = await AcmeServer.start(tmp_path, hold_seconds=0.05)
    yield running
    await running.stop()
