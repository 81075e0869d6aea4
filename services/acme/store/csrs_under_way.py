"""CSRs of orders that are processing: the CA may not have recorded a certificate with their keys yet."""

from __future__ import annotations

from sqlalchemy import select

from services.acme.schema import orders
from services.chassis.database import Database


class CsrsUnderWay:
    """A few at a time, and as many as were finalized while the CA is away; found by an index."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._processing = database.prepare(select(orders.c.csr).where(orders.c.status == "processing"))

    async def all(self) -> list[bytes]:
        """Each as DER; raises DatabaseError."""
        return [row["csr"] for row in await self._database.fetch_all(self._processing)]
