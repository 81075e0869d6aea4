import hashlib

import pytest

from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import EMPTY_ROOT, join_subtrees, leaf_hash, node_hash, perfect_root
from tests.support.naive_tree import tree_hash

ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The tree that every implementation of RFC 6962 is tried with, and its roots by size."""
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


@pytest.mark.parametrize("size", range(9))
def test_the_well_known_tree_has_its_well_known_roots(size: int) -> None:
    """The frontier, and the naive tree that other tests rest on, agree with what the world has published."""
    frontier, _ = Frontier.empty().append([leaf_hash(entry) for entry in ENTRIES[:size]])
    assert frontier.root.hex() == tree_hash(ENTRIES[:size]).hex() == ROOTS[size]


def test_leaves_and_nodes_are_told_apart() -> None:
    """An entry made of two hashes has another hash than the node above them, so none passes for the other."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest()
    assert leaf_hash(left + right) == hashlib.sha256(b"\x00" + left + right).digest()
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT


def test_a_row_of_another_width_has_no_perfect_subtree() -> None:
    """A row of three hashes is refused, not hashed into something."""
    with pytest.raises(ValueError, match="shorter"):
        perfect_root([bytes(32)] * 3)


def test_subtrees_join_from_the_right() -> None:
    """Three subtrees side by side are the first beside the two others' node."""
    one, two, three = (leaf_hash(bytes((n,))) for n in range(3))
    assert join_subtrees([one, two, three]) == node_hash(one, node_hash(two, three))
    assert join_subtrees([one]) == one
