"""The hashes of Merkle trees (RFC 6962 §2.1, RFC 9162 §2.1.1): SHA-256, with leaves and nodes told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from typing import Final

HASH_SIZE: Final = 32
MAX_SIZE: Final = 2**63 - 1
"""Leaves of a tree at most; what other implementations count with."""
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf: SHA-256 over 0x00 and the entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node: SHA-256 over 0x01 and its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The hash of the perfect subtree above a row of hashes, of which there are 1, 2, 4, 8, ..."""
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def join_subtrees(hashes: Sequence[bytes]) -> bytes:
    """The hash above perfect subtrees that stand side by side, each larger than all to its right together."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))
