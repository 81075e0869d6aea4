"""Inclusion and consistency proofs (RFC 9162 §2.1.3, §2.1.4): planned, made of tiles, verified.

A proof is made in two steps, so that reading may be one query, and as asynchronous as the caller likes:

    plan = inclusion_plan(index, size)
    proof = plan.prove({tile: await read(tile) for tile in plan.tiles})
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from pkicore.errors import ProofError
from pkicore.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE, join_subtrees, node_hash, perfect_root
from pkicore.tlog.tiles import HEIGHT, WIDTH, Tile, tile_hashes

MAX_PROOF: Final = 64
"""Hashes of a proof at most."""


class Subtree(NamedTuple):
    """The perfect subtree of 2**level leaves that is the `number`-th of its level, from 0."""

    level: int
    number: int


@dataclass(frozen=True)
class ProofPlan:
    """Where the hashes of a proof are found.

    Attributes:
        size: leaves of the tree that is read.
        parts: for each hash of the proof, the perfect subtrees that it joins.
    """

    size: int
    parts: tuple[tuple[Subtree, ...], ...]

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """What to read: about two tiles for each eight levels of the tree."""
        return tuple({self._place(subtree)[0]: None for part in self.parts for subtree in part})

    def prove(self, tiles: Mapping[Tile, bytes]) -> list[bytes]:
        """The proof, out of the contents of `tiles`, each the tile itself or a later, wider form of it.

        Raises:
            ProofError: a tile is missing or too short.
        """
        rows = {tile: tile_hashes(tile, tiles) for tile in self.tiles}
        return [join_subtrees([self._hash(subtree, rows) for subtree in part]) for part in self.parts]

    def _hash(self, subtree: Subtree, rows: Mapping[Tile, list[bytes]]) -> bytes:
        tile, place = self._place(subtree)
        return perfect_root(rows[tile][place])

    def _place(self, subtree: Subtree) -> tuple[Tile, slice]:
        level, height = divmod(subtree.level, HEIGHT)
        number, offset = divmod(subtree.number << height, WIDTH)
        return Tile.of_tree(level, number, self.size), slice(offset, offset + (1 << height))


def inclusion_plan(index: int, size: int) -> ProofPlan:
    """How leaf `index` is shown to be in the tree of `size` leaves; the leaf's sibling comes first (§2.1.3.1).

    Raises:
        ProofError: the tree has no such leaf.
    """
    _check_leaf(index, size)
    return _plan(size, _path(index, 0, size))


def consistency_plan(first: int, second: int) -> ProofPlan:
    """How the tree of `second` leaves is shown to continue the one of `first` (§2.1.4.1).

    Raises:
        ProofError: it cannot, by its size.
    """
    _check_sizes(first, second)
    return _plan(second, [] if first in {0, second} else _subproof(first, 0, second, whole=True))


def _plan(size: int, ranges: Sequence[tuple[int, int]]) -> ProofPlan:
    return ProofPlan(size, tuple(tuple(_subtrees(begin, end)) for begin, end in ranges))


def _subtrees(begin: int, end: int) -> Iterator[Subtree]:
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield Subtree(level, begin >> level)
        begin += 1 << level


def _middle(begin: int, end: int) -> int:
    """Where RFC 9162 §2.1.1 divides the leaves: after the largest power of two smaller than their number."""
    return begin + (1 << ((end - begin - 1).bit_length() - 1))


def _path(index: int, begin: int, end: int) -> list[tuple[int, int]]:
    if end - begin == 1:
        return []
    middle = _middle(begin, end)
    if index < middle:
        return [*_path(index, begin, middle), (middle, end)]
    return [*_path(index, middle, end), (begin, middle)]


def _subproof(first: int, begin: int, end: int, *, whole: bool) -> list[tuple[int, int]]:
    """`whole` as long as the range begins where the first tree does: at its end stands a root the verifier knows."""
    if first == end:
        return [] if whole else [(begin, end)]
    middle = _middle(begin, end)
    if first <= middle:
        return [*_subproof(first, begin, middle, whole=whole), (middle, end)]
    return [*_subproof(first, middle, end, whole=False), (begin, middle)]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Believe that this leaf hash is at `index` of the tree of `size` leaves with this root (§2.1.3.2).

    Raises:
        ProofError: it is not shown.
    """
    _check_hashes(leaf, root, proof)
    _check_leaf(index, size)
    node, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node % 2 or node == last:
            found = node_hash(step, found)
            node, last = _skip_missing_siblings(node, last)
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    if last or not hmac.compare_digest(found, root):
        raise ProofError("the inclusion proof does not lead to the root")


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """Believe that the tree of `second` leaves continues the one of `first`, of these roots (§2.1.4.2).

    Anything continues the empty tree.

    Raises:
        ProofError: it is not shown.
    """
    _check_hashes(first_root, second_root, proof)
    _check_sizes(first, second)
    if first in {0, second}:
        _check_trivial(first, second, proof, (first_root, second_root))
        return
    steps = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not steps:
        raise ProofError("the consistency proof is empty")
    node, last = first - 1, second - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node % 2 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            node, last = _skip_missing_siblings(node, last)
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    if last or not (hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)):
        raise ProofError("the consistency proof does not lead from the one root to the other")


def _skip_missing_siblings(node: int, last: int) -> tuple[int, int]:
    """Climb to where the node is a right child: on the right edge, levels without a sibling have no step."""
    while node and not node % 2:
        node, last = node >> 1, last >> 1
    return node, last


def _check_trivial(first: int, second: int, proof: Sequence[bytes], roots: tuple[bytes, bytes]) -> None:
    if proof:
        raise ProofError("this consistency proof must be empty")
    if first == second and not hmac.compare_digest(*roots):
        raise ProofError("two trees of one size have two roots")
    if first == 0 and not hmac.compare_digest(roots[0], EMPTY_ROOT):
        raise ProofError("this is not the root of the empty tree")


def _check_leaf(index: int, size: int) -> None:
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")


def _check_sizes(first: int, second: int) -> None:
    if not 0 <= first <= second <= MAX_SIZE:
        raise ProofError(f"a tree of {second} does not continue one of {first}")


def _check_hashes(one: bytes, other: bytes, proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF:
        raise ProofError(f"a proof has at most {MAX_PROOF} hashes")
    if any(len(item) != HASH_SIZE for item in (one, other, *proof)):
        raise ProofError(f"a hash of the tree has {HASH_SIZE} octets")
