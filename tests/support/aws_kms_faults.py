"""What the tests of an AWS KMS that misbehaves share: back ends that give up soon, and what they sign."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import BackendKey, KeyLabel
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.schemes import SCHEMES
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated

LABEL = KeyLabel("ca", "issuing", 1)
P256 = ALGORITHMS["ecdsa-p256"]
DEADLINE = 4.0
QUICK = {"deadline_seconds": DEADLINE, "timeout_seconds": 1.0, "connect_timeout_seconds": 1.0}


@asynccontextmanager
async def opened(simulator: AwsKmsSimulator, **changes: object) -> AsyncIterator[AwsKmsBackend]:
    """A back end with short time-outs."""
    backend = await open_simulated(simulator, SystemClock(), **{**QUICK, **changes})
    try:
        yield backend
    finally:
        await backend.aclose()


async def sign(backend: AwsKmsBackend, key: BackendKey) -> bytes:
    """One signature."""
    (signature,) = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    assert isinstance(signature, bytes)
    return signature
