"""What a database reads for a statement, as it says itself."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # ships no types

from services.chassis.database import Prepared

_SQLITE = "sqlite:///"
_SEQUENTIAL = re.compile(r"^SCAN (?!CONSTANT|anon_|\()(\w+)|Seq Scan on (\w+)")
_WHOLE_INDEX = re.compile(r"Index (?:Only )?Scan (?:Backward )?using \w+ on (\w+)")
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


async def plans_for_any(url: str, statements: Sequence[Prepared]) -> list[list[str]]:
    """Their plans for whatever values, of few rows as of many; PostgreSQL takes indexes and sorts nothing if it can."""
    if url.startswith(_SQLITE):
        return [await plan_of(url, statement, [None] * len(statement.names)) for statement in statements]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        plans = []
        for number, statement in enumerate(statements):
            await connection.execute(f"PREPARE any_{number} AS {statement.sql}")
            values = ", ".join("NULL" for _ in statement.names)
            told = await connection.fetch(f"EXPLAIN EXECUTE any_{number}{f'({values})' if values else ''}")
            plans.append([row[0] for row in told])
        return plans
    finally:
        await connection.close()


def tables_read_whole(plan: Sequence[str]) -> set[str]:
    """The tables, or their aliases, that a plan reads from end to end, by themselves or by an index."""
    lines = [line.strip() for line in plan]
    found = {seen[1] or seen[2] for line in lines if (seen := _SEQUENTIAL.search(line))}
    for line, following in pairwise([*lines, ""]):
        scanned = _WHOLE_INDEX.search(line)
        if scanned and not following.startswith("Index Cond"):
            found.add(scanned[1])
    return found


def assert_indexed(plan: Sequence[str]) -> None:
    """No line reads a table whole."""
    assert not [line for line in plan if _WHOLE_TABLE.search(line)], "\n".join(plan)
