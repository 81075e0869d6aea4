from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.signer_hsm.backends import Backend
from tests.support.backend_gcp_kms import is_real, resources_of
from tests.support.clock import ManualClock
from tests.support.gcp_kms_faults import opened
from tests.support.gcp_kms_simulator import GcpKmsSimulator, simulator


@pytest.fixture
async def server() -> AsyncIterator[GcpKmsSimulator]:
    """An empty Cloud KMS, simulated; the real one could not be made to misbehave."""
    if is_real():
        pytest.skip("faults can be made in a simulator only")
    async with simulator(resources_of(ManualClock())) as running:
        yield running


@pytest.fixture
async def backend(server: GcpKmsSimulator) -> AsyncIterator[Backend]:
    """A back end of the fixture's simulator."""
    async with opened(server) as running:
        yield running
