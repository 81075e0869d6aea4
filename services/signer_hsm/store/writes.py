"""Whether what is written becomes durable, as the last write tells."""

from __future__ import annotations

from services.chassis.database import Database, Unit
from services.chassis.errors import UnavailableError


class Writes:
    """The way of every commit.

    Attributes:
        done: how many have become durable.
        fault: why the last one did not; None if it did.
    """

    def __init__(self, database: Database) -> None:
        self.done = 0
        self.fault: UnavailableError | None = None
        self._database = database

    async def commit(self, unit: Unit) -> None:
        """As `Database.commit`.

        Raises:
            DatabaseError: as there.
        """
        try:
            await self._database.commit(unit)
        except UnavailableError as error:
            self.fault = error
            raise
        self.done += 1
        self.fault = None
