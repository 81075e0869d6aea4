"""What stands for a back end that could not be opened: it answers each call with the reason, and keeps nobody waiting.

`opened_later` tries again in the background; `GuardedBackend.adopt` puts the real one in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NoReturn

import structlog

from pkicore.algorithms import Algorithm, Payload, PrivateKey
from services.signer_hsm.backends import (
    Attestation,
    Backend,
    BackendHealth,
    BackendKey,
    Destruction,
    Fact,
    KeyLabel,
)
from services.signer_hsm.backends.settings import BackendSettings
from services.signer_hsm.errors import BackendError, MisconfiguredError, UnavailableError
from services.signer_hsm.schemes import Scheme

__all__ = ["StandIn", "opened_later"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0

_log = structlog.get_logger("backends")


class StandIn:
    """A `Backend` that is not open, and why."""

    offers: Final[Mapping[str, frozenset[Payload]]] = MappingProxyType({})
    imports: Final[frozenset[str]] = frozenset()

    def __init__(self, settings: BackendSettings, kind: str, reason: BackendError) -> None:
        self.name = settings.name
        self.type = kind
        self.reason = reason
        self._retry_after = settings.deadline_seconds  # no repetition fits into the guard's deadline

    def _refuse(self) -> NoReturn:
        if isinstance(self.reason, MisconfiguredError):
            raise MisconfiguredError(str(self.reason)) from self.reason
        sentence = f"the back end {self.name} is not open yet ({self.reason.cause})"
        raise UnavailableError(sentence, retry_after=self._retry_after) from self.reason

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Refused."""
        del label, algorithm
        self._refuse()

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Refused."""
        del label, private_key
        self._refuse()

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """Refused."""
        del label
        self._refuse()

    async def load(self, handle: str) -> BackendKey:
        """Refused."""
        del handle
        self._refuse()

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Refused."""
        del handle, scheme, kind, payloads, once
        self._refuse()

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Refused."""
        del handle, enabled
        self._refuse()

    async def destroy(self, handle: str) -> Destruction:
        """Refused."""
        del handle
        self._refuse()

    async def attest(self, handle: str) -> Attestation:
        """Refused."""
        del handle
        self._refuse()

    async def health(self) -> BackendHealth:
        """Not ready, and why."""
        why: dict[str, Fact] = {"problem": self.reason.cause, "reason": str(self.reason)}
        return BackendHealth(ready=False, detail={"state": "not open", **why})

    async def aclose(self) -> None:
        """Nothing is open."""


async def opened_later(stand_in: StandIn, open_it: Callable[[], Awaitable[Backend]]) -> Backend | None:
    """The back end, once it opens; None where only other settings help.

    Args:
        stand_in: knows the present reason meanwhile.
        open_it: tries once.
    """
    pause = FIRST_PAUSE
    while not isinstance(stand_in.reason, MisconfiguredError):
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        try:
            return await open_it()
        except BackendError as error:
            stand_in.reason = error
            _log.warning("back end not open yet", backend=stand_in.name, cause=error.cause, reason=str(error))
    return None
