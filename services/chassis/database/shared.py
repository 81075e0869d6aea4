"""What processes on one PostgreSQL database need of each other, beside the units that they write."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped] # ships no types
from asyncpg import exceptions as pg

from services.chassis.database.statement import Prepared
from services.chassis.errors import UnavailableError

_ACQUIRE_SECONDS: Final = 5.0
_LEASES: Final = 1346523988  # the first half of every lease's lock; nobody else has a reason to take it
_TRY: Final = "SELECT pg_try_advisory_lock($1::int, $2::int)"
_GIVE_BACK: Final = "SELECT pg_advisory_unlock($1::int, $2::int)"
_FAILED: Final = (OSError, TimeoutError, pg.PostgresError, pg.InterfaceError)


class SharedDatabase:
    """Claims and leases among the processes of one database.

    Args:
        hasty: connections whose commits do not wait for the disk (`synchronous_commit=off`).
    """

    def __init__(self, hasty: asyncpg.Pool) -> None:
        self._hasty = hasty

    async def claim(self, prepared: Prepared, /, **params: Any) -> bool:  # noqa: ANN401 - column values
        """Insert a row (`ON CONFLICT DO NOTHING`); whether this call did, of all that try, in whatever process.

        It is seen by everybody at once, but not on the disk yet. A crash of the database may forget the last claims of
        half a second, yet none that something committed later relies on: the write-ahead log is written in its order,
        so whichever unit is durable, every claim that was made before it was committed is durable too.

        Raises:
            UnavailableError: the database does not answer; the row may be there or not.
        """
        try:
            async with self._hasty.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                status = await connection.execute(prepared.sql, *prepared.bind(params))
        except _FAILED as error:
            raise UnavailableError(f"the database cannot write: {error or type(error).__name__}") from error
        return str(status).endswith(" 1")

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncGenerator[bool]:
        """Whether this process alone may do what the name says, for as long as the context is open.

        It ends with the process or its connection, so what is done under it must bear being done twice at once.

        Raises:
            UnavailableError: the database does not answer.
        """
        lock = (_LEASES, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._hasty.acquire(timeout=_ACQUIRE_SECONDS))
                held = bool(await connection.fetchval(_TRY, *lock))
            except _FAILED as error:
                raise UnavailableError(f"the database does not answer: {error or type(error).__name__}") from error
            try:
                yield held
            finally:
                if held:
                    with suppress(*_FAILED):  # a connection that is gone has given it back
                        await connection.fetchval(_GIVE_BACK, *lock)

    async def close(self) -> None:
        """Closes every connection, and gives back every lease."""
        await self._hasty.close()

    def terminate(self) -> None:
        """As `close`, without waiting for anybody."""
        self._hasty.terminate()
