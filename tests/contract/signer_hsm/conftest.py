from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.signer_world import SignerWorld

PATIENT = 30.0
"""Seconds that operations have where no back end is to miss them: more than a busy machine takes."""


@pytest.fixture
async def world(empty_url: str) -> AsyncIterator[SignerWorld]:
    """The service with one key of each of two tenants."""
    opened = await _opened(empty_url, PATIENT)
    yield opened
    await opened.close()


@pytest.fixture
async def hasty(empty_url: str) -> AsyncIterator[SignerWorld]:
    """The same, and operations have one second: a back end that asks for more patience is not asked again."""
    opened = await _opened(empty_url, 1.0)
    yield opened
    await opened.close()


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The same, on SQLite only: where the database makes no difference."""
    opened = await _opened(f"sqlite:///{tmp_path}/signer.sqlite3", PATIENT)
    yield opened
    await opened.close()


async def _opened(url: str, deadline: float) -> SignerWorld:
    opened = await SignerWorld.open(url, deadline=deadline)
    await opened.make("ca.issuing")
    await opened.make("shop.orders")
    return opened
