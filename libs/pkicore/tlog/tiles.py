"""Tiles: the hashes and entries of a log as immutable files of 256 (C2SP tlog-tiles)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pkicore.errors import MalformedError, ProofError
from pkicore.tlog.merkle import HASH_SIZE, MAX_SIZE

HEIGHT: Final = 8
"""Levels of the tree in one tile."""
WIDTH: Final = 1 << HEIGHT
"""Hashes, or entries, of a full tile."""
MAX_ENTRY: Final = 0xFFFF
"""Octets of an entry."""
_LENGTH_SIZE: Final = 2
_MAX_PATH: Final = 64
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])"
    r"/(?P<number>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class Tile(NamedTuple):
    """The name of one file.

    Attributes:
        level: 0 holds leaf hashes, a level above the hashes of full tiles of the one below; None is for entries.
        number: of the tile in its level, from 0.
        width: hashes or entries in it, 1 to 256.
    """

    level: int | None
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Relative to the log's prefix, as `tile/0/x001/234.p/17`."""
        level = "entries" if self.level is None else str(self.level)
        rest, last = divmod(self.number, 1000)
        groups = f"{last:03}"
        while rest:
            rest, group = divmod(rest, 1000)
            groups = f"x{group:03}/{groups}"
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{groups}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """The tile of a path, which may come from anybody; a tile has one path, and whether it exists is not said.

        Raises:
            MalformedError: it is no path of a tile.
        """
        match = _PATH.fullmatch(path) if len(path) <= _MAX_PATH else None
        if match is None:
            raise MalformedError("this is no path of a tile")
        level = None if match["level"] == "entries" else int(match["level"])
        number, width = int(match["number"].replace("x", "").replace("/", "")), int(match["width"] or WIDTH)
        tile = cls(level, number, width)
        if width > WIDTH or tile.path != path:
            raise MalformedError("this is no path of a tile")
        return tile

    @classmethod
    def of_tree(cls, level: int, number: int, size: int) -> Tile:
        """The tile at this place of a tree of `size` leaves, as wide as it is there.

        Raises:
            ProofError: the tree has none there.
        """
        width = min(WIDTH, (size >> (HEIGHT * level)) - number * WIDTH)
        if number < 0 or width <= 0:
            raise ProofError(f"a tree of {size} has no tile {level}/{number}")
        return cls(level, number, width)


def edge_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree of `size` leaves, one at most of each level: all that its growth needs to know.

    Raises:
        ProofError: there is no tree of this size.
    """
    if not 0 <= size <= MAX_SIZE:
        raise ProofError(f"a log has 0 to {MAX_SIZE} leaves")
    tiles, level, count = list[Tile](), 0, size
    while count:
        if count % WIDTH:
            tiles.append(Tile(level, count // WIDTH, count % WIDTH))
        level, count = level + 1, count // WIDTH
    return tiles


def tile_hashes(tile: Tile, tiles: Mapping[Tile, bytes]) -> list[bytes]:
    """The hashes of a tile that was read; what was read may be a later, wider form of it.

    Raises:
        ProofError: it is missing or too short.
    """
    data = tiles.get(tile, b"")
    if not tile.width * HASH_SIZE <= len(data) <= WIDTH * HASH_SIZE or len(data) % HASH_SIZE:
        raise ProofError(f"{tile.path} is missing, or does not hold its {tile.width} hashes")
    return [data[at : at + HASH_SIZE] for at in range(0, tile.width * HASH_SIZE, HASH_SIZE)]


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """A bundle of 1 to 256 entries, each led by its length in two octets.

    Raises:
        MalformedError: too many entries, none, or one that is too long.
    """
    if not 1 <= len(entries) <= WIDTH:
        raise MalformedError(f"a bundle has 1 to {WIDTH} entries")
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise MalformedError(f"an entry has at most {MAX_ENTRY} octets")
    return b"".join(len(entry).to_bytes(_LENGTH_SIZE, "big") + entry for entry in entries)


def decode_entries(bundle: bytes, width: int) -> list[bytes]:
    """The entries of a bundle that holds `width` of them.

    Raises:
        MalformedError: it holds more or fewer, or ends within one.
    """
    entries, at = list[bytes](), 0
    while at < len(bundle) and len(entries) < width:
        start = at + _LENGTH_SIZE
        at = start + int.from_bytes(bundle[at:start], "big")
        entries.append(bundle[start:at])
    if at != len(bundle) or len(entries) != width:
        raise MalformedError(f"the bundle does not hold exactly {width} entries")
    return entries
