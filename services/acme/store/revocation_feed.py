"""What the CA says of revocations, in the rows of this server's certificates; and how far that has been read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, insert, select, update

from services.acme.schema import certificates, positions
from services.ca.wire import FeedEntry
from services.chassis.database import Database, Unit, Write
from services.chassis.errors import DuplicateError

RELEASED: Final = "removeFromCRL"  # RFC 5280 §5.3.1: a hold that ended
_FEED: Final = "revocations"


class RevocationFeedStore:
    """All methods raise `services.chassis.errors.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._position = database.prepare(select(positions.c.position).where(positions.c.name == bindparam("feed")))
        self._begin = database.prepare(insert(positions))
        self._proceed = database.prepare(
            update(positions)
            .where(positions.c.name == bindparam("feed"), positions.c.position == bindparam("after"))
            .values(position=bindparam("reached"))
        )
        self._revoke = database.prepare(
            update(certificates)
            .where(certificates.c.serial == bindparam("of"), certificates.c.revoked_at.is_(None))
            .values(revoked_at=bindparam("at"))
        )
        self._release = database.prepare(
            update(certificates).where(certificates.c.serial == bindparam("of")).values(revoked_at=None)
        )

    async def position(self) -> int:
        """After which sequence to go on; 0 at first."""
        row = await self._database.fetch_one(self._position, feed=_FEED)
        if row is not None:
            return int(row["position"])
        try:
            await self._database.commit(Unit("feed-begun", [Write(self._begin, {"name": _FEED, "position": 0})]))
        except DuplicateError:  # another replica was quicker
            return await self.position()
        return 0

    async def take(self, after: int, entries: Sequence[FeedEntry]) -> None:
        """Record what happened to our certificates behind a position, in order, and the position that this leads to.

        Raises:
            ConflictError: another replica has gone on from there; nothing of it is done twice.
        """
        writes = [
            Write(self._release, {"of": entry.serial})
            if entry.reason == RELEASED
            else Write(self._revoke, {"of": entry.serial, "at": entry.revoked_at})
            for entry in entries
        ]
        step = {"feed": _FEED, "after": after, "reached": entries[-1].sequence}
        await self._database.commit(Unit("revocations-followed", [Write(self._proceed, step, expect=1), *writes]))
