"""AWS KMS for the contract suite: the simulator, or AWS itself when PQCPKI_TEST_AWS_REGION is set.

With AWS itself, credentials come the SDK's usual ways, PQCPKI_TEST_AWS_ENDPOINT may name another endpoint, each key
costs money until its deletion, and its deletion takes 7 days.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import boto3
import botocore.session

from pkicore.clock import Clock
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.backends.aws_kms.client import KmsClient
from services.signer_hsm.backends.settings import AwsKmsSettings
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_world import BackendWorld

CHEAP_FIRST: Final = (
    "ecdsa-p256",
    "ecdsa-p384",
    "ecdsa-p521",
    "ed25519",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
    "rsa-2048",
    "rsa-3072",
)


def simulator_settings(simulator: AwsKmsSimulator, **changes: object) -> AwsKmsSettings:
    """Settings that lead to the simulator."""
    fields: dict[str, object] = {
        "type": "aws_kms",
        "name": "aws",
        "region": simulator.region,
        "endpoint_url": simulator.url,
    }
    return AwsKmsSettings.model_validate(fields | changes)


def simulator_session(simulator: AwsKmsSimulator, secret: str = "", token: str = "") -> boto3.Session:
    """A session of the SDK whose credentials the simulator knows; no file or variable of this machine takes part."""
    credentials = simulator.credentials
    core = botocore.session.Session()
    core.register_component("data_loader", _descriptions())
    return boto3.Session(
        botocore_session=core,
        aws_access_key_id=credentials.key_id,
        aws_secret_access_key=secret or credentials.secret,
        aws_session_token=token or None,
        region_name=simulator.region,
    )


@functools.cache
def _descriptions() -> Any:  # noqa: ANN401 - untyped SDK
    """What the SDK reads of services and regions, which costs more than most tests: once."""
    return botocore.session.Session().get_component("data_loader")


async def open_simulated(simulator: AwsKmsSimulator, clock: Clock, **changes: object) -> AwsKmsBackend:
    """A back end at the simulator."""
    settings = simulator_settings(simulator, **changes)
    client = KmsClient(settings, clock, lambda: simulator_session(simulator))
    return AwsKmsBackend(settings, await client.open(), clock)


def real_settings() -> AwsKmsSettings | None:
    """Settings that lead to AWS itself, None where no region is given."""
    region = os.environ.get("PQCPKI_TEST_AWS_REGION")
    if not region:
        return None
    fields = {
        "type": "aws_kms",
        "name": "aws",
        "region": region,
        "endpoint_url": os.environ.get("PQCPKI_TEST_AWS_ENDPOINT", ""),
        "alias_prefix": f"pqcpki-test-{secrets.token_hex(4)}",
        "deadline_seconds": 20,
        "deletion_window_days": 7,
    }
    return AwsKmsSettings.model_validate(fields)


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]:
    """AWS where a region is given, the simulator otherwise."""
    del tmp_path
    real = real_settings()
    if real is not None:
        async with _world_of(lambda: _open_real(real, clock)) as made:
            yield made
        return
    with AwsKmsSimulator() as simulator:
        async with _world_of(lambda: open_simulated(simulator, clock, deadline_seconds=10)) as made:
            yield made
        assert simulator.broken_replies == []


async def _open_real(settings: AwsKmsSettings, clock: Clock) -> AwsKmsBackend:
    return AwsKmsBackend(settings, await KmsClient(settings, clock).open(), clock)


@asynccontextmanager
async def _world_of(open_again: Callable[[], Awaitable[AwsKmsBackend]]) -> AsyncIterator[BackendWorld]:
    made = BackendWorld(
        backend=await open_again(),
        algorithms=CHEAP_FIRST,
        open_again=open_again,
        evidence={"Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "MultiRegion": False},
        destroys_at_once=False,
        shortest_message=1,
    )
    try:
        yield made
    finally:
        await made.backend.aclose()
