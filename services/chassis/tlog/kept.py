"""The last signed checkpoint outside the database, so that one restored from an older backup is noticed.

A log that goes on from an older tree signs what contradicts what it has signed: auditors would call it a fork. So each
checkpoint is in a file, durably, before the database has it and anybody sees it. The stored tree must contain the one
in the file: it has grown since, if anything. Where several processes share a database, each has a file of its own,
which may lag behind the database and is never ahead of its tree.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from pkicore.encoding import write_atomically
from services.chassis.errors import UnavailableError
from services.chassis.tlog.checkpoints import CheckpointKey, SignedCheckpoint
from services.chassis.tlog.errors import ForkedLogError

_MAX: Final = 64 * 1024  # octets; a checkpoint has a few hundred
_MODE: Final = 0o600


class KeptCheckpoint:
    """The file of one log in one process's directory.

    Args:
        path: of the file; its directory is there.
        key: whose checkpoints they are.
    """

    def __init__(self, path: Path, key: CheckpointKey) -> None:
        self.path = path
        self._key = key

    async def read(self) -> SignedCheckpoint | None:
        """What the file has; None where there is no file.

        Raises:
            ForkedLogError: it is no checkpoint of this log.
            UnavailableError: it cannot be read.
        """
        try:
            note = await asyncio.to_thread(self._octets)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            return self._key.read(note)
        except ForkedLogError as error:
            raise ForkedLogError(f"{self.path}: {error}; it is moved away only where that log is given up") from error

    async def write(self, checkpoint: SignedCheckpoint) -> None:
        """Put a checkpoint in its place; durable when this returns.

        Raises:
            UnavailableError: it cannot be written, and so must not be published.
        """
        try:
            await asyncio.to_thread(write_atomically, self.path, checkpoint.note, _MODE)
        except OSError as error:
            raise UnavailableError(
                f"{self.path} cannot be written: {error.strerror}; no checkpoint is published that it does not have"
            ) from error

    def _octets(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(_MAX)
