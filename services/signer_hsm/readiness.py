"""Whether this process may be sent requests: it can record what it decides, and has keys to sign with.

The commits of requests tell whether the database can be written. Without any for some seconds a small one is made, and
while they fail one every two seconds, so that `/readyz` learns of a full or locked disk, and of its cure, without
requests. What all processes share (Vault, a cloud's KMS, a token that is away) is no reason to send requests to another
one; a key directory that is not there, or a token that is not the one with the keys, is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from services.chassis.errors import DatabaseError
from services.chassis.ops import Readiness
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.places import misplaced
from services.signer_hsm.store import SignerStore

DATABASE: Final = "database"
BACKENDS: Final = "back ends"
_OWN: Final = ("file", "pkcs11")  # types of back ends that can be this machine's alone
_LOOK_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 5.0  # without a commit, until one is made
_AGAIN_SECONDS: Final = 2.0  # while they fail
_PATIENCE_SECONDS: Final = 2.0  # of a commit that is made to see whether it can be


class ReadinessWatch:
    """Keeps two conditions of the service's readiness.

    Args:
        store: whose commits are watched.
        backends: by name.
        readiness: is told.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        store: SignerStore,
        backends: Mapping[str, GuardedBackend],
        readiness: Readiness,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._backends = backends
        self._readiness = readiness
        self._monotonic = monotonic
        self._seen = 0
        self._fine = False
        self._probe_at = 0.0

    async def run(self) -> None:
        """Look for ever; a back end that does not answer holds up nothing but its own condition."""
        async with asyncio.TaskGroup() as looks:
            looks.create_task(_for_ever(self.look_at_database))
            looks.create_task(_for_ever(self.look_at_backends))

    async def look_at_database(self) -> None:
        """See whether it can be written."""
        self._set(DATABASE, None if await self._can_write() else "it cannot be written: see the log")

    async def look_at_backends(self) -> None:
        """See whether there are keys to sign with."""
        self._set(BACKENDS, await self._no_keys())

    def _set(self, condition: str, reason: str | None) -> None:
        if reason is None:
            self._readiness.met(condition)
        else:
            self._readiness.unmet(condition, reason)

    async def _can_write(self) -> bool:
        writes = self._store.writes
        if writes.fault is None and writes.done > self._seen:
            return self._known(fine=True)
        if self._monotonic() < self._probe_at:
            return self._fine and writes.fault is None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._store.probe()
        except (DatabaseError, TimeoutError):
            return self._known(fine=False)
        return self._known(fine=True)

    def _known(self, *, fine: bool) -> bool:
        self._fine, self._seen = fine, self._store.writes.done
        self._probe_at = self._monotonic() + (_QUIET_SECONDS if fine else _AGAIN_SECONDS)
        return fine

    async def _no_keys(self) -> str | None:
        """Why no back end can sign, if this machine is at fault; the others are asked only where its own cannot."""
        reason = None
        for backend in sorted(self._backends.values(), key=lambda backend: backend.type not in _OWN):
            if reason is None and backend.type not in _OWN:
                return None
            health = await backend.health()
            elsewhere = misplaced(self._store.catalogue, backend.name, health.detail)
            if health.ready and elsewhere is None:
                return None
            if elsewhere is not None or backend.type == "file":
                reason = f"{backend.name}: {elsewhere or 'the key directory cannot be used'}"
        return reason


async def _for_ever(look: Callable[[], Awaitable[None]]) -> None:
    while True:
        await look()
        await asyncio.sleep(_LOOK_SECONDS)
