"""The SQL of what is kept and removed: promises, legal holds, and the one commit that removes a signature.

That commit is conditional on there being neither a hold nor a promise that still stands, so none of those that are made
meanwhile is broken; making one is conditional on the signature's being there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from services.chassis.database import AuditEvent, Database, Unit, Write
from services.signing.schema import artefacts, found_by, retention, signatures


@dataclass(frozen=True, slots=True)
class Keeping:
    """What keeps a signature beyond its tenant's rule.

    Attributes:
        promised_until: Unix seconds; 0: nothing was promised.
        held_at: since when there is a legal hold; None: there is none.
        held_by: who laid it.
        hold_reason: why.
    """

    promised_until: int
    held_at: int | None
    held_by: str | None
    hold_reason: str | None


@dataclass(frozen=True, slots=True)
class Overdue:
    """A signature that nothing keeps any more, as far as was seen."""

    id: str
    created_at: int


class RetentionStore:
    """Promises, holds, removals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        prepare = database.prepare
        of = sa.bindparam("of", type_=sa.Text)
        of_tenant = sa.bindparam("of_tenant", type_=sa.Text)
        now = sa.bindparam("now", type_=sa.BigInteger)
        own = (retention.c.signature == of, retention.c.tenant == of_tenant)
        self._ensure = prepare(_ensure())
        self._promise = prepare(_promise(own))
        self._hold = prepare(
            sa.update(retention)
            .where(*own, retention.c.held_at.is_(None))
            .values({name: sa.bindparam(f"to_{name}", type_=retention.c[name].type) for name in _HOLD})
        )
        self._release = prepare(
            sa.update(retention).where(*own, retention.c.held_at.is_not(None)).values(dict.fromkeys(_HOLD))
        )
        self._keeping = prepare(
            sa.select(*(retention.c[name] for name in Keeping.__slots__))
            .select_from(signatures.outerjoin(retention, retention.c.signature == signatures.c.id))
            .where(signatures.c.id == of, signatures.c.tenant == of_tenant)
        )
        kept = sa.exists().where(
            retention.c.signature == signatures.c.id,
            retention.c.held_at.is_not(None) | (retention.c.promised_until > now),
        )
        self._overdue = prepare(
            sa.select(signatures.c.id, signatures.c.created_at)
            .where(signatures.c.tenant == of_tenant, signatures.c.id < sa.bindparam("before"), ~kept)
            .order_by(signatures.c.id)
            .limit(sa.bindparam("most"))
        )
        self._remove = prepare(
            sa.delete(signatures).where(signatures.c.id == of, signatures.c.tenant == of_tenant, ~kept)
        )
        self._remove_rest = [
            prepare(sa.delete(table).where(table.c.signature == of)) for table in (artefacts, found_by, retention)
        ]

    def promising(self, tenant: str, signature: str, until: int) -> list[Write]:
        """What promises that a signature is kept, for the unit of what says so; a promise is never shortened.

        Its commit raises ConflictError where the tenant has no such signature.
        """
        place = {"of": signature, "of_tenant": tenant}
        return [Write(self._ensure, place, None), Write(self._promise, {**place, "until": until}, 1)]

    async def keeping(self, tenant: str, signature: str) -> Keeping | None:
        """What keeps a signature beyond its rule; None where the tenant has no such signature."""
        row = await self._database.fetch_one(self._keeping, of=signature, of_tenant=tenant)
        if row is None:
            return None
        found = {name: row[name] for name in Keeping.__slots__}
        return Keeping(**found | {"promised_until": found["promised_until"] or 0})

    async def hold(self, tenant: str, signature: str, held: Keeping, event: AuditEvent) -> None:
        """Lay a legal hold; of `held`, the promise is not looked at.

        Raises:
            ConflictError: the tenant has no such signature, or it is held already.
        """
        place = {"of": signature, "of_tenant": tenant}
        values = {f"to_{name}": getattr(held, name) for name in _HOLD}
        writes = [Write(self._ensure, place, None), Write(self._hold, {**place, **values}, 1)]
        await self._database.commit(Unit("hold", writes, [event]))

    async def release(self, tenant: str, signature: str, event: AuditEvent) -> None:
        """Lift a legal hold.

        Raises:
            ConflictError: there is none.
        """
        place = {"of": signature, "of_tenant": tenant}
        await self._database.commit(Unit("hold-released", [Write(self._release, place, 1)], [event]))

    async def overdue(self, tenant: str, before: str, now: int, most: int) -> list[Overdue]:
        """Signatures of a tenant with ids below `before` that nothing keeps at `now`, the oldest first."""
        rows = await self._database.fetch_all(self._overdue, of_tenant=tenant, before=before, now=now, most=most)
        return [Overdue(row["id"], row["created_at"]) for row in rows]

    async def remove(
        self, tenant: str, signature: str, now: int, event: AuditEvent, told: Sequence[Write] = ()
    ) -> None:
        """Delete a signature and what is served of it; files go once no record names them (`Objects.sweep`).

        Raises:
            ConflictError: something keeps it at `now`, or it is gone; nothing was written.
        """
        params = {"of": signature, "of_tenant": tenant, "now": now}
        writes = [Write(self._remove, params, 1), *(Write(rest, {"of": signature}, None) for rest in self._remove_rest)]
        await self._database.commit(Unit("signature-removed", [*writes, *told], [event]))


_HOLD = ("held_at", "held_by", "hold_reason")


def _ensure() -> sa.Insert:
    """A row for the tenant's signature, if it is there and has none yet."""
    signature = sa.bindparam("of", type_=sa.Text)
    there = sa.exists().where(retention.c.signature == signature)
    row = sa.select(signatures.c.id, signatures.c.tenant, sa.literal(0, sa.BigInteger)).where(
        signatures.c.id == signature, signatures.c.tenant == sa.bindparam("of_tenant", type_=sa.Text), ~there
    )
    return sa.insert(retention).from_select(["signature", "tenant", "promised_until"], row)


def _promise(own: tuple[sa.ColumnElement[bool], ...]) -> sa.Update:
    until = sa.bindparam("until", type_=sa.BigInteger)
    later = sa.case((retention.c.promised_until < until, until), else_=retention.c.promised_until)
    return sa.update(retention).where(*own).values(promised_until=later)
