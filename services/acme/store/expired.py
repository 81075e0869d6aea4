"""What expired long ago and is deleted: orders without a certificate, and authorizations that serve no order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, bindparam, delete, select

from services.acme.schema import authorizations, challenges, order_authorizations, orders
from services.acme.store.statements import SERVES, UNFINISHED
from services.chassis.database import Database, Unit, Write

CLEAN_UP_BATCH: Final = 500  # orders or authorizations deleted in one commit

_BEFORE: Final[BindParameter[Any]] = bindparam("before")
_ORDER: Final[BindParameter[Any]] = bindparam("order")
_AUTHORIZATION: Final[BindParameter[Any]] = bindparam("authorization")
_STATEMENTS: Final[Mapping[str, Any]] = {
    "orders": select(orders.c.id)
    .where(orders.c.status.in_((*UNFINISHED, "invalid")), orders.c.expires < _BEFORE)
    .limit(CLEAN_UP_BATCH),
    "delete_order_authorizations": delete(order_authorizations).where(order_authorizations.c.order_id == _ORDER),
    "delete_order": delete(orders).where(orders.c.id == _ORDER, orders.c.certificate_id.is_(None)),
    "authorizations": select(authorizations.c.id).where(authorizations.c.expires < _BEFORE, ~SERVES),
    "delete_challenges": delete(challenges).where(challenges.c.authorization_id == _AUTHORIZATION),
    "delete_authorization": delete(authorizations).where(authorizations.c.id == _AUTHORIZATION, ~SERVES),
}


class ExpiredStore:
    """All methods raise `services.chassis.errors.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = {name: database.prepare(statement) for name, statement in _STATEMENTS.items()}

    async def orders(self, before: int) -> list[str]:
        """Some orders that expired before a moment and never got as far as a certificate."""
        return [row["id"] for row in await self._database.fetch_all(self._statements["orders"], before=before)]

    async def delete_orders(self, ids: Sequence[str]) -> None:
        """Delete orders, and what ties their authorizations to them."""
        await self._delete("orders-deleted", ("delete_order_authorizations", "delete_order"), "order", ids)

    async def authorizations(self, before: int) -> list[str]:
        """Authorizations that expired before a moment and serve no order; reads an index of all that expired."""
        rows = self._database.scan(self._statements["authorizations"], before=before)
        return [row["id"] async for row in rows]

    async def delete_authorizations(self, ids: Sequence[str]) -> None:
        """Delete authorizations that serve no order."""
        statements = "delete_challenges", "delete_authorization"
        await self._delete("authorizations-deleted", statements, "authorization", ids)

    async def _delete(self, label: str, statements: Sequence[str], what: str, ids: Sequence[str]) -> None:
        writes = [Write(self._statements[name], {what: each}, expect=None) for each in ids for name in statements]
        await self._database.commit(Unit(label, writes))
