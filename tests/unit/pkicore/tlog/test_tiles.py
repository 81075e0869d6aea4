import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import MalformedError, ProofError
from pkicore.tlog.merkle import MAX_SIZE
from pkicore.tlog.tiles import MAX_ENTRY, WIDTH, Tile, decode_entries, edge_tiles, encode_entries, tile_hashes

PATHS = {
    Tile(0, 0): "tile/0/000",
    Tile(0, 999): "tile/0/999",
    Tile(0, 1000): "tile/0/x001/000",
    Tile(2, 1234067): "tile/2/x001/x234/067",
    Tile(1, 5, 17): "tile/1/005.p/17",
    Tile(63, 0, 255): "tile/63/000.p/255",
    Tile(None, 1234067): "tile/entries/x001/x234/067",
    Tile(None, 0, 1): "tile/entries/000.p/1",
}


@pytest.mark.parametrize(("tile", "path"), PATHS.items(), ids=PATHS.values())
def test_a_tile_and_its_path_are_the_same(tile: Tile, path: str) -> None:
    """The examples of C2SP tlog-tiles, both ways."""
    assert tile.path == path
    assert Tile.parse(path) == tile


@given(st.none() | st.integers(0, 63), st.integers(0, 10**21 - 1), st.integers(1, WIDTH))
def test_every_tile_is_found_by_its_path(level: int | None, number: int, width: int) -> None:
    """What is written is read, whatever the level, number and width."""
    tile = Tile(level, number, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x001/x002",
        "tile/0/X001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/000.p/-1",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000/",
        "/tile/0/000",
        " tile/0/000",
        "tile/0/000\n",
        "tile/0/000.p/1\n",
        "tile/0/000\x00",
        "tile/0/../000",
        "tile/0/..%2f000",
        "tile/0/x00a/000",
        "tile/data/000",
        "tile/ENTRIES/000",
        "tile/\u0661/000",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x001/" * 7 + "000",
        "tile/0/" + "x001/" * 100_000 + "000",
    ],
)
def test_a_path_in_another_form_is_refused(path: str) -> None:
    """No request names a tile in two ways, leaves its directory, or costs more than a look at its length."""
    with pytest.raises(MalformedError, match="no path of a tile"):
        Tile.parse(path)


@given(st.text("tile/0123456789x.pentris\u0661", max_size=40))
def test_whatever_is_asked_for_is_a_tile_or_malformed(text: str) -> None:
    """A path that is taken is the one path of its tile."""
    try:
        tile = Tile.parse(text)
    except MalformedError:
        return
    assert tile.path == text


def test_the_tiles_of_a_tree_are_as_wide_as_the_specification_says() -> None:
    """The example of 70,000 leaves: 273 full tiles and one of 112, one full and one of 17, one of 1."""
    assert Tile.of_tree(0, 272, 70_000) == Tile(0, 272, 256)
    assert Tile.of_tree(1, 0, 70_000) == Tile(1, 0, 256)
    assert edge_tiles(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert edge_tiles(256) == [Tile(1, 0, 1)]
    assert edge_tiles(0) == []


@pytest.mark.parametrize(("level", "number"), [(0, 274), (0, -1), (1, 2), (2, 1), (3, 0)])
def test_a_tile_beyond_the_tree_is_refused(level: int, number: int) -> None:
    """An empty tile is none."""
    with pytest.raises(ProofError, match="has no tile"):
        Tile.of_tree(level, number, 70_000)


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_a_tree_of_an_impossible_size_has_no_edge(size: int) -> None:
    """A size out of range is refused at once."""
    with pytest.raises(ProofError, match="a log has 0 to"):
        edge_tiles(size)


def test_a_wider_form_of_a_tile_will_do() -> None:
    """What was read for a tile may have grown since; its first hashes are the same."""
    tile, data = Tile(0, 0, 2), b"".join(bytes((n,)) * 32 for n in range(5))
    assert tile_hashes(tile, {tile: data}) == [bytes((0,)) * 32, bytes((1,)) * 32]


@pytest.mark.parametrize("size", [0, 31, 32, 63, 65, 8193, 8224])
def test_a_tile_of_the_wrong_size_is_refused(size: int) -> None:
    """Too few hashes, half a hash, or more than a tile can hold."""
    tile = Tile(0, 0, 2)
    with pytest.raises(ProofError, match=r"tile/0/000\.p/2 is missing, or does not hold its 2 hashes"):
        tile_hashes(tile, {tile: bytes(size)})


def test_a_tile_that_was_not_read_is_refused() -> None:
    """The error names the tile."""
    with pytest.raises(ProofError, match="tile/0/007 is missing"):
        tile_hashes(Tile(0, 7), {})


def test_a_bundle_is_lengths_and_entries() -> None:
    """Two octets of length before each entry, nothing else."""
    assert encode_entries([b"a", b"", b"bcd"]) == b"\x00\x01a\x00\x00\x00\x03bcd"
    assert decode_entries(b"\x00\x01a\x00\x00\x00\x03bcd", 3) == [b"a", b"", b"bcd"]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=WIDTH))
def test_a_bundle_gives_back_its_entries(entries: list[bytes]) -> None:
    """Whatever they are."""
    assert decode_entries(encode_entries(entries), len(entries)) == entries


@pytest.mark.parametrize("entries", [[], [b""] * 257, [bytes(MAX_ENTRY + 1)]], ids=["none", "too many", "too long"])
def test_what_no_bundle_can_hold_is_refused(entries: list[bytes]) -> None:
    """Before anything is written."""
    with pytest.raises(MalformedError):
        encode_entries(entries)


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"\x00",
        b"\x00\x01",
        b"\x00\x02a",
        b"\x00\x01a",
        b"\x00\x01a\x00",
        b"\x00\x01a\x00\x01",
        b"\x00\x01a\x00\x01b\x00",
        b"\x00\x01a\x00\x01b\x00\x00",
    ],
)
def test_a_bundle_that_does_not_hold_its_entries_is_refused(bundle: bytes) -> None:
    """Cut at any place, or with more in it than the two entries that were asked for."""
    with pytest.raises(MalformedError, match="exactly 2 entries"):
        decode_entries(bundle, 2)
