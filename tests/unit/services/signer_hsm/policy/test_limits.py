"""Rates and requests under way: per tenant, per caller, bounded, and no stranger's business."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.identity import SpiffeId
from services.signer_hsm.errors import BusyError, DeniedByPolicyError, RateLimitedError
from services.signer_hsm.policy import Caller, Decision, OidcSubject, Policy, RateLimits
from services.signer_hsm.policy.limits import MAX_CALLERS

AT = datetime(2030, 1, 1, tzinfo=UTC)


def tenant(name: str, rate: float = 10, burst: int = 20) -> str:
    """A tenant with a rule for its workloads, at half its rate each."""
    return f"""
[[tenants]]
id = "{name}"
backends = ["file"]
max_keys = 1
rate_per_second = {rate}
burst = {burst}
max_in_flight = 2

[[rules]]
id = "{name}-reads"
tenant = "{name}"
callers = ["spiffe://test/{name}/*"]
acts = ["show"]
keys = ["*"]

[[rules]]
id = "{name}-signs"
tenant = "{name}"
callers = ["spiffe://test/{name}/*"]
acts = ["sign"]
keys = ["*"]
kinds = ["digest"]
rate_per_second = {rate / 2}
burst = {burst // 2}

[[rules]]
id = "{name}-jobs"
tenant = "{name}"
subjects = [{{ issuer = "https://ci.test", subject = "job" }}]
acts = ["sign"]
keys = ["*"]
kinds = ["digest"]
rate_per_second = 1
burst = 1
"""


POLICY = Policy.load("version = 1\n" + tenant("a") + tenant("b"))


class Seconds:
    """A monotonic clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def decided(who: str, act: str = "sign", *, tenant: str = "a", policy: Policy = POLICY) -> Decision:
    """The decision about a workload's request."""
    caller = Caller(SpiffeId.parse(f"spiffe://test/{who}"))
    return policy.decide(caller, act, tenant, "k", at=AT, kind="digest", scheme="ES256")  # type: ignore[arg-type] # a test's word


def spent(limits: RateLimits, decision: Decision, most: int = 1000) -> int:
    """How many are granted at once."""
    for number in range(most):
        try:
            limits.take(decision)
        except RateLimitedError:
            return number
    return most


def test_a_caller_has_its_burst_then_its_rate() -> None:
    """Ten at once, then five a second; the error says when the next one is granted."""
    clock = Seconds()
    limits = RateLimits(clock)
    assert spent(limits, decided("a/one")) == 10
    with pytest.raises(RateLimitedError) as refused:
        limits.take(decided("a/one"))
    assert refused.value.retry_after == pytest.approx(0.2)
    clock.now += refused.value.retry_after
    assert spent(limits, decided("a/one")) == 1
    clock.now += 1
    assert spent(limits, decided("a/one")) == 5


def test_all_callers_share_the_tenants_bucket() -> None:
    """Two callers take ten each; then the tenant's twenty are gone, for acts without a rate of their own too."""
    limits = RateLimits(Seconds())
    assert spent(limits, decided("a/one")) == 10
    assert spent(limits, decided("a/two")) == 10
    assert spent(limits, decided("a/three")) == 0
    assert spent(limits, decided("a/three", "show")) == 0


def test_what_the_caller_may_not_take_the_tenant_keeps() -> None:
    """Both buckets give or neither does: a caller over its rate does not drain the others' share."""
    limits = RateLimits(Seconds())
    for _ in range(500):
        try:
            limits.take(decided("a/one"))
        except RateLimitedError:
            continue
    assert spent(limits, decided("a/two")) == 10


def test_no_tenant_takes_from_another() -> None:
    """While A is over its rate, B has its full burst and each second its rate."""
    clock = Seconds()
    limits = RateLimits(clock)
    for _ in range(3):
        spent(limits, decided("a/one"))
        spent(limits, decided("a/two"))
        assert spent(limits, decided("b/one", tenant="b")) >= 5
        clock.now += 1


def test_a_stranger_takes_nothing() -> None:
    """A refusal takes no token and no place, and has no bucket that could be filled."""
    limits = RateLimits(Seconds())
    stranger = decided("b/one", tenant="a")
    for _ in range(100):
        with pytest.raises(DeniedByPolicyError):
            limits.take(stranger)
        with pytest.raises(DeniedByPolicyError), limits.place(stranger):
            raise AssertionError("unreachable")
    assert spent(limits, decided("a/one")) == 10
    assert limits._tenants.keys() == {"a"}


def test_a_batch_takes_as_many_as_it_has() -> None:
    """Eight payloads are eight tokens; a batch larger than the burst waits for a full bucket and leaves a debt."""
    clock = Seconds()
    limits = RateLimits(clock)
    limits.take(decided("a/one"), 8)
    assert spent(limits, decided("a/one")) == 2
    with pytest.raises(RateLimitedError) as refused:
        limits.take(decided("a/one"), 16)
    clock.now += refused.value.retry_after
    limits.take(decided("a/one"), 16)
    with pytest.raises(RateLimitedError) as refused:
        limits.take(decided("a/one"))
    assert refused.value.retry_after == pytest.approx(7 / 5)


def test_a_token_has_one_bucket_whatever_certificate_carries_it() -> None:
    """A subject does not get a fresh bucket by calling through another peer."""
    limits = RateLimits(Seconds())
    subject = OidcSubject("https://ci.test", "job")
    for peer, granted in (("one", 1), ("two", 0)):
        caller = Caller(SpiffeId.parse(f"spiffe://test/peer/{peer}"), subject)
        decision = POLICY.decide(caller, "sign", "a", "k", at=AT, kind="digest", scheme="ES256")
        assert spent(limits, decision) == granted


def test_memory_is_bounded_per_tenant() -> None:
    """Many callers of one tenant push each other's buckets out, never another tenant's."""
    clock = Seconds()
    limits = RateLimits(clock)
    spent(limits, decided("b/one", tenant="b"))
    for number in range(MAX_CALLERS + 100):
        clock.now += 1
        limits.take(decided(f"a/w{number}"))
    assert len(limits._tenants["a"].callers) == MAX_CALLERS
    assert len(limits._tenants["b"].callers) == 1


def test_a_reload_changes_rates_and_fills_nothing() -> None:
    """The new policy's rates hold for the buckets as they are."""
    clock = Seconds()
    limits = RateLimits(clock)
    assert spent(limits, decided("a/one")) == 10
    faster = Policy.load("version = 2\n" + tenant("a", rate=40))
    assert spent(limits, decided("a/one", policy=faster)) == 0
    clock.now += 0.1
    assert spent(limits, decided("a/one", policy=faster)) == 2
    smaller = Policy.load("version = 3\n" + tenant("a", rate=40, burst=4))
    clock.now += 60
    assert spent(limits, decided("a/one", policy=smaller)) == 2


def test_a_clock_that_stands_still_or_goes_back_grants_nothing() -> None:
    """Only time that passes fills a bucket."""
    clock = Seconds()
    limits = RateLimits(clock)
    spent(limits, decided("a/one"))
    clock.now -= 100
    assert spent(limits, decided("a/one")) == 0


def test_places_under_way_are_each_tenants_own() -> None:
    """The third request of a tenant with two places is refused; the other tenant has its own two."""
    limits = RateLimits(Seconds())
    with ExitStack() as held:
        for who in ("a/one", "a/two"):
            held.enter_context(limits.place(decided(who)))
        with pytest.raises(BusyError) as refused, limits.place(decided("a/one")):
            raise AssertionError("unreachable")
        assert refused.value.retry_after == pytest.approx(1)
        with limits.place(decided("b/one", tenant="b")):
            pass
    with limits.place(decided("a/one")):
        pass


def test_a_place_is_given_back_whatever_happens() -> None:
    """A request that fails holds nothing."""
    limits = RateLimits(Seconds())
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), limits.place(decided("a/one")):
            raise ZeroDivisionError


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 64)), max_size=60))
def test_never_more_than_burst_and_rate(steps: list[tuple[float, int]]) -> None:
    """Over any time, what is granted stays within one burst, one largest batch and the rate."""
    clock = Seconds()
    limits = RateLimits(clock)
    granted = 0
    for wait, count in steps:
        clock.now += wait
        try:
            limits.take(decided("a/one"), count)
        except RateLimitedError as refused:
            assert refused.retry_after > 0  # noqa: PT017 - both ends are allowed
        else:
            granted += count
    assert granted <= 10 + 64 + 5 * (clock.now - 1000.0)
