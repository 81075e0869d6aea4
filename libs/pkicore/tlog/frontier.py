"""The right edge of a log: what it takes to append to it without reading it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pkicore.errors import ProofError
from pkicore.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE, join_subtrees, perfect_root
from pkicore.tlog.tiles import HEIGHT, WIDTH, Tile, edge_tiles, tile_hashes


@dataclass(frozen=True)
class Frontier:
    """The unfinished tiles of a log; a few kilobytes that grow with the logarithm of its size.

    Immutable, so that a batch which could not be stored leaves nothing to undo.

    Attributes:
        size: leaves of the log.
        rows: for each tile level from 0 up, the hashes (at most 255) of its partial tile.
    """

    size: int
    rows: tuple[tuple[bytes, ...], ...]

    @classmethod
    def empty(cls) -> Frontier:
        """Of a log without leaves."""
        return cls(0, ())

    @classmethod
    def load(cls, size: int, tiles: Mapping[Tile, bytes]) -> Frontier:
        """Of a log of `size` leaves whose `edge_tiles(size)` were read.

        Whether they are the log's own is seen by comparing `root` with a verified checkpoint's: the caller's duty.

        Raises:
            ProofError: a tile is missing or too short, or there is no log of this size.
        """
        rows = {tile.level: tuple(tile_hashes(tile, tiles)) for tile in edge_tiles(size)}
        levels = -(-size.bit_length() // HEIGHT)
        return cls(size, tuple(rows.get(level, ()) for level in range(levels)))

    @cached_property
    def root(self) -> bytes:
        """The root hash of the log."""
        subtrees = [subtree for row in reversed(self.rows) for subtree in _perfect_subtrees(row)]
        return join_subtrees(subtrees) if subtrees else EMPTY_ROOT

    def append(self, leaves: Sequence[bytes]) -> tuple[Frontier, dict[Tile, bytes]]:
        """The log with these leaf hashes at its end, and the tiles (full and partial) that it had not before.

        The new partial tiles are those of the new size: one `append` for each checkpoint.

        Raises:
            ProofError: a leaf hash of the wrong size, or a log that is full.
        """
        if any(len(leaf) != HASH_SIZE for leaf in leaves):
            raise ProofError(f"a leaf hash has {HASH_SIZE} octets")
        if self.size + len(leaves) > MAX_SIZE:
            raise ProofError(f"a log has at most {MAX_SIZE} leaves")
        rows, tiles, grown = list[tuple[bytes, ...]](), dict[Tile, bytes](), list(leaves)
        for level, row in enumerate(self.rows):
            rest, grown = _grow(level, self.size, [*row, *grown], tiles) if grown else (row, grown)
            rows.append(rest)
        while grown:
            rest, grown = _grow(len(rows), self.size, grown, tiles)
            rows.append(rest)
        return Frontier(self.size + len(leaves), tuple(rows)), tiles


def _grow(
    level: int, size: int, hashes: list[bytes], tiles: dict[Tile, bytes]
) -> tuple[tuple[bytes, ...], list[bytes]]:
    """Cut one level into tiles; what is left for its partial tile, and the hashes that the level above gains."""
    first, gained = size >> (HEIGHT * (level + 1)), list[bytes]()
    for number, start in enumerate(range(0, len(hashes), WIDTH), start=first):
        part = hashes[start : start + WIDTH]
        tiles[Tile(level, number, len(part))] = b"".join(part)
        if len(part) == WIDTH:
            gained.append(perfect_root(part))
    return tuple(hashes[len(gained) * WIDTH :]), gained


def _perfect_subtrees(row: Sequence[bytes]) -> list[bytes]:
    """The hashes of a partial tile joined as far as they fill perfect subtrees, the largest first."""
    subtrees, start = list[bytes](), 0
    while start < len(row):
        width = 1 << ((len(row) - start).bit_length() - 1)
        subtrees.append(perfect_root(row[start : start + width]))
        start += width
    return subtrees
