"""External accounts: who may make an account with which key identifier, for which names, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import BindParameter, Select, and_, bindparam, func, insert, or_, select, update

from services.acme.schema import accounts, authorizations, eab_keys, orders
from services.acme.store.rows import to_json
from services.acme.store.statements import UNFINISHED
from services.chassis.database import AuditEvent, Database, Row, Unit, Write

_KID: Final[BindParameter[Any]] = bindparam("external")
_NOW: Final[BindParameter[Any]] = bindparam("now")
_AT: Final[BindParameter[Any]] = bindparam("at")
_BOUND: Final = select(accounts.c.id).where(accounts.c.eab_kid == _KID)
_NEWEST: Final[Select[Any]] = select(eab_keys).order_by(eab_keys.c.created_at.desc(), eab_keys.c.kid)
_STATEMENTS: Final[Mapping[str, Any]] = {
    "one": select(eab_keys).where(eab_keys.c.kid == _KID),
    "first": _NEWEST.limit(bindparam("most")),
    "behind": _NEWEST.where(
        or_(eab_keys.c.created_at < _AT, and_(eab_keys.c.created_at == _AT, eab_keys.c.kid > bindparam("behind")))
    ).limit(bindparam("most")),
    "insert": insert(eab_keys),
    "take": update(eab_keys)
    .where(
        eab_keys.c.kid == _KID,
        eab_keys.c.revoked_at.is_(None),
        or_(eab_keys.c.not_after.is_(None), eab_keys.c.not_after > _NOW),
        or_(eab_keys.c.max_accounts.is_(None), eab_keys.c.accounts < eab_keys.c.max_accounts),
    )
    .values(accounts=eab_keys.c.accounts + 1),
    "revoke": update(eab_keys).where(eab_keys.c.kid == _KID, eab_keys.c.revoked_at.is_(None)).values(revoked_at=_NOW),
    "bound": select(func.count().label("n"))
    .select_from(accounts)
    .where(accounts.c.eab_kid == _KID, accounts.c.status == "valid"),
    "end_orders": update(orders)
    .where(orders.c.account_id.in_(_BOUND), orders.c.status.in_(UNFINISHED))
    .values(status="invalid"),
    "end_authorizations": update(authorizations)
    .where(authorizations.c.account_id.in_(_BOUND), authorizations.c.status.in_(("pending", "valid")))
    .values(status="deactivated"),
    "deactivate": update(accounts)
    .where(accounts.c.eab_kid == _KID, accounts.c.status == "valid")
    .values(status="deactivated"),
}


@dataclass(frozen=True, slots=True)
class ExternalAccountRow:
    """A key identifier as stored; empty lists allow everything, None is no limit."""

    kid: str
    comment: str
    identifiers: tuple[str, ...]
    profiles: tuple[str, ...]
    max_accounts: int | None
    accounts: int
    not_after: int | None
    created_at: int
    created_by: str
    revoked_at: int | None
    secret_check: str


class ExternalAccountStore:
    """The table behind typed methods; all raise DatabaseError, conditional writes its ConflictError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = {name: database.prepare(statement) for name, statement in _STATEMENTS.items()}

    async def one(self, kid: str) -> ExternalAccountRow | None:
        """The key identifier, whatever its state."""
        row = await self._database.fetch_one(self._statements["one"], external=kid)
        return None if row is None else _row(row)

    async def page(self, position: tuple[int, str] | None, limit: int) -> list[ExternalAccountRow]:
        """Those behind a position, the newest first: one more than the limit where there are more."""
        if position is None:
            rows = await self._database.fetch_all(self._statements["first"], most=limit + 1)
        else:
            at, behind = position
            rows = await self._database.fetch_all(self._statements["behind"], at=at, behind=behind, most=limit + 1)
        return [_row(row) for row in rows]

    async def create(self, made: ExternalAccountRow, audit: AuditEvent) -> None:
        """Store a new one."""
        values = {
            "kid": made.kid,
            "comment": made.comment,
            "identifiers": to_json(made.identifiers),
            "profiles": to_json(made.profiles),
            "max_accounts": made.max_accounts,
            "accounts": made.accounts,
            "not_after": made.not_after,
            "created_at": made.created_at,
            "created_by": made.created_by,
            "revoked_at": made.revoked_at,
            "secret_check": made.secret_check,
        }
        await self._commit("external-account-created", [Write(self._statements["insert"], values, 1)], audit)

    def take(self, kid: str, now: int) -> Write:
        """Count an account that is made with it; changes nothing where it may make no more."""
        return Write(self._statements["take"], {"external": kid, "now": now}, 1)

    async def bound_accounts(self, kid: str) -> int:
        """How many valid accounts it has."""
        row = await self._database.fetch_one(self._statements["bound"], external=kid)
        return 0 if row is None else int(row["n"])

    async def revoke(
        self, kid: str, now: int, audit: AuditEvent, *, deactivate: int | None = None, again: bool = False
    ) -> None:
        """End it, with the unfinished orders of its accounts; its valid accounts too where their number is given.

        ConflictError where it is revoked already (`write` is 0), unless `again` says that this is known; or where it
        has another number of valid accounts.
        """
        of_kid = {"external": kid}
        writes = [
            Write(self._statements["revoke"], {"external": kid, "now": now}, None if again else 1),
            Write(self._statements["end_orders"], of_kid, contended=True),  # new orders wait, or are seen
        ]
        if deactivate is not None:
            writes += [
                Write(self._statements["end_authorizations"], of_kid),
                Write(self._statements["deactivate"], of_kid, deactivate),
            ]
        await self._commit("external-account-revoked", writes, audit)

    async def _commit(self, label: str, writes: list[Write], audit: AuditEvent) -> None:
        await self._database.commit(Unit(label, writes, [audit]))


def _row(row: Row) -> ExternalAccountRow:
    return ExternalAccountRow(
        kid=row["kid"],
        comment=row["comment"],
        identifiers=tuple(orjson.loads(row["identifiers"])),
        profiles=tuple(orjson.loads(row["profiles"])),
        max_accounts=row["max_accounts"],
        accounts=row["accounts"],
        not_after=row["not_after"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        revoked_at=row["revoked_at"],
        secret_check=row["secret_check"],
    )
