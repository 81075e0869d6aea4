"""A signer far away that has only so long for each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from pkicore.algorithms import Payload
from pkicore.errors import KeyUnavailableError
from pkicore.keys.remote import RemotePublicKey, RemoteSigner

__all__ = ["TimedSigner"]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class TimedSigner:
    """A signer whose every answer comes within so many seconds, or not at all: whoever asks has a deadline, too."""

    signer: RemoteSigner = field(repr=False)
    seconds: float

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """As the signer.

        Raises:
            KeyUnavailableError: no answer in time.
            KeyAccessError: as the signer.
        """
        return await self._in_time(self.signer.public_key(key_id, version))

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """As the signer.

        Raises:
            KeyUnavailableError: no answer in time.
            KeyAccessError: as the signer.
        """
        return await self._in_time(self.signer.sign(key_id, version, kind, payload, scheme))

    async def _in_time(self, answer: Awaitable[_Answer]) -> _Answer:
        try:
            async with asyncio.timeout(self.seconds):
                return await answer
        except TimeoutError as error:
            raise KeyUnavailableError(f"signer-hsm gave no answer within {self.seconds:g} s") from error
