"""Accounts by what operators know of them, the newest first.

Contacts have no index: their search reads accounts until a page is full, all of them where few are found.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, or_, select

from services.acme.schema import accounts
from services.acme.store.rows import AccountRow, account_of
from services.acme.wire import AccountQuery
from services.chassis.database import Database, Prepared

_AT: Final[BindParameter[Any]] = bindparam("at")
_CONDITIONS: Final[dict[str, ColumnElement[bool]]] = {
    "contact": func.lower(accounts.c.contacts).like(bindparam("contact"), escape="\\"),
    "thumbprint": accounts.c.thumbprint == bindparam("thumbprint"),
    "eab_kid": accounts.c.eab_kid == bindparam("eab_kid"),
    "status": accounts.c.status == bindparam("status"),
    "at": and_(accounts.c.created_at <= _AT, or_(accounts.c.created_at < _AT, accounts.c.id < bindparam("behind"))),
}


class AccountSearch:
    """One statement for each set of conditions, made when it is first wanted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements: dict[frozenset[str], Prepared] = {}

    async def find(self, query: AccountQuery, position: tuple[int, str] | None) -> list[AccountRow]:
        """The accounts behind a position, the newest first: one more than the limit where there are more."""
        given: dict[str, Any] = {
            "contact": f"%{_escaped(query.contact.lower())}%" if query.contact else "",
            "thumbprint": query.thumbprint,
            "eab_kid": query.eab_kid,
            "status": query.status,
        }
        values = {name: value for name, value in given.items() if value}
        if position is not None:
            values |= {"at": position[0], "behind": position[1]}
        rows = await self._database.fetch_all(self._statement(frozenset(values)), **values, most=query.limit + 1)
        return [account_of(row) for row in rows]

    def _statement(self, names: frozenset[str]) -> Prepared:
        if names not in self._statements:
            wanted = [condition for name, condition in _CONDITIONS.items() if name in names]
            newest = select(accounts).where(*wanted).order_by(accounts.c.created_at.desc(), accounts.c.id.desc())
            self._statements[names] = self._database.prepare(newest.limit(bindparam("most")))
        return self._statements[names]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
