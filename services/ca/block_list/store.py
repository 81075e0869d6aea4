"""The SQL of the block list."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from services.ca.block_list.wire import BlockedKey
from services.ca.revocation_store import HELD, RELEASED
from services.ca.schema import blocked_keys, certificates, revocations
from services.chassis.database import AuditEvent, Database, Unit, Write

_MOST_OVERDUE: Final = 100  # keys looked at in one sweep


class BlockListStore:
    """Every statement is compiled once, here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        of = blocked_keys.c
        self._add = database.prepare(_insert_once())
        self._remove = database.prepare(sa.delete(blocked_keys).where(of.key_hash == sa.bindparam("of")))
        self._one = database.prepare(sa.select(of.blocked_at).where(of.key_hash == sa.bindparam("of")))
        self._count = database.prepare(sa.select(sa.func.count().label("number")).select_from(blocked_keys))
        self._page = database.prepare(
            sa.select(blocked_keys)
            .where(of.key_hash > sa.bindparam("after", type_=sa.LargeBinary))
            .order_by(of.key_hash)
            .limit(sa.bindparam("most"))
        )
        self._overdue = database.prepare(_overdue())
        self._certified = database.prepare(_certified())

    async def add(self, key_hash: bytes, at: int, reason: str, event: AuditEvent) -> None:
        """Block a key; `event.actor` is who did.

        Raises:
            ConflictError, DuplicateError: it is blocked already; nothing changed.
        """
        params = {"key_hash": key_hash, "blocked_at": at, "reason": reason, "blocked_by": event.actor}
        await self._database.commit(Unit("blocked key", [Write(self._add, params, 1)], [event]))

    async def remove(self, key_hash: bytes, event: AuditEvent) -> None:
        """Unblock a key.

        Raises:
            ConflictError: it is not blocked.
        """
        await self._database.commit(Unit("unblocked key", [Write(self._remove, {"of": key_hash}, 1)], [event]))

    async def has(self, key_hash: bytes) -> bool:
        """Whether a key is blocked."""
        return await self._database.fetch_one(self._one, of=key_hash) is not None

    async def is_certified(self, key_hash: bytes, now: int) -> bool:
        """Whether a key has a certificate or an intent that is neither revoked nor expired."""
        return await self._database.fetch_one(self._certified, of=key_hash, now=now) is not None

    async def count(self) -> int:
        """How many keys are blocked."""
        row = await self._database.fetch_one(self._count)
        return 0 if row is None else int(row["number"])

    async def page(self, after: bytes, most: int) -> Sequence[BlockedKey]:
        """Entries with greater hashes, in their order, at most so many."""
        rows = await self._database.fetch_all(self._page, after=after, most=most)
        return [
            BlockedKey(bytes(row["key_hash"]).hex(), row["blocked_at"], row["reason"], row["blocked_by"])
            for row in rows
        ]

    async def overdue(self, now: int) -> Sequence[bytes]:
        """Blocked keys, at most a hundred, that have certificates or intents which are neither revoked nor expired."""
        rows = await self._database.fetch_all(self._overdue, now=now)
        return [bytes(row["key_hash"]) for row in rows]


def _insert_once() -> sa.Insert:
    present = sa.exists().where(blocked_keys.c.key_hash == sa.bindparam("key_hash", type_=sa.LargeBinary))
    values = [sa.bindparam(column.name, type_=column.type) for column in blocked_keys.c]
    return sa.insert(blocked_keys).from_select(list(blocked_keys.c), sa.select(*values).where(~present))


def _overdue() -> sa.Select[tuple[bytes]]:
    blocked = blocked_keys.c.key_hash
    return (
        _live(sa.select(blocked).join(certificates, certificates.c.key_hash == blocked)).distinct().limit(_MOST_OVERDUE)
    )


def _certified() -> sa.Select[tuple[bytes]]:
    of = certificates.c
    return _live(sa.select(of.key_hash).where(of.key_hash == sa.bindparam("of"))).limit(1)


def _live(of: sa.Select[tuple[bytes]]) -> sa.Select[tuple[bytes]]:
    """Only those certificates that are neither revoked nor expired; what is held may come back."""
    unrevoked = sa.or_(revocations.c.serial.is_(None), revocations.c.reason.in_((HELD, RELEASED)))
    ours = revocations.c.serial == certificates.c.serial
    return of.join(revocations, ours, isouter=True).where(certificates.c.not_after >= sa.bindparam("now"), unrevoked)
