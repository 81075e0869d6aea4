"""Many threads in one module: SoftHSM2, which crashes when it is not told to lock, and NSS softokn if it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.errors import UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_world import WorldMissingError
from tests.support.nss_softokn import NssSoftokn, new_nss_softokn
from tests.support.payloads import check_signature, payload_of
from tests.support.softhsm import SoftHsm, new_softhsm

THREADS = 8
SECONDS = 1.5
NEW: dict[str, Callable[[Path], SoftHsm | NssSoftokn]] = {"softhsm": new_softhsm, "nss": new_nss_softokn}


@pytest.fixture(params=NEW)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """A back end with eight threads."""
    try:
        settings = NEW[request.param](tmp_path).settings(workers=THREADS)
    except WorldMissingError as error:
        pytest.skip(f"not run: {error}")
    opened = await open_backend(settings, clock=SystemClock())
    yield opened
    await opened.aclose()


async def hammer(backend: Backend, key: BackendKey, end: float) -> int:
    """Verified signatures until the end."""
    scheme, done = SCHEMES[key.algorithm.jws], 0
    while time.monotonic() < end:
        message = f"{key.handle} {done}".encode()
        (kind,) = key.kinds
        (signature,) = await backend.sign(key.handle, scheme, kind, [payload_of(key.public_key, scheme, kind, message)])
        check_signature(key.public_key, scheme, signature, message)
        done += 1
    return done


async def come_and_go(backend: Backend, number: int, end: float) -> int:
    """Keys made, used and destroyed until the end; a creation that fails has left nothing, and the next one works."""
    done = 0
    while time.monotonic() < end:
        label = KeyLabel("bank", f"short-lived-{number}", done + 1)
        try:
            key = await backend.create(label, ALGORITHMS["ecdsa-p256"])
        except UnavailableError:  # on a slow machine SoftHSM2 may lose a race for its own object files
            assert await backend.find(label) is None
            key = await backend.create(label, ALGORITHMS["ecdsa-p256"])
        assert await hammer(backend, key, 0) == 0
        assert await backend.load(key.handle) == key
        assert (await backend.destroy(key.handle)).proof["objects_left"] == 0
        done += 1
    return done


async def test_eight_threads(backend: Backend) -> None:
    """Every signature of every thread verifies, each under its own key, while other keys come and go."""
    names = [name for name in ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "ml-dsa-65") if name in backend.offers]
    keys = [
        await backend.create(KeyLabel("bank", name, version), ALGORITHMS[name]) for name in names for version in (1, 2)
    ]
    end = time.monotonic() + SECONDS
    signed = await asyncio.gather(*(hammer(backend, key, end) for key in keys * 2))
    assert min(signed) > 0
    end = time.monotonic() + SECONDS
    both = await asyncio.gather(
        *(hammer(backend, key, end) for key in keys), *(come_and_go(backend, number, end) for number in range(3))
    )
    assert min(both) > 0
    assert (await backend.health()).ready
