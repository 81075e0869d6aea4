"""How much of the service a tenant may take: requests in a second, requests under way, octets in a day.

Only who was let in takes anything. Rates and places are this process's; the octets of a day are counted anew from the
records at the first request after a start, so a restart gives nobody a second day.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from pkicore.clock import Clock, unix
from services.signing.errors import BusyError, RateLimitedError, VolumeError

_DAY: Final = 86_400
_BUSY_SECONDS: Final = 1.0


class Quota(NamedTuple):
    """What one tenant may take.

    Attributes:
        per_second: requests, in the long run.
        burst: requests at once.
        in_flight: requests under way.
        bytes_per_day: octets that come and are kept between two midnights (UTC).
    """

    per_second: float
    burst: int
    in_flight: int
    bytes_per_day: int


class Place:
    """A request under way, as a context."""

    __slots__ = ("_use",)

    def __init__(self, use: _Use) -> None:
        self._use = use

    def __enter__(self) -> None:
        """The place was taken before."""

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._use.in_flight -= 1


class Bucket:
    """So many requests at once, and so many a second in the long run.

    Args:
        per_second: in the long run.
        burst: at once.
        monotonic: seconds that never go back.
    """

    __slots__ = ("_at", "_burst", "_monotonic", "_per_second", "_tokens")

    def __init__(self, per_second: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._tokens = self._burst
        self._at = monotonic()

    def take(self) -> None:
        """Take one.

        Raises:
            RateLimitedError: there is none now.
        """
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            raise RateLimitedError("more requests than are granted", (1.0 - self._tokens) / self._per_second)
        self._tokens -= 1.0


class _Use:
    """What one tenant has taken."""

    __slots__ = ("bucket", "day", "in_flight", "octets", "quota")

    def __init__(self, quota: Quota, monotonic: Callable[[], float]) -> None:
        self.quota = quota
        self.bucket = Bucket(quota.per_second, quota.burst, monotonic)
        self.in_flight = 0
        self.day = -1
        self.octets = 0


class Quotas:
    """What the tenants take.

    Args:
        usual: the quota of whoever has none of its own.
        others: by tenant.
        octets_since: octets that a tenant's records hold since a moment (Unix seconds).
        clock: the day.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        usual: Quota,
        others: Mapping[str, Quota],
        octets_since: Callable[[str, int], Awaitable[int]],
        *,
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        self._usual = usual
        self._others = others
        self._octets_since = octets_since
        self._clock = clock
        self._monotonic = monotonic
        self._uses: dict[str, _Use] = {}

    def place(self, tenant: str) -> Place:
        """One request: `with quotas.place(tenant):`.

        Raises:
            RateLimitedError: too many in a short time.
            BusyError: too many under way.
        """
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use(self._others.get(tenant, self._usual), self._monotonic)
        if use.in_flight >= use.quota.in_flight:
            raise BusyError("the tenant has as many requests under way as it may have", _BUSY_SECONDS)
        use.bucket.take()
        use.in_flight += 1
        return Place(use)

    async def take_octets(self, tenant: str, count: int) -> None:
        """Count what came or is about to be kept; the tenant has a place.

        Raises:
            VolumeError: more than the tenant may have in a day; nothing is counted.
            DatabaseError: what it has taken today is not known.
        """
        use, now = self._uses[tenant], unix(self._clock.now())
        day = now // _DAY
        if use.day != day:
            octets = await self._octets_since(tenant, day * _DAY)
            if use.day != day:  # nobody else has looked meanwhile
                use.day, use.octets = day, octets
        if use.octets + count > use.quota.bytes_per_day:
            raise VolumeError("the tenant has as many octets today as it may have", float((day + 1) * _DAY - now))
        use.octets += count
