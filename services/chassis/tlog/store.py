"""The only SQL of a log. The head's size is what writers agree on: whoever finds another one has written nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from pkicore.tlog.tiles import HEIGHT, WIDTH, Tile
from services.chassis.database import Database, Unit, Write
from services.chassis.errors import DuplicateError, UnavailableError
from services.chassis.tlog.schema import LogTables

UNSIGNED: Final = -1
_HEAD: Final = 1


class Head(NamedTuple):
    """The stored tree's size, and the last signed checkpoint; `signed_size` is -1 where there is none."""

    size: int
    signed_size: int
    checkpoint: bytes


class LogStore:
    """Every statement is compiled once, here."""

    def __init__(self, database: Database, tables: LogTables) -> None:
        head, tiles, entries = tables.head, tables.tiles, tables.entries
        self._database = database
        self._name = tables.name
        prepare = database.prepare
        self._head = prepare(sa.select(head).where(head.c.id == _HEAD))
        self._begin = prepare(sa.insert(head).values(id=_HEAD, size=0, signed_size=UNSIGNED, checkpoint=b""))
        self._grow = prepare(
            sa.update(head)
            .where(head.c.id == _HEAD, head.c.size == sa.bindparam("from_size"))
            .values(size=sa.bindparam("to_size"))
        )
        self._sign = prepare(
            sa.update(head)
            .where(head.c.id == _HEAD, head.c.signed_size == sa.bindparam("from_signed"))
            .values(signed_size=sa.bindparam("to_signed"), checkpoint=sa.bindparam("note"))
        )
        self._tile = prepare(
            sa.select(tiles.c.hashes).where(
                tiles.c.level == sa.bindparam("level"), tiles.c.number == sa.bindparam("number")
            )
        )
        self._new_tile = prepare(_insert(tiles))
        self._widen_tile = prepare(
            sa.update(tiles)
            .where(tiles.c.level == sa.bindparam("of_level"), tiles.c.number == sa.bindparam("of_number"))
            .values(hashes=sa.bindparam("to_hashes"))
        )
        self._new_entry = prepare(_insert(entries))
        self._entries = prepare(
            sa.select(entries.c.entry)
            .where(entries.c.position >= sa.bindparam("first"), entries.c.position < sa.bindparam("end"))
            .order_by(entries.c.position)
        )

    async def begin(self) -> Head:
        """The head, made where there is none yet.

        Raises:
            DatabaseError: it cannot be read or made.
        """
        row = await self._database.fetch_one(self._head)
        if row is None:
            with contextlib.suppress(DuplicateError):  # another process was quicker
                await self._database.commit(Unit(f"{self._name} head", [Write(self._begin, {}, 1)]))
        return await self.head()

    async def head(self) -> Head:
        """The head as it is now.

        Raises:
            UnavailableError: it cannot be read, or is gone.
        """
        row = await self._database.fetch_one(self._head)
        if row is None:
            raise UnavailableError(f"the log's table {self._name}_head has lost its row")
        return Head(row["size"], row["signed_size"], row["checkpoint"])

    async def grow(self, size: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes]) -> None:
        """Append entries to the tree of `size` leaves, with the tiles that they make, whole or not at all.

        Raises:
            ConflictError: the tree has another size; nothing was written.
            DatabaseError: nothing was written (`CommitUnknownError`: it may have been).
        """
        grown = size + len(entries)
        writes = [Write(self._grow, {"from_size": size, "to_size": grown}, 1)]
        writes += [
            Write(self._new_entry, {"position": position, "entry": entry}, 1)
            for position, entry in enumerate(entries, start=size)
        ]
        writes += [self._tile_write(tile, hashes, size) for tile, hashes in tiles.items()]
        await self._database.commit(Unit(f"{self._name} entries", writes))

    async def sign(self, previous: int, size: int, note: bytes) -> None:
        """Make this the last signed checkpoint.

        Raises:
            ConflictError: the last one is not of `previous` leaves.
            DatabaseError: it was not written (`CommitUnknownError`: it may have been).
        """
        write = Write(self._sign, {"from_signed": previous, "to_signed": size, "note": note}, 1)
        await self._database.commit(Unit(f"{self._name} checkpoint", [write]))

    async def tiles(self, wanted: Iterable[Tile]) -> dict[Tile, bytes]:
        """What is stored of these tiles, each as wide as it is now; those that are missing are left out.

        Raises:
            UnavailableError: they cannot be read.
        """
        found = {}
        for tile in wanted:
            row = await self._database.fetch_one(self._tile, level=tile.level, number=tile.number)
            if row is not None:
                found[tile] = row["hashes"]
        return found

    async def entries(self, first: int, end: int) -> list[bytes]:
        """The entries from `first` to before `end`, in their order.

        Raises:
            UnavailableError: they cannot be read.
        """
        return [row["entry"] for row in await self._database.fetch_all(self._entries, first=first, end=end)]

    def _tile_write(self, tile: Tile, hashes: bytes, size: int) -> Write:
        if _was_begun(tile, size):
            return Write(self._widen_tile, {"of_level": tile.level, "of_number": tile.number, "to_hashes": hashes}, 1)
        return Write(self._new_tile, {"level": tile.level, "number": tile.number, "hashes": hashes}, 1)


def _was_begun(tile: Tile, size: int) -> bool:
    """Whether a tree of this size has hashes in the tile already."""
    return size >> (HEIGHT * (tile.level or 0)) > tile.number * WIDTH


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})
