import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkicore.errors import ProofError
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import EMPTY_ROOT, MAX_SIZE, leaf_hash
from pkicore.tlog.tiles import WIDTH, Tile, edge_tiles
from tests.support.naive_tree import tree_hash

ENTRIES = [b"%d" % n for n in range(1400)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def expected_tiles(size: int) -> dict[Tile, bytes]:
    """Every tile of the first entries, after the definition in C2SP tlog-tiles: hashes of D[i * 256**l : ...]."""
    tiles = {}
    for level in range(3):
        step = WIDTH**level
        hashes = [tree_hash(ENTRIES[at : at + step]) for at in range(0, size - step + 1, step)]
        for start in range(0, len(hashes), WIDTH):
            part = hashes[start : start + WIDTH]
            tiles[Tile(level, start // WIDTH, len(part))] = b"".join(part)
    return tiles


def test_a_log_grown_leaf_by_leaf_has_every_root() -> None:
    """Up to 70 leaves, against the naive tree."""
    frontier = Frontier.empty()
    for size in range(1, 71):
        frontier, _ = frontier.append(LEAVES[size - 1 : size])
        assert frontier.size == size
        assert frontier.root == tree_hash(ENTRIES[:size])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 1400])
def test_one_batch_makes_exactly_the_tiles_of_the_specification(size: int) -> None:
    """Full and partial, on each level, also where a tile is just full."""
    frontier, tiles = Frontier.empty().append(LEAVES[:size])
    assert tiles == expected_tiles(size)
    assert frontier.root == tree_hash(ENTRIES[:size])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=6))
def test_batches_make_the_tiles_that_were_not_there(batches: list[int]) -> None:
    """However a log is cut into batches: the new tiles are those of its size less those of the size before."""
    frontier, known = Frontier.empty(), dict[Tile, bytes]()
    for batch in batches:
        end = min(frontier.size + batch, len(LEAVES))
        frontier, tiles = frontier.append(LEAVES[frontier.size : end])
        expected = expected_tiles(end)
        assert not known.keys() & tiles.keys()
        assert tiles == {tile: data for tile, data in expected.items() if tile not in known}
        known |= tiles
        assert frontier == Frontier.load(end, {tile: expected[tile] for tile in edge_tiles(end)})
    assert frontier.root == tree_hash(ENTRIES[: frontier.size])


def test_appending_nothing_changes_nothing() -> None:
    """No leaves, no tiles."""
    frontier, _ = Frontier.empty().append(LEAVES[:300])
    assert frontier.append([]) == (frontier, {})
    assert Frontier.empty().append([]) == (Frontier.empty(), {})
    assert Frontier.empty().root == EMPTY_ROOT == Frontier.load(0, {}).root


def test_a_batch_that_was_not_stored_leaves_the_log_as_it_was() -> None:
    """A frontier never changes; another batch grows from it as if the first had never been."""
    frontier, _ = Frontier.empty().append(LEAVES[:300])
    frontier.append(LEAVES[300:900])
    again, _ = frontier.append(LEAVES[300:301])
    assert frontier.root == tree_hash(ENTRIES[:300])
    assert again.root == tree_hash(ENTRIES[:301])


def test_a_log_that_lost_a_tile_does_not_load() -> None:
    """A missing tile of the edge is named."""
    _, tiles = Frontier.empty().append(LEAVES[:300])
    del tiles[Tile(1, 0, 1)]
    with pytest.raises(ProofError, match=r"tile/1/000\.p/1 is missing"):
        Frontier.load(300, tiles)


def test_a_changed_edge_tile_shows_in_the_root() -> None:
    """What the caller compares with the checkpoint: no hash of the edge can be changed unseen."""
    frontier, tiles = Frontier.empty().append(LEAVES[:300])
    for tile in edge_tiles(300):
        for at in range(0, len(tiles[tile]), 32):
            changed = bytearray(tiles[tile])
            changed[at] ^= 1
            assert Frontier.load(300, tiles | {tile: bytes(changed)}).root != frontier.root


def test_a_leaf_that_is_no_hash_is_refused() -> None:
    """An entry in place of its hash is the likeliest mistake."""
    with pytest.raises(ProofError, match="32 octets"):
        Frontier.empty().append([b"entry"])


def test_a_log_is_full_at_its_largest_size() -> None:
    """Nothing is appended beyond what others can count."""
    full = Frontier(MAX_SIZE, ())
    with pytest.raises(ProofError, match="at most"):
        full.append(LEAVES[:1])
    with pytest.raises(ProofError, match="a log has"):
        Frontier.load(MAX_SIZE + 1, {})
