"""Counts of live certificates, each by one index: those that end soon, and all by algorithm.

Neither looks at a row of the ledger: what is not signed yet has an index of its own, which is all but empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.ca.ledger.store.search import RELEASED
from services.ca.schema import certificates, revocations
from services.chassis.database import Database

_c, _r = certificates.c, revocations.c


@dataclass(frozen=True, slots=True)
class Ending:
    """How many live certificates of a profile and an issuer end before each of some times, and the first end."""

    profile: str
    issuer: str
    counts: tuple[int, ...]
    earliest: int


@dataclass(frozen=True, slots=True)
class Live:
    """Live certificates of an algorithm and a profile; `oldest` is when the first of them was recorded."""

    algorithm: str
    profile: str
    count: int
    oldest: int


class CountStore:
    """The two counts; `horizons` is before how many times certificates may end."""

    def __init__(self, database: Database, horizons: int) -> None:
        self._database = database
        self._ending = database.prepare(ending_statement(horizons))
        self._live = database.prepare(live_statement())

    async def ending(self, now: int, before: Sequence[int]) -> list[Ending]:
        """Live certificates that end from `now` and before each of these rising times.

        Raises:
            DatabaseError: the database cannot be read.
        """
        times = {f"before_{n}": end for n, end in enumerate(before)}
        rows = [row async for row in self._database.scan(self._ending, now=now, **times)]
        return [
            Ending(row["profile"], row["issuer"], tuple(row[f"count_{n}"] for n in range(len(before))), row["earliest"])
            for row in rows
        ]

    async def live(self, now: int) -> list[Live]:
        """Live certificates by algorithm and profile.

        Raises:
            DatabaseError: the database cannot be read.
        """
        rows = self._database.scan(self._live, now=now)
        return [Live(**{name: row[name] for name in Live.__slots__}) async for row in rows]


def ending_statement(horizons: int) -> sa.Select[Any]:
    """Counts of those that end before each of so many times."""
    ends = [sa.bindparam(f"before_{n}", type_=sa.BigInteger) for n in range(horizons)]
    counts = [sa.func.count(sa.case((_c.not_after < end, 1))).label(f"count_{n}") for n, end in enumerate(ends)]
    return (
        sa.select(_c.profile, _c.issuer, *counts, sa.func.min(_c.not_after).label("earliest"))
        .where(_c.not_after < ends[-1], *_is_live())
        .group_by(_c.profile, _c.issuer)
        .order_by(_c.profile, _c.issuer)
    )


def live_statement() -> sa.Select[Any]:
    """Counts by algorithm and profile."""
    return (
        sa.select(_c.algorithm, _c.profile, sa.func.count().label("count"), sa.func.min(_c.recorded_at).label("oldest"))
        .where(*_is_live())
        .group_by(_c.algorithm, _c.profile)
        .order_by(_c.algorithm, _c.profile)
    )


def _is_live() -> tuple[sa.ColumnElement[bool], ...]:
    other = certificates.alias("unsigned")
    unsigned = sa.select(other.c.serial).where(other.c.certificate.is_(None))
    revoked = sa.exists().where(_r.serial == _c.serial, _r.reason != RELEASED)
    return _c.not_after >= sa.bindparam("now", type_=sa.BigInteger), _c.serial.not_in(unsigned), ~revoked
