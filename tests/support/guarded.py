"""A scripted back end behind a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.settings import FileSettings
from services.signer_hsm.errors import BackendError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES
from tests.support.payloads import payload_of
from tests.support.scripted_backend import ScriptedBackend

ES256 = SCHEMES["ES256"]


class Guarded:
    """A scripted back end behind a guard, with its own metrics and a clock that the test moves."""

    def __init__(self, backend: ScriptedBackend | None = None, **changes: Any) -> None:  # noqa: ANN401 - settings
        self.backend = backend or ScriptedBackend()
        self.now = 0.0
        fields = {
            "name": self.backend.name,
            "type": "file",
            "directory": "/nowhere",
            "passphrase_file": "/nowhere/passphrase",
            "deadline_seconds": 60,
            "breaker_failures": 3,
            "breaker_seconds": 5,
        }
        self.registry = CollectorRegistry()
        settings = FileSettings.model_validate(fields | changes)
        self.guard = GuardedBackend(self.backend, settings, SignerMetrics(self.registry), monotonic=lambda: self.now)

    async def sign(
        self, tenant: str = "bank", messages: Sequence[bytes] = (b"first",), *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Signatures over the messages."""
        payloads = [payload_of(self.backend.key.public_key, ES256, "digest", message) for message in messages]
        return await self.guard.sign("handle", ES256, "digest", payloads, tenant=tenant, once=once)

    def sample(self, name: str, **labels: str) -> float | None:
        """The value of a metric of this back end."""
        return self.registry.get_sample_value(name, {"backend": self.backend.name, **labels})


async def for_ever() -> None:
    """An answer that does not come."""
    await asyncio.Event().wait()
