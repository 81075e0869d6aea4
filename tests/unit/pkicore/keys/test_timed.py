from __future__ import annotations

import asyncio
from typing import TypeVar

import pytest

from pkicore.algorithms import Payload
from pkicore.errors import KeyUnavailableError
from pkicore.keys.remote import RemotePublicKey
from pkicore.keys.timed import TimedSigner

_Answer = TypeVar("_Answer")


async def never(_kind: type[_Answer]) -> _Answer:
    """An answer of that kind, which does not come."""
    answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
    return await answer


class HangingSigner:
    """Never answers."""

    async def public_key(self, _key_id: str, _version: int | None) -> RemotePublicKey:
        """Hang."""
        return await never(RemotePublicKey)

    async def sign(self, _key_id: str, _version: int, _kind: Payload, _payload: bytes, _scheme: str) -> bytes:
        """Hang."""
        return await never(bytes)


async def test_a_hanging_signer_costs_its_time_and_no_more() -> None:
    """The answer is waited for as long as was said; the error says so."""
    timed = TimedSigner(HangingSigner(), 0.05)
    with pytest.raises(KeyUnavailableError, match=r"within 0.05 s"):
        await timed.sign("ca.m", 1, "message", b"", "EdDSA")
    with pytest.raises(KeyUnavailableError, match=r"within 0.05 s"):
        await timed.public_key("ca.m", 1)
