"""Revocations by operators, followed within a second: alreadyRevoked and renewalInfo are right about them, too.

The CA tells of every revocation in order, and of the end of a hold; where this server stops in between it goes on
where it was.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from services.acme.store.revocation_feed import RevocationFeedStore
from services.ca import client as ca
from services.ca.wire import RevocationFeed
from services.chassis.errors import ConflictError, DatabaseError

_RETRY_SECONDS: Final = 5.0
_PIECE: Final = 200  # revocations in one commit, so that requests are not held up

_log: Final = structlog.get_logger("acme.revocation_feed")


class TellsOfRevocations(Protocol):
    """Who has the feed; `services.ca.client.CaClient` does."""

    async def revocations(self, after: int, *, wait: bool = True) -> RevocationFeed:
        """What came after a sequence, waited for a while, or CaError."""


class FollowedRevocations:
    """Reads the feed and records it."""

    def __init__(self, authority: TellsOfRevocations, store: RevocationFeedStore) -> None:
        self._authority = authority
        self._store = store

    async def look(self, *, wait: bool = True) -> int:
        """Take what is new, or wait a while for it; how many revocations and releases there were.

        Raises:
            CaError: no answer.
            DatabaseError: it could not be recorded, or not all of it: look again.
        """
        after = await self._store.position()
        feed = await self._authority.revocations(after, wait=wait)
        for start in range(0, len(feed.entries), _PIECE):
            piece = feed.entries[start : start + _PIECE]
            await self._store.take(after, piece)
            after = piece[-1].sequence
        return len(feed.entries)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except ConflictError:  # another replica reads it, too
                continue
            except (ca.CaError, DatabaseError) as error:
                _log.warning("revocation feed not followed", error=str(error), retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
