import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import ProofError
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import EMPTY_ROOT, MAX_SIZE, leaf_hash, node_hash
from pkicore.tlog.proofs import (
    MAX_PROOF,
    consistency_plan,
    inclusion_plan,
    verify_consistency,
    verify_inclusion,
)
from pkicore.tlog.tiles import HEIGHT, Tile, edge_tiles
from tests.support.naive_tree import audit_path, consistency, tree_hash

ENTRIES = [b"%d" % n for n in range(600)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOTS = [tree_hash(ENTRIES[:size]) for size in range(71)]
MILLION = 1_000_000


def tiles_of(size: int) -> dict[Tile, bytes]:
    """All tiles of the tree of the first entries."""
    return Frontier.empty().append(LEAVES[:size])[1]


def prove_inclusion(index: int, size: int) -> list[bytes]:
    """As a log does it."""
    return inclusion_plan(index, size).prove(tiles_of(size))


def prove_consistency(first: int, second: int) -> list[bytes]:
    """As a log does it."""
    return consistency_plan(first, second).prove(tiles_of(second))


@pytest.mark.parametrize("size", range(1, 71))
def test_every_leaf_of_small_trees_is_proved(size: int) -> None:
    """The proof is that of RFC 6962 to the bit, and it verifies."""
    tiles = tiles_of(size)
    for index in range(size):
        proof = inclusion_plan(index, size).prove(tiles)
        assert proof == audit_path(index, ENTRIES[:size])
        verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


@pytest.mark.parametrize("second", range(71))
def test_every_two_small_trees_are_consistent(second: int) -> None:
    """The proof is that of RFC 6962 to the bit, and it verifies; also from the empty tree, and to itself."""
    tiles = tiles_of(second)
    for first in range(second + 1):
        proof = consistency_plan(first, second).prove(tiles)
        if first:
            assert proof == consistency(first, ENTRIES[:second])
        verify_consistency(first, second, proof, ROOTS[first], ROOTS[second])


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 600])
def test_proofs_cross_the_edges_of_tiles(size: int) -> None:
    """Where tiles begin and end, and where the tree has two levels of them."""
    tiles, root = tiles_of(size), tree_hash(ENTRIES[:size])
    for index in {0, 1, 127, 128, 254, 255, 256, 257, 300, 511, 512, size - 1} & set(range(size)):
        proof = inclusion_plan(index, size).prove(tiles)
        assert proof == audit_path(index, ENTRIES[:size])
        verify_inclusion(LEAVES[index], index, size, proof, root)
        if index:
            proof = consistency_plan(index, size).prove(tiles)
            assert proof == consistency(index, ENTRIES[:size])
            verify_consistency(index, size, proof, tree_hash(ENTRIES[:index]), root)


WELL_KNOWN = [leaf_hash(bytes.fromhex(entry)) for entry in ("", "00", "10", "2021", "3031", "40414243")] + [
    leaf_hash(bytes.fromhex(entry)) for entry in ("5051525354555657", "606162636465666768696a6b6c6d6e6f")
]


