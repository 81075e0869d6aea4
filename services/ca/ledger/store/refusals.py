"""Refusals: written one by one, read newest first, kept for a time and up to a number."""

from typing import Any, Final

import orjson
import sqlalchemy as sa

from services.ca.ledger.wire import RefusalEntry
from services.ca.schema import refusals
from services.chassis.database import Database, Row, Unit, Write

_DELETED_AT_ONCE: Final = 2000  # rows of one transaction, which others wait for


class RefusalStore:
    """The table of refusals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        column = refusals.c
        self._insert = database.prepare(sa.insert(refusals).values({c.name: sa.bindparam(c.name) for c in column}))
        self._page = database.prepare(
            sa.select(refusals)
            .where(column.id < sa.bindparam("before"), column.at >= sa.bindparam("since"))
            .order_by(column.id.desc())
            .limit(sa.bindparam("most", type_=sa.BigInteger))
        )
        self._nth = database.prepare(
            sa.select(column.id).order_by(column.id.desc()).limit(1).offset(sa.bindparam("kept", type_=sa.BigInteger))
        )
        doomed = sa.select(column.id).where(column.id < sa.bindparam("before")).order_by(column.id)
        self._delete = database.prepare(
            sa.delete(refusals).where(column.id.in_(doomed.limit(sa.bindparam("most", type_=sa.BigInteger))))
        )
        self._oldest = database.prepare(sa.select(column.id).order_by(column.id).limit(1))

    async def add(self, refusal: RefusalEntry) -> None:
        """Commit a refusal.

        Raises:
            DatabaseError: it is not on record.
        """
        values: dict[str, Any] = {name: getattr(refusal, name) for name in refusal.__slots__}
        names = orjson.dumps(refusal.names).decode()
        await self._database.commit(Unit("refusal", [Write(self._insert, values | {"names": names}, 1)]))

    async def page(self, before: str, since: int, most: int) -> list[RefusalEntry]:
        """Those of at most so many rows with a smaller id that are not older than a time, newest first.

        Raises:
            DatabaseError: the database cannot be read.
        """
        rows = await self._database.fetch_all(self._page, before=before, since=since, most=most)
        return [_refusal(row) for row in rows]

    async def forget(self, before: str, keep: int) -> None:
        """Delete refusals with a smaller id, and all but the newest so many; in small transactions.

        Raises:
            DatabaseError: the database cannot be written; what is deleted is.
        """
        nth = [row async for row in self._database.scan(self._nth, kept=keep - 1)]
        end = max(before, nth[0]["id"]) if nth else before
        while (oldest := await self._database.fetch_one(self._oldest)) is not None and oldest["id"] < end:
            write = Write(self._delete, {"before": end, "most": _DELETED_AT_ONCE})
            await self._database.commit(Unit("refusals forgotten", [write]))


def _refusal(row: Row) -> RefusalEntry:
    return RefusalEntry(**{name: row[name] for name in RefusalEntry.__slots__} | {"names": orjson.loads(row["names"])})
