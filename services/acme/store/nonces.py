"""What replicas share of nonces: the key of their MAC, and those that were used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from services.acme.schema import shared_secrets, used_nonces
from services.chassis.database import Database, Unit, Write

if TYPE_CHECKING:
    from services.chassis.database.shared import SharedDatabase  # needs asyncpg, as PostgreSQL alone does

CLEAN_UP_BATCH: Final = 2000  # nonces deleted in one commit
_KEY_NAME: Final = "nonces"
_MADE_ONCE: Final = insert(shared_secrets).on_conflict_do_nothing()
_KEY: Final = select(shared_secrets.c.value).where(shared_secrets.c.name == bindparam("of"))
_USED_ONCE: Final = insert(used_nonces).on_conflict_do_nothing()
_DELETE: Final = delete(used_nonces).where(
    used_nonces.c.nonce.in_(
        select(used_nonces.c.nonce).where(used_nonces.c.expires < bindparam("before")).limit(CLEAN_UP_BATCH)
    )
)
_SOME_EXPIRED: Final = select(used_nonces.c.nonce).where(used_nonces.c.expires < bindparam("before")).limit(1)


class NonceStore:
    """The two tables behind typed methods, which raise `services.chassis.errors.DatabaseError`."""

    def __init__(self, database: Database, shared: SharedDatabase) -> None:
        self._database = database
        self._shared = shared
        self._used_once = database.prepare(_USED_ONCE)
        self._delete = database.prepare(_DELETE)
        self._some_expired = database.prepare(_SOME_EXPIRED)

    async def key(self, proposed: bytes) -> bytes:
        """The key that all replicas have: the proposed one where there is none yet."""
        made = Write(self._database.prepare(_MADE_ONCE), {"name": _KEY_NAME, "value": proposed})
        await self._database.commit(Unit("nonce-key-made", [made]))
        row = await self._database.fetch_one(self._database.prepare(_KEY), of=_KEY_NAME)
        return proposed if row is None else bytes(row["value"])

    async def use(self, nonce: str, expires: int) -> bool:
        """Remember a nonce as used; whether it was not yet, here or at another replica.

        This does not wait for the disk. A nonce that a crash of the database makes it forget is one for which nothing
        was done that lasted: whatever a request writes is committed after its nonce, so where the former is durable,
        the latter is (`SharedDatabase.claim`). Sent again, such a request is a first attempt.
        """
        return await self._shared.claim(self._used_once, nonce=nonce, expires=expires)

    async def delete_expired(self, before: int) -> bool:
        """Forget some that expired before a moment; whether there were any."""
        if await self._database.fetch_one(self._some_expired, before=before) is None:
            return False
        await self._database.commit(Unit("nonces-deleted", [Write(self._delete, {"before": before})]))
        return True
