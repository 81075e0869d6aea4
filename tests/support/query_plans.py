"""What a database reads for a statement, as it says itself."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # ships no types

from services.chassis.database import Prepared

_SQLITE = "sqlite:///"
# An index read from end to end is no better than its table; but one of intents alone, or the first of an order.
_WHOLE_TABLE = re.compile(
    r"SCAN (?!.*USING (COVERING )?INDEX (ix_certificates_(intents|unnamed)|sqlite_autoindex_refusals_1))"
    r"(certificates|certificate_names|revocations|refusals|unsigned)|Seq Scan on"
)


async def plan_of(url: str, statement: Prepared, arguments: Sequence[Any]) -> list[str]:
    """The lines of the plan; PostgreSQL is told to take an index wherever it could: few rows are not worth one."""
    if url.startswith(_SQLITE):
        with closing(sqlite3.connect(url.removeprefix(_SQLITE))) as connection:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", tuple(arguments)).fetchall()
        return [row[3] for row in rows]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        return [row[0] for row in await connection.fetch(f"EXPLAIN {statement.sql}", *arguments)]
    finally:
        await connection.close()


def assert_indexed(plan: Sequence[str]) -> None:
    """No line reads a table whole."""
    assert not [line for line in plan if _WHOLE_TABLE.search(line)], "\n".join(plan)
