from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from tests.support.aws_kms_faults import opened
from tests.support.aws_kms_simulator import AwsKmsSimulator


@pytest.fixture
def simulator() -> Iterator[AwsKmsSimulator]:
    """AWS KMS, simulated."""
    with AwsKmsSimulator() as made:
        yield made
        assert made.broken_replies == []


@pytest.fixture
async def kms(simulator: AwsKmsSimulator) -> AsyncIterator[AwsKmsBackend]:
    """A back end with short time-outs that repeats nothing by itself."""
    async with opened(simulator, attempts=1) as backend:
        yield backend
