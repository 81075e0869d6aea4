"""What every test needs: a process as fresh as the first test found it."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """A command run in this process sets up its own logging; the next test starts without it."""
    yield
    structlog.reset_defaults()
