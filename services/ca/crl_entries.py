"""The encoded entries of an issuer's CRLs in memory, spliced together already: nothing is encoded twice.

Final entries lie in one run of octets for each hour in which their certificates expire, so that what has expired is
dropped by the hour. Holds, which may end, are apart; there are few. What changed lies in runs between publications, so
that a delta is those since its base; it may say a little more than what changed since, never less.

Final entries come by the hour, and within it in the order of the feed, where their place never changes. So which of
them a list has, and in which order, follows from the revocations and three numbers: shard, sequence and hour.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from services.ca.revocation_store import HELD, HOUR, RELEASED, Revoked

_MAY_END: Final = frozenset({HELD, RELEASED})
_TOGETHER: Final = 64  # entries that are spliced at once


@dataclass(frozen=True, slots=True)
class Spliced:
    """Entries that lie one after the other, and how many there are."""

    octets: bytes
    count: int


@dataclass(slots=True)
class _Run:
    """Entries one after the other, in pieces that do not change once they were given away; sequences only rise.

    A piece is put together with those before it as long as they are smaller, so that there are few, and each entry is
    copied a few times in its life.
    """

    sequences: "array[int]" = field(default_factory=lambda: array("q"))
    _pieces: list[bytes] = field(default_factory=list)
    _latest: list[bytes] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.sequences[-1] if self.sequences else 0

    def append(self, entry: bytes, sequence: int) -> None:
        self.sequences.append(sequence)
        self._latest.append(entry)
        if len(self._latest) == _TOGETHER:
            self._put_together()

    def spliced(self) -> Spliced:
        self._put_together()
        octets = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        return Spliced(octets, len(self.sequences))

    def parts(self, until: int) -> list[Spliced]:
        """Those up to this sequence."""
        self._put_together()
        if until >= self.last:
            counts = [len(self.sequences)] + [0] * len(self._pieces)
            return list(map(Spliced, self._pieces, counts))
        count = bisect_right(self.sequences, until)
        octets, end = b"".join(self._pieces), 0
        for _ in range(count):
            end += 2 + octets[end + 1]  # a SEQUENCE of fewer than 128 octets
        return [Spliced(octets[:end], count)]

    def _put_together(self) -> None:
        if self._latest:
            later, size = [b"".join(self._latest)], sum(map(len, self._latest))
            self._latest.clear()
            while self._pieces and len(self._pieces[-1]) <= size:
                later.append(self._pieces.pop())
                size += len(later[-1])
            self._pieces.append(b"".join(reversed(later)))


class ShardEntries:
    """The entries of one shard of one issuer (or of those of its certificates that belong to none)."""

    def __init__(self) -> None:
        self._by_hour: dict[int, _Run] = {}
        self._held: dict[int, Revoked] = {}
        self._changes: list[_Run] = [_Run()]
        self._changed_holds: dict[int, Revoked] = {}

    def take(self, batch: Iterable[Revoked], base: int) -> None:
        """What happened to certificates, in order; a delta must tell of what came after `base`."""
        by_hour = self._by_hour
        for revoked in batch:
            if self._held or self._changed_holds:
                self._held.pop(revoked.serial, None)
                self._changed_holds.pop(revoked.serial, None)
            if revoked.reason in _MAY_END:
                if revoked.reason == HELD:
                    self._held[revoked.serial] = revoked
                if revoked.sequence > base:
                    self._changed_holds[revoked.serial] = revoked
                continue
            hour = revoked.not_after // HOUR
            if hour not in by_hour:
                by_hour[hour] = _Run()
            by_hour[hour].append(revoked.entry, revoked.sequence)
            if revoked.sequence > base:
                self._changes[-1].append(revoked.entry, revoked.sequence)

    def final(self, published: int, until: int) -> Iterator[Spliced]:
        """Final entries up to this sequence that a list needs whose predecessor was published then (RFC 5280 §3.3)."""
        for hour in sorted(self._by_hour):
            if (hour + 1) * HOUR > published:
                yield from self._by_hour[hour].parts(until)

    def held(self, published: int) -> Iterator[Spliced]:
        """Those that may end, and that the list needs."""
        for held in self._held.values():
            if held.not_after >= published:
                yield Spliced(held.entry, 1)

    def since(self, base: int) -> Iterator[Spliced]:
        """What happened after this sequence of the feed."""
        for run in self._changes:
            if run.last > base:
                yield run.spliced()
        for held in self._changed_holds.values():
            if held.sequence > base:
                yield Spliced(held.entry, 1)

    def count_since(self, base: int) -> int:
        """How many entries `since` has, holds apart."""
        return sum(len(run.sequences) for run in self._changes if run.last > base)

    def published(self, base: int, oldest: int) -> None:
        """Forget what no delta tells any more, since it builds on `base`, and what expired before `oldest`."""
        self._changes = [run for run in self._changes if run.last > base]
        if not self._changes or self._changes[-1].last:
            self._changes.append(_Run())
        self._changed_holds = {serial: item for serial, item in self._changed_holds.items() if item.sequence > base}
        for hour in [hour for hour in self._by_hour if (hour + 1) * HOUR <= oldest]:
            del self._by_hour[hour]
        self._held = {serial: item for serial, item in self._held.items() if item.not_after >= oldest}


def final_of(shards: Mapping[int, ShardEntries], published: int, until: int) -> list[Spliced]:
    """Final entries of several shards, in the order of a list."""
    return [part for number in sorted(shards) for part in shards[number].final(published, until)]


def spliced(parts: Iterable[Spliced]) -> Spliced:
    """All of these as one."""
    found = list(parts)
    return Spliced(b"".join(part.octets for part in found), sum(part.count for part in found))
