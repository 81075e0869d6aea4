"""One PKI per family for the whole run; making one is quick, but not free."""

from __future__ import annotations

import asyncio

import pytest

from pkicore.clock import SystemClock
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy


@pytest.fixture(scope="session")
def ecdsa() -> Hierarchy:
    """The classical family; its clock stands at the present, since openssl knows no other time."""
    return asyncio.run(make_hierarchy("ecdsa", ManualClock(SystemClock().now())))


@pytest.fixture(scope="session")
def mldsa() -> Hierarchy:
    """The post-quantum family, likewise."""
    return asyncio.run(make_hierarchy("mldsa", ManualClock(SystemClock().now())))


@pytest.fixture(scope="session", params=["ecdsa", "mldsa"])
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    """Each family in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Hierarchy)
    return found
