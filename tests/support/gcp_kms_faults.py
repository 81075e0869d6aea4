"""What the tests of a Cloud KMS that misbehaves share: back ends, and what they sign."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import DeadlineError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_gcp_kms import settings_for
from tests.support.clock import ManualClock
from tests.support.gcp_kms_simulator import GcpKmsSimulator, Relay

P256 = ALGORITHMS["ecdsa-p256"]
ES256 = SCHEMES["ES256"]
DIGEST = hashlib.sha256(b"to be signed").digest()
LABEL = KeyLabel("ca", "issuing", 1)


@asynccontextmanager
async def opened(server: GcpKmsSimulator, **changes: Any) -> AsyncIterator[Backend]:  # noqa: ANN401 - settings of any type
    """A back end that reaches the simulator; it waits longer than a busy machine stalls, unless told otherwise."""
    settings = settings_for(server, **({"deadline_seconds": 30.0, "timeout_seconds": 15.0} | changes))
    backend = await open_backend(settings, clock=ManualClock())
    try:
        yield backend
    finally:
        await backend.aclose()


async def created(server: GcpKmsSimulator) -> BackendKey:
    """A key made with patience, for a back end that has none."""
    async with opened(server) as backend:
        return await backend.create(LABEL, P256)


@asynccontextmanager
async def relayed(server: GcpKmsSimulator, **changes: Any) -> AsyncIterator[tuple[Backend, Relay]]:  # noqa: ANN401 - settings of any type
    """A back end whose way to the simulator can be cut."""
    relay = Relay(server.port)
    await relay.start()
    try:
        async with opened(server, endpoint=f"127.0.0.1:{relay.port}", **changes) as running:
            yield running, relay
    finally:
        await relay.stop()


async def sign(backend: Backend, key: BackendKey) -> bytes:
    """One signature over DIGEST that verifies."""
    (answer,) = await backend.sign(key.handle, ES256, "digest", [DIGEST])
    assert isinstance(answer, bytes)
    verify_payload(key.public_key, ES256, "digest", DIGEST, answer)
    return answer


async def signs_again(backend: Backend, key: BackendKey, within: float) -> None:
    """Wait until the same back end signs again."""
    until = time.monotonic() + within
    while True:
        try:
            await sign(backend, key)
        except (UnavailableError, DeadlineError):
            assert time.monotonic() < until, "no recovery"
            await asyncio.sleep(0.05)
        else:
            return


def altered(**fields: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - fields of any message
    """A corruption: the answer with other fields."""

    def change(answer: Any) -> Any:  # noqa: ANN401 - a message of any method
        changed = type(answer)(answer)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed

    return change
