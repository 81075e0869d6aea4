"""Merkle trees as the text of RFC 6962 §2.1 defines them, with lists and recursion: the measure of quicker code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def tree_hash(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return hashlib.sha256(b"\x01" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


def audit_path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*audit_path(m, entries[:k]), tree_hash(entries[k:])]
    return [*audit_path(m - k, entries[k:]), tree_hash(entries[:k])]


def consistency(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return _subproof(m, entries, complete=True)


def _subproof(m: int, entries: Sequence[bytes], *, complete: bool) -> list[bytes]:
    if m == len(entries):
        return [] if complete else [tree_hash(entries)]
    k = split(len(entries))
    if m <= k:
        return [*_subproof(m, entries[:k], complete=complete), tree_hash(entries[k:])]
    return [*_subproof(m - k, entries[k:], complete=False), tree_hash(entries[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k
