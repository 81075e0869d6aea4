"""Whether this process may be sent requests: it can record what it decides, and signer-hsm answers.

Both are tried every three seconds, and every two while they fail, with two for an answer, so that `/readyz` learns
within about five of a full or locked disk, or of a signer-hsm that is away, and of the cure, without requests. What is
on record is served all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pkicore.errors import KeyAccessError, KeyUnavailableError
from pkicore.keys.remote import RemoteSigner
from services.chassis.errors import DatabaseError
from services.chassis.ops import Readiness

DATABASE: Final = "database"
SIGNER: Final = "signer-hsm"
FINE_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 2.0


class ReadinessWatch:
    """Keeps two conditions of the service's readiness.

    Args:
        probe: writes to the database what leaves nothing behind; DatabaseError where it cannot.
        signer: holds the keys.
        key_id: of a key to ask for; None where the service has none, and needs no signer-hsm.
        readiness: is told.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[None]], signer: RemoteSigner, key_id: str | None, readiness: Readiness
    ) -> None:
        self._probe = probe
        self._signer = signer
        self._key_id = key_id
        self._readiness = readiness

    async def run(self) -> None:
        """Look for ever; neither holds up the other."""
        async with asyncio.TaskGroup() as looks:
            looks.create_task(_for_ever(self.look_at_database))
            looks.create_task(_for_ever(self.look_at_signer))

    async def look_at_database(self) -> bool:
        """Whether it can be written."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._probe()
        except (DatabaseError, TimeoutError):
            return self._set(DATABASE, "it cannot be written: see the log")
        return self._set(DATABASE, None)

    async def look_at_signer(self) -> bool:
        """Whether signer-hsm answers; what it says of the one key is no matter, since others may have theirs."""
        try:
            if self._key_id is not None:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._signer.public_key(self._key_id, None)
        except (KeyUnavailableError, TimeoutError):
            return self._set(SIGNER, "it does not answer: nothing can be signed")
        except KeyAccessError:
            return self._set(SIGNER, None)
        return self._set(SIGNER, None)

    def _set(self, condition: str, reason: str | None) -> bool:
        if reason is None:
            self._readiness.met(condition)
        else:
            self._readiness.unmet(condition, reason)
        return reason is None


async def _for_ever(look: Callable[[], Awaitable[bool]]) -> None:
    while True:
        fine = await look()
        await asyncio.sleep(FINE_SECONDS if fine else _AGAIN_SECONDS)
