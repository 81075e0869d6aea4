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


class _Use:
    """What one tenant has taken."""

    __slots__ = ("at", "day", "in_flight", "octets", "quota", "tokens")

    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.tokens = float(quota.burst)
        self.at = now
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
        now = self._monotonic()
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use(self._others.get(tenant, self._usual), now)
        quota = use.quota
        if use.in_flight >= quota.in_flight:
            raise BusyError("the tenant has as many requests under way as it may have", _BUSY_SECONDS)
        use.tokens = min(float(quota.burst), use.tokens + max(0.0, now - use.at) * quota.per_second)
        use.at = now
        if use.tokens < 1.0:
            raise RateLimitedError("the tenant sends more requests than it may", (1.0 - use.tokens) / quota.per_second)
        use.tokens -= 1.0
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
