"""Devices for the tests of back ends."""

from pathlib import Path

import pytest

from tests.support.backend_world import WorldMissingError
from tests.support.softhsm import SoftHsm, new_softhsm


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    """A SoftHSM2 token of its own."""
    try:
        return new_softhsm(tmp_path)
    except WorldMissingError as error:
        pytest.skip(f"not run: {error}")
