from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.ca_world import CaWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A started CA without listeners."""
    opened = await (await CaWorld.open(tmp_path)).start()
    yield opened
    await opened.close()
