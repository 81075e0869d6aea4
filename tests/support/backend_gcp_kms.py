"""The world of the Cloud KMS back end: the simulator, or the real service when the environment names a project.

PQCPKI_TEST_GCP_PROJECT and PQCPKI_TEST_GCP_LOCATION choose the real one, with application default credentials. Each run
there uses a key ring prefix of its own, since neither rings nor used up version numbers can be taken back.
PQCPKI_TEST_GCP_PROTECTION_LEVEL is SOFTWARE if not given, for HSM keys cost more.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkicore.clock import Clock
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.settings import GcpKmsSettings
from tests.support.backend_world import BackendWorld
from tests.support.gcp_kms_resources import Resources
from tests.support.gcp_kms_simulator import GcpKmsSimulator, simulator

PROJECT = os.environ.get("PQCPKI_TEST_GCP_PROJECT", "")
LOCATION = os.environ.get("PQCPKI_TEST_GCP_LOCATION", "")
LEVEL = os.environ.get("PQCPKI_TEST_GCP_PROTECTION_LEVEL", "SOFTWARE")
ALGORITHMS = ("ecdsa-p256", "ed25519", "ml-dsa-65", "ml-dsa-44", "ml-dsa-87", "ecdsa-p384", "rsa-2048", "rsa-3072")
ML_DSA = ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87")


@dataclass(kw_only=True)
class GcpKmsWorld(BackendWorld):
    """A back end on Cloud KMS.

    Attributes:
        settings: what the back end was opened with.
        server: the simulator; None when the service is real.
    """

    settings: GcpKmsSettings
    server: GcpKmsSimulator | None


def is_real() -> bool:
    """Whether the environment names a project of the real service."""
    return bool(PROJECT and LOCATION)


def settings_for(server: GcpKmsSimulator, **changes: Any) -> GcpKmsSettings:  # noqa: ANN401 - settings of any type
    """Settings that reach the simulator, HSM keys where it has them."""
    given: dict[str, Any] = {
        "name": "gcp",
        "type": "gcp_kms",
        "project": "test",
        "location": "europe-west3",
        "endpoint": server.address,
        "insecure_channel": True,
        "software_algorithms": ML_DSA,
        "workers": 16,
    }
    return GcpKmsSettings.model_validate(given | changes)


def resources_of(clock: Clock) -> Resources:
    """An empty project of the simulator."""
    return Resources(clock, "projects/test/locations/europe-west3")


def _real_settings() -> GcpKmsSettings:
    return GcpKmsSettings.model_validate(
        {
            "name": "gcp",
            "type": "gcp_kms",
            "project": PROJECT,
            "location": LOCATION,
            "key_ring_prefix": f"pqcpki-test-{secrets.token_hex(6)}",
            "protection_level": LEVEL,
            "software_algorithms": ML_DSA,
            "deadline_seconds": 60,
            "timeout_seconds": 10,
            "workers": 16,
        }
    )


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GcpKmsWorld]:
    """A back end over an empty place."""
    del tmp_path
    if is_real():
        yield await _open(_real_settings(), clock, None)
        return
    async with simulator(resources_of(clock)) as server:
        yield await _open(settings_for(server), clock, server)


async def _open(settings: GcpKmsSettings, clock: Clock, server: GcpKmsSimulator | None) -> GcpKmsWorld:
    return GcpKmsWorld(
        backend=await open_backend(settings, clock=clock),
        algorithms=ALGORITHMS,
        open_again=lambda: open_backend(settings, clock=clock),
        evidence={"imported": False},
        destroys_at_once=False,
        rsa_schemes=("RS256",),
        settings=settings,
        server=server,
    )
