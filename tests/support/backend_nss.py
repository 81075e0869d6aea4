"""The world of the `pkcs11` back end on NSS softokn: the second real module, and the one with ML-DSA."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pkicore.clock import Clock
from services.signer_hsm.backends.pkcs11 import open_backend
from tests.support.backend_world import BackendWorld
from tests.support.nss_softokn import new_nss_softokn

ALGORITHMS = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "rsa-2048")


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]:
    """NSS softokn, the real module; it does not tell LOCAL and KEY_GEN_MECHANISM as they are."""
    settings = new_nss_softokn(tmp_path).settings()
    made = BackendWorld(
        backend=await open_backend(settings, clock=clock),
        algorithms=ALGORITHMS,
        open_again=lambda: open_backend(settings, clock=clock),
        evidence={"extractable": False, "sensitive": True, "never_extractable": True, "value_refused": True},
        disables=False,
    )
    try:
        yield made
    finally:
        await made.backend.aclose()
