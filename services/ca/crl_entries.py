"""The encoded entries of an issuer's CRLs in memory, spliced together already: nothing is encoded twice.

Final entries lie in one run of octets for each hour in which their certificates expire, so that what has expired is
dropped by the hour. Holds, which may end, are apart; there are few. What changed lies in runs between publications, so
that a delta is those since its base; it may say a little more than what changed since, never less.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from services.ca.revocation_store import HELD, RELEASED, Revoked

_HOUR: Final = 3600
_MAY_END: Final = frozenset({HELD, RELEASED})


@dataclass(slots=True)
class _Run:
    """Entries one after the other; `last` is the sequence of the last one, since sequences only rise."""

    octets: bytearray = field(default_factory=bytearray)
    count: int = 0
    last: int = 0

    def append(self, entry: bytes, sequence: int) -> None:
        self.octets += entry
        self.count += 1
        self.last = sequence


@dataclass(frozen=True, slots=True)
class Spliced:
    """Entries that lie one after the other, and how many there are."""

    octets: bytes | bytearray
    count: int


class ShardEntries:
    """The entries of one shard of one issuer (or of those of its certificates that belong to none)."""

    def __init__(self) -> None:
        self._by_hour: dict[int, _Run] = {}
        self._held: dict[int, Revoked] = {}
        self._changes: list[_Run] = [_Run()]
        self._changed_holds: dict[int, Revoked] = {}

    def take(self, revoked: Revoked, *, changed: bool) -> None:
        """What happened to a certificate; `changed` where a delta must tell of it."""
        if self._held or self._changed_holds:
            self._held.pop(revoked.serial, None)
            self._changed_holds.pop(revoked.serial, None)
        if revoked.reason in _MAY_END:
            if revoked.reason == HELD:
                self._held[revoked.serial] = revoked
            if changed:
                self._changed_holds[revoked.serial] = revoked
            return
        hour = revoked.not_after // _HOUR
        run = self._by_hour.get(hour)
        if run is None:
            run = self._by_hour[hour] = _Run()
        run.append(revoked.entry, revoked.sequence)
        if changed:
            self._changes[-1].append(revoked.entry, revoked.sequence)

    def complete(self, published: int) -> Iterator[Spliced]:
        """Every entry that a list needs whose predecessor was published then (RFC 5280 §3.3)."""
        for hour, run in self._by_hour.items():
            if (hour + 1) * _HOUR > published:
                yield Spliced(run.octets, run.count)
        for held in self._held.values():
            if held.not_after >= published:
                yield Spliced(held.entry, 1)

    def since(self, base: int) -> Iterator[Spliced]:
        """What happened after this sequence of the feed."""
        for run in self._changes:
            if run.last > base:
                yield Spliced(run.octets, run.count)
        for held in self._changed_holds.values():
            if held.sequence > base:
                yield Spliced(held.entry, 1)

    def published(self, base: int, oldest: int) -> None:
        """Forget what no delta tells any more, since it builds on `base`, and what expired before `oldest`."""
        self._changes = [run for run in self._changes if run.last > base]
        if not self._changes or self._changes[-1].count:
            self._changes.append(_Run())
        self._changed_holds = {serial: item for serial, item in self._changed_holds.items() if item.sequence > base}
        for hour in [hour for hour in self._by_hour if (hour + 1) * _HOUR <= oldest]:
            del self._by_hour[hour]
        self._held = {serial: item for serial, item in self._held.items() if item.not_after >= oldest}


def spliced(parts: Iterator[Spliced]) -> Spliced:
    """All of these as one."""
    found = list(parts)
    return Spliced(b"".join(part.octets for part in found), sum(part.count for part in found))
