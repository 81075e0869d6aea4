"""The world of the `pkcs11` back end: a SoftHSM2 token below tmp_path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pkicore.clock import Clock
from services.signer_hsm.backends.pkcs11 import open_backend
from tests.support.backend_world import BackendWorld
from tests.support.softhsm import new_softhsm

ALGORITHMS = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "rsa-2048")


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]:
    """SoftHSM2, the real module."""
    settings = new_softhsm(tmp_path).settings()
    made = BackendWorld(
        backend=await open_backend(settings, clock=clock),
        algorithms=ALGORITHMS,
        open_again=lambda: open_backend(settings, clock=clock),
        evidence={
            "extractable": False,
            "sensitive": True,
            "never_extractable": True,
            "always_sensitive": True,
            "local": True,
            "value_refused": True,
        },
        disables=False,
    )
    try:
        yield made
    finally:
        await made.backend.aclose()