def test_the_well_known_proofs() -> None:
    """Inclusion and consistency in the 8-leaf tree that implementations of RFC 6962 share."""
    tiles = Frontier.empty().append(WELL_KNOWN)[1]
    assert [step.hex() for step in inclusion_plan(5, 8).prove(tiles)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [step.hex() for step in consistency_plan(6, 8).prove(tiles)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def flipped(data: bytes) -> bytes:
    """Another hash, by one bit."""
    return bytes((data[0] ^ 1,)) + data[1:]


def spoiled(proof: list[bytes]) -> list[list[bytes]]:
    """The proof with each of its hashes changed, left out or doubled, with one more, and in another order."""
    places = range(len(proof))
    changed = [[*proof[:at], flipped(proof[at]), *proof[at + 1 :]] for at in places]
    missing = [proof[:at] + proof[at + 1 :] for at in places]
    doubled = [proof[: at + 1] + proof[at:] for at in places]
    longer = [[*proof, bytes(32)], [bytes(32), *proof]]
    return changed + missing + doubled + longer + ([proof[::-1]] if len(proof) > 1 else [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 21])
def test_an_inclusion_proof_that_was_touched_shows_nothing(size: int) -> None:
    """Wherever it was touched; nor does it show another leaf, place or root."""
    for index in range(size):
        leaf, proof, root = LEAVES[index], prove_inclusion(index, size), ROOTS[size]
        for other in spoiled(proof):
            with pytest.raises(ProofError):
                verify_inclusion(leaf, index, size, other, root)
        for place in range(-1, size + 1):
            if place != index:
                with pytest.raises(ProofError):
                    verify_inclusion(leaf, place, size, proof, root)
        with pytest.raises(ProofError, match="does not lead"):
            verify_inclusion(flipped(leaf), index, size, proof, root)
        with pytest.raises(ProofError, match="does not lead"):
            verify_inclusion(leaf, index, size, proof, flipped(root))


@pytest.mark.parametrize("second", [2, 3, 5, 8, 13, 21])
def test_a_consistency_proof_that_was_touched_shows_nothing(second: int) -> None:
    """Wherever it was touched; nor does it show another root, before or after."""
    for first in range(1, second):
        proof, roots = prove_consistency(first, second), (ROOTS[first], ROOTS[second])
        for other in spoiled(proof):
            with pytest.raises(ProofError):
                verify_consistency(first, second, other, *roots)
        for wrong in ((flipped(roots[0]), roots[1]), (roots[0], flipped(roots[1])), roots[::-1]):
            with pytest.raises(ProofError, match="does not lead"):
                verify_consistency(first, second, proof, *wrong)


SMALL = range(1, 10)


def test_an_inclusion_proof_shows_no_place_that_is_higher_or_lower() -> None:
    """Whatever tree is claimed, a path of another length than its own leads nowhere, though its root is right."""
    claims = [(index, size, len(inclusion_plan(index, size).parts)) for size in SMALL for index in range(size)]
    for true_index, true_size, length in claims:
        proof = prove_inclusion(true_index, true_size)
        for index, size, _ in (claim for claim in claims if claim[2] != length):
            with pytest.raises(ProofError):
                verify_inclusion(LEAVES[true_index], index, size, proof, ROOTS[true_size])


def test_a_consistency_proof_shows_no_tree_that_is_higher_or_lower() -> None:
    """Likewise for two trees."""
    claims = [(a, b, len(consistency_plan(a, b).parts)) for b in SMALL for a in range(1, b)]
    for true_first, true_second, length in claims:
        proof, roots = prove_consistency(true_first, true_second), (ROOTS[true_first], ROOTS[true_second])
        for first, second, _ in (claim for claim in claims if claim[2] != length):
            with pytest.raises(ProofError):
                verify_consistency(first, second, proof, *roots)


def test_a_log_that_was_rewritten_is_found() -> None:
    """No proof of the new log leads from the old root, at any size."""
    rewritten = [leaf_hash(b"other"), *LEAVES[1:20]]
    grown, tiles = Frontier.empty().append(rewritten)
    for first in range(1, 20):
        with pytest.raises(ProofError, match="does not lead"):
            verify_consistency(first, 20, consistency_plan(first, 20).prove(tiles), ROOTS[first], grown.root)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    """The hash of two leaves is not shown to be a leaf of the smaller tree above it: the entry's hash differs."""
    entry = LEAVES[0] + LEAVES[1]
    assert node_hash(LEAVES[0], LEAVES[1]) == ROOTS[2]
    with pytest.raises(ProofError, match="does not lead"):
        verify_inclusion(leaf_hash(entry), 0, 1, [], ROOTS[2])


def test_trivial_consistency_is_still_verified() -> None:
    """From nothing, or to the same: with an empty proof, the root of nothing, and one root for one size."""
    verify_consistency(0, 5, [], EMPTY_ROOT, ROOTS[5])
    with pytest.raises(ProofError, match="must be empty"):
        verify_consistency(0, 5, [bytes(32)], EMPTY_ROOT, ROOTS[5])
    with pytest.raises(ProofError, match="root of the empty tree"):
        verify_consistency(0, 5, [], ROOTS[1], ROOTS[5])
    with pytest.raises(ProofError, match="must be empty"):
        verify_consistency(5, 5, [ROOTS[5]], ROOTS[5], ROOTS[5])
    with pytest.raises(ProofError, match="two roots"):
        verify_consistency(5, 5, [], ROOTS[5], ROOTS[4])


@pytest.mark.parametrize(("first", "second"), [(5, 4), (-1, 4), (1, 0), (1, MAX_SIZE + 1)])
def test_sizes_that_make_no_sense_are_refused(first: int, second: int) -> None:
    """A log does not shrink, by plan or by proof."""
    with pytest.raises(ProofError, match="does not continue"):
        consistency_plan(first, second)
    with pytest.raises(ProofError, match="does not continue"):
        verify_consistency(first, second, [], ROOTS[1], ROOTS[1])


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (0, MAX_SIZE + 1)])
def test_leaves_that_are_not_there_are_refused(index: int, size: int) -> None:
    """By plan and by proof."""
    with pytest.raises(ProofError, match="there is no leaf"):
        inclusion_plan(index, size)
    with pytest.raises(ProofError, match="there is no leaf"):
        verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


