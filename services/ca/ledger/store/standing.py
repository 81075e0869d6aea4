"""What of an issuer's certificates is in force still: how many of each profile, and when the last of them ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.ca.ledger.store.search import RELEASED
from services.ca.schema import certificates, revocations
from services.chassis.database import Database

_c, _r = certificates.c, revocations.c


@dataclass(frozen=True, slots=True)
class Standing:
    """So many certificates of a profile by an issuer are in force; the last ends at a Unix time."""

    issuer: str
    profile: str
    count: int
    last: int


class StandingStore:
    """The one question; its cost grows with what the issuer has issued, so that commands ask it, and no service."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_issuer = database.prepare(_by_issuer())

    async def below(self, issuers: Sequence[str], now: int) -> list[Standing]:
        """What is in force of each issuer, by profile.

        Raises:
            DatabaseError: the database cannot be read.
        """
        return [
            Standing(issuer, row["profile"], row["count"], row["last"])
            for issuer in issuers
            for row in await self._database.fetch_all(self._by_issuer, issuer=issuer, now=now)
        ]


def _by_issuer() -> sa.Select[Any]:
    revoked = sa.exists().where(_r.serial == _c.serial, _r.reason != RELEASED)
    return (
        sa.select(_c.profile, sa.func.count().label("count"), sa.func.max(_c.not_after).label("last"))
        .where(_c.issuer == sa.bindparam("issuer"), _c.not_after >= sa.bindparam("now", type_=sa.BigInteger), ~revoked)
        .group_by(_c.profile)
        .order_by(_c.profile)
    )
