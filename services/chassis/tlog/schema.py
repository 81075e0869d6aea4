"""The tables of a log, as a service adds them to its schema."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table


class LogTables(NamedTuple):
    """The three tables of one log; `name` begins theirs, and the labels of its commits."""

    name: str
    head: Table
    tiles: Table
    entries: Table


def tlog_tables(metadata: MetaData, name: str) -> LogTables:
    """Add the tables of a log to a service's schema; a service with two logs gives them two names.

    The head is one row: the size of the tree, and the last signed checkpoint (`signed_size` is -1 before the first).
    A tile's row grows until it is full; an entry's never changes.
    """
    head = Table(
        f"{name}_head",
        metadata,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("size", BigInteger, nullable=False),
        Column("signed_size", BigInteger, nullable=False),
        Column("checkpoint", LargeBinary, nullable=False),
    )
    tiles = Table(
        f"{name}_tiles",
        metadata,
        Column("level", BigInteger, primary_key=True, autoincrement=False),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("hashes", LargeBinary, nullable=False),
    )
    entries = Table(
        f"{name}_entries",
        metadata,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("entry", LargeBinary, nullable=False),
    )
    return LogTables(name, head, tiles, entries)
