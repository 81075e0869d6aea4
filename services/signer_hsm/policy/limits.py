"""How much of the service a tenant and a caller may take: token buckets and a count of requests under way.

Only what the policy allowed takes tokens, so strangers drain nobody's bucket. Each tenant has buckets of its own, a
bounded number of them; no tenant's callers can push another's out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from services.signer_hsm.errors import BusyError, RateLimitedError
from services.signer_hsm.policy.decision import Caller, Decision
from services.signer_hsm.policy.rules import RateLimit, SubjectName

MAX_CALLERS: Final = 4096
"""Buckets of callers that are kept per tenant; the one least recently used goes first."""
_BUSY_SECONDS: Final = 1.0


class _Bucket:
    """Fills at the limit's rate up to its burst; a large batch may leave it below zero."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._tokens = float(limit.burst)
        self._at = now

    def wait(self, limit: RateLimit, count: int, now: float) -> float:
        """Seconds until `count` can be taken; 0: now. A batch larger than the burst waits for a full bucket."""
        self._tokens = min(float(limit.burst), self._tokens + max(0.0, now - self._at) * limit.per_second)
        self._at = now
        missing = min(count, limit.burst) - self._tokens
        return max(0.0, missing / limit.per_second)

    def take(self, count: int) -> None:
        """Take what `wait` granted."""
        self._tokens -= count


class _TenantUse:
    """One tenant's buckets and requests under way."""

    __slots__ = ("bucket", "callers", "in_flight")

    def __init__(self) -> None:
        self.bucket: _Bucket | None = None
        self.callers: OrderedDict[tuple[str, str | SubjectName], _Bucket] = OrderedDict()
        self.in_flight = 0

    def tenant_bucket(self, limit: RateLimit, now: float) -> _Bucket:
        """The bucket of all callers together."""
        if self.bucket is None:
            self.bucket = _Bucket(limit, now)
        return self.bucket

    def caller_bucket(self, rule: str, caller: Caller, limit: RateLimit, now: float) -> _Bucket:
        """The bucket of one caller under one rule."""
        place = (rule, caller.principal)
        bucket = self.callers.get(place)
        if bucket is None:
            bucket = self.callers[place] = _Bucket(limit, now)
            if len(self.callers) > MAX_CALLERS:
                self.callers.popitem(last=False)
        self.callers.move_to_end(place)
        return bucket


class Place:
    """A request under way, as a context; a class, since a generator would cost every signature three times as much."""

    __slots__ = ("_use",)

    def __init__(self, use: _TenantUse) -> None:
        self._use = use

    def __enter__(self) -> None:
        """The place was taken before."""

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._use.in_flight -= 1


class RateLimits:
    """What the policy's tenants and callers have taken of late.

    It outlives a policy: a reload changes rates at once and gives nobody a full bucket.

    Args:
        monotonic: seconds that never go back, as `time.monotonic`.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._tenants: dict[str, _TenantUse] = {}

    def take(self, decision: Decision, count: int = 1) -> None:
        """Take `count` (the size of a batch) from the tenant's bucket and the caller's, both or neither.

        Args:
            decision: one that allows.
            count: signatures asked for, or 1.

        Raises:
            RateLimitedError: one of them has not enough; nothing is taken.
            DeniedByPolicyError: the decision does not allow.
        """
        rule = decision.require().matched
        now = self._monotonic()
        use = self._use(decision.tenant)
        limit = RateLimit.of_tenant(decision.policy.tenants[decision.tenant])
        buckets = [(use.tenant_bucket(limit, now), limit)]
        if rule is not None and rule.limit is not None:
            buckets.append((use.caller_bucket(rule.id, decision.caller, rule.limit, now), rule.limit))
        wait = max(bucket.wait(limit, count, now) for bucket, limit in buckets)
        if wait > 0:
            raise RateLimitedError("more requests than the key policy grants", wait)
        for bucket, _ in buckets:
            bucket.take(count)

    def place(self, decision: Decision) -> Place:
        """Take one of the tenant's `max_in_flight` places; the end of its `with` block gives it back.

        Raises:
            BusyError: all are taken.
            DeniedByPolicyError: the decision does not allow.
        """
        most = decision.require().policy.tenants[decision.tenant].max_in_flight
        use = self._use(decision.tenant)
        if use.in_flight >= most:
            raise BusyError("the tenant has as many requests under way as it may have", retry_after=_BUSY_SECONDS)
        use.in_flight += 1
        return Place(use)

    def _use(self, tenant: str) -> _TenantUse:
        use = self._tenants.get(tenant)
        if use is None:
            use = self._tenants[tenant] = _TenantUse()
        return use
