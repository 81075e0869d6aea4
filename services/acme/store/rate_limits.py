"""Token buckets and who has others than usual.

A bucket is one number, the time at which it is full again (GCRA), so taking a token is one conditional upsert: it
changes one row, or none where the bucket is empty. It rides in the unit of what it limits, and whoever else commits at
the same moment, here or on another replica, waits for the row: no two take the last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Text, and_, bindparam, case, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert  # compiles for SQLite too, which has the same clause

from services.acme.schema import rate_limit_overrides as overrides
from services.acme.schema import rate_limits as buckets
from services.chassis.database import AuditEvent, Database, Unit, Write

CLEAN_UP_BATCH: Final = 500  # buckets deleted in one commit
MAX_OVERRIDES: Final = 10_000  # read into memory by every replica
_NOBODY: Final = ""  # no bucket has this key

_NOW: Final = bindparam("now", type_=BigInteger)
_PREFIX: Final = bindparam("prefix", type_=Text)
_GUARD: Final = buckets.alias("guard")
_FIRST: Final = select(bindparam("bucket", type_=Text), bindparam("first", type_=BigInteger)).where(
    ~exists().where(_GUARD.c.key == bindparam("guard"), _GUARD.c.full_at > bindparam("guard_latest"))
)
_TAKE: Final = (
    insert(buckets)
    .from_select(["key", "full_at"], _FIRST)
    .on_conflict_do_update(
        index_elements=[buckets.c.key],
        set_={
            "full_at": case((buckets.c.full_at > _NOW, buckets.c.full_at), else_=_NOW)
            + bindparam("step", type_=BigInteger)
        },
        where=buckets.c.full_at <= bindparam("latest"),
    )
)
_OVERRIDE: Final = insert(overrides)
_STATEMENTS: Final[Mapping[str, Any]] = {
    "take": _TAKE,
    "bucket": select(buckets.c.full_at).where(buckets.c.key == bindparam("bucket")),
    "any_full": select(buckets.c.key).where(buckets.c.full_at < _NOW).limit(1),
    # the time is asked twice: a token may be taken between the look for full buckets and their removal
    "delete_full": delete(buckets).where(
        buckets.c.key.in_(select(_GUARD.c.key).where(_GUARD.c.full_at < _NOW).limit(CLEAN_UP_BATCH)),
        buckets.c.full_at < _NOW,
    ),
    "reset": delete(buckets).where(
        or_(
            buckets.c.key == bindparam("bucket"),
            # not LIKE, which has patterns, and on SQLite no case
            and_(_PREFIX != _NOBODY, func.substr(buckets.c.key, 1, func.length(_PREFIX)) == _PREFIX),
        )
    ),
    "overrides": select(overrides).order_by(overrides.c.subject, overrides.c.name).limit(MAX_OVERRIDES),
    "set_override": _OVERRIDE.on_conflict_do_update(
        index_elements=[overrides.c.subject, overrides.c.name],
        set_={"burst": _OVERRIDE.excluded.burst, "seconds": _OVERRIDE.excluded.seconds},
    ),
    "delete_override": delete(overrides).where(
        overrides.c.subject == bindparam("of"), overrides.c.name == bindparam("limit")
    ),
}


@dataclass(frozen=True, slots=True)
class Guard:
    """Another bucket that must still have a token; none is taken from it."""

    key: str
    step: int
    period: int


@dataclass(frozen=True, slots=True)
class Take:
    """One token of one bucket; milliseconds for one token and for all."""

    key: str
    step: int
    period: int
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class OverrideRow:
    """Another limit than usual for an account (`account:<id>`) or every account of a key (`eab:<kid>`).

    Without a limit, `burst` is 0.
    """

    subject: str
    name: str
    burst: int
    seconds: int


class RateLimitStore:
    """The two tables behind typed methods, which raise `services.chassis.errors.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = {name: database.prepare(statement) for name, statement in _STATEMENTS.items()}

    def take(self, token: Take, now: int, *, expect: int | None = 1) -> Write:
        """The write that takes a token at a time in milliseconds; no row is changed where there is none."""
        guard = token.guard or Guard(_NOBODY, 0, 0)
        values = {
            "bucket": token.key,
            "first": now + token.step,
            "now": now,
            "step": token.step,
            "latest": now + token.period - token.step,
            "guard": guard.key,
            "guard_latest": now + guard.period - guard.step,
        }
        return Write(self._statements["take"], values, expect, contended=True)

    async def full_at(self, key: str) -> int:
        """The millisecond at which a bucket is full; 0 where nothing was taken from it."""
        row = await self._database.fetch_one(self._statements["bucket"], bucket=key)
        return 0 if row is None else int(row["full_at"])

    async def delete_full(self, now: int) -> bool:
        """Forget some buckets that are full again; whether there were any."""
        if await self._database.fetch_one(self._statements["any_full"], now=now) is None:
            return False
        write = Write(self._statements["delete_full"], {"now": now}, contended=True)
        await self._database.commit(Unit("rate-limits-deleted", [write]))
        return True

    async def reset(self, keys: Sequence[str], prefixes: Sequence[str], audit: AuditEvent) -> None:
        """Fill some buckets, and all whose keys begin in some ways."""
        wanted = [*((key, _NOBODY) for key in keys), *((_NOBODY, prefix) for prefix in prefixes)]
        writes = [Write(self._statements["reset"], {"bucket": key, "prefix": prefix}) for key, prefix in wanted]
        await self._database.commit(Unit("rate-limits-reset", writes, [audit]))

    async def overrides(self) -> list[OverrideRow]:
        """Everybody who has another limit than usual."""
        return [OverrideRow(**row) for row in await self._database.fetch_all(self._statements["overrides"])]

    async def set_override(self, override: OverrideRow, audit: AuditEvent) -> None:
        """Give somebody another limit, in place of any before."""
        values = {
            "subject": override.subject,
            "name": override.name,
            "burst": override.burst,
            "seconds": override.seconds,
        }
        await self._database.commit(
            Unit("rate-limit-set", [Write(self._statements["set_override"], values, 1)], [audit])
        )

    async def delete_override(self, subject: str, name: str, audit: AuditEvent) -> None:
        """Go back to the usual limit.

        Raises:
            ConflictError: it is the usual one.
        """
        write = Write(self._statements["delete_override"], {"of": subject, "limit": name}, 1)
        await self._database.commit(Unit("rate-limit-unset", [write], [audit]))