@pytest.mark.parametrize("step", [b"", bytes(31), bytes(33)])
def test_hashes_of_another_size_are_refused(step: bytes) -> None:
    """In a proof, and as leaf or root: two short ones could be read as one long."""
    with pytest.raises(ProofError, match="32 octets"):
        verify_inclusion(LEAVES[0], 0, 2, [step], ROOTS[2])
    with pytest.raises(ProofError, match="32 octets"):
        verify_inclusion(step, 0, 1, [], step)
    with pytest.raises(ProofError, match="32 octets"):
        verify_consistency(1, 2, [step], ROOTS[1], ROOTS[2])


def test_a_proof_without_end_is_refused_before_it_is_hashed() -> None:
    """No tree needs more than 64 hashes."""
    with pytest.raises(ProofError, match="at most 64"):
        verify_inclusion(LEAVES[0], 0, MAX_SIZE, [bytes(32)] * (MAX_PROOF + 1), ROOTS[1])
    with pytest.raises(ProofError, match="at most 64"):
        verify_consistency(3, MAX_SIZE, [bytes(32)] * (MAX_PROOF + 1), ROOTS[3], ROOTS[4])


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_made_up_proofs_show_nothing(index: int, size: int, proof: list[bytes]) -> None:
    """Whatever is sent, the answer is ProofError."""
    with pytest.raises(ProofError):
        verify_inclusion(LEAVES[0], index, size, proof, ROOTS[7])
    with pytest.raises(ProofError):
        verify_consistency(index, size, proof, ROOTS[3], ROOTS[7])


class UniformLog:
    """A log all of whose leaves are alike: a million of them in no memory, and every tile read is counted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hashes = [leaf_hash(b"alike")]
        for _ in range(63):
            self.hashes.append(node_hash(self.hashes[-1], self.hashes[-1]))
        self.read: list[Tile] = []

    def tiles(self, names: tuple[Tile, ...] | list[Tile]) -> dict[Tile, bytes]:
        """The contents of these tiles."""
        self.read.extend(names)
        return {tile: self.hashes[HEIGHT * (tile.level or 0)] * tile.width for tile in names}


def test_a_proof_in_a_log_of_a_million_reads_few_tiles() -> None:
    """At most two tiles of each of its three levels; each proof verifies against the frontier's root."""
    log = UniformLog(MILLION)
    root = Frontier.load(MILLION, log.tiles(edge_tiles(MILLION))).root
    for index in [*range(0, MILLION, 9973), 2**19 - 1, 2**19, MILLION - 1]:
        plan, log.read = inclusion_plan(index, MILLION), []
        proof = plan.prove(log.tiles(plan.tiles))
        verify_inclusion(log.hashes[0], index, MILLION, proof, root)
        assert len(set(log.read)) == len(log.read) <= 6


def test_a_consistency_proof_in_a_log_of_a_million_reads_few_tiles() -> None:
    """Likewise, from any size."""
    log = UniformLog(MILLION)
    root = Frontier.load(MILLION, log.tiles(edge_tiles(MILLION))).root
    for first in [*range(1, MILLION, 9973), 2**19, MILLION - 1]:
        old, plan = Frontier.load(first, log.tiles(edge_tiles(first))).root, consistency_plan(first, MILLION)
        verify_consistency(first, MILLION, plan.prove(log.tiles(plan.tiles)), old, root)
        assert len(plan.tiles) <= 6


def test_the_largest_log_can_be_proved() -> None:
    """Plans do not count leaves: 2**63 - 1 of them take eight levels of tiles."""
    log = UniformLog(MAX_SIZE)
    root = Frontier.load(MAX_SIZE, log.tiles(edge_tiles(MAX_SIZE))).root
    for index in (0, 2**62 + 12345, MAX_SIZE - 1):
        plan = inclusion_plan(index, MAX_SIZE)
        assert len(plan.tiles) <= 16
        verify_inclusion(log.hashes[0], index, MAX_SIZE, plan.prove(log.tiles(plan.tiles)), root)


def test_a_proof_at_an_older_size_is_made_of_the_tiles_of_today() -> None:
    """Full tiles stand in for the partial ones that the older tree had."""
    today, plan = tiles_of(600), inclusion_plan(3, 300)
    wide = {(tile.level, tile.number): data for tile, data in today.items()}
    proof = plan.prove({tile: wide[tile.level, tile.number] for tile in plan.tiles})
    assert proof == audit_path(3, ENTRIES[:300])


def test_a_proof_is_not_made_without_its_tiles() -> None:
    """Each tile of a plan is needed; the error names the one that is missing."""
    plan, tiles = inclusion_plan(3, 600), tiles_of(600)
    for tile in plan.tiles:
        with pytest.raises(ProofError, match="is missing"):
            plan.prove({name: data for name, data in tiles.items() if name != tile})
