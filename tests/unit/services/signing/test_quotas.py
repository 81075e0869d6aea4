"""What a tenant may take, and when it may take more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.signing.errors import BusyError, RateLimitedError, VolumeError
from services.signing.quotas import Bucket, Quota, Quotas
from tests.support.clock import ManualClock


class Ledger:
    """Octets by tenant, as records have them; counts the questions."""

    def __init__(self) -> None:
        self.octets = {"acme": 60}
        self.since: list[int] = []

    async def octets_since(self, tenant: str, since: int) -> int:
        """What a tenant has taken since then."""
        self.since.append(since)
        return self.octets.get(tenant, 0)


class Hand:
    """A clock of seconds that is moved by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        """The present."""
        return self.seconds


def quotas(usual: Quota, others: dict[str, Quota] | None = None) -> tuple[Quotas, Ledger, ManualClock, Hand]:
    """Quotas, and what they look at."""
    ledger, clock, hand = Ledger(), ManualClock(), Hand()
    return Quotas(usual, others or {}, ledger.octets_since, clock=clock, monotonic=hand), ledger, clock, hand


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    """The refusal says when the next one is there; time that stands still gives nothing."""
    hand = Hand()
    bucket = Bucket(2.0, 3, hand)
    for _ in range(3):
        bucket.take()
    with pytest.raises(RateLimitedError) as refused:
        bucket.take()
    assert refused.value.retry_after == pytest.approx(0.5)
    hand.seconds += 0.5
    bucket.take()
    with pytest.raises(RateLimitedError):
        bucket.take()
    hand.seconds += 3600.0
    for _ in range(3):
        bucket.take()
    with pytest.raises(RateLimitedError):
        bucket.take()


def test_places_are_given_back_however_a_request_ends() -> None:
    """A failure gives it back, too; a tenant has its own quota where there is one."""
    held, _, _, _ = quotas(Quota(100.0, 100, 1, 0), {"globex": Quota(100.0, 100, 2, 0)})
    with pytest.raises(ValueError, match="failed"), held.place("acme"):
        raise ValueError("failed")
    with held.place("acme"):
        with pytest.raises(BusyError):
            held.place("acme")
        with held.place("globex"), held.place("globex"), pytest.raises(BusyError):
            held.place("globex")
    with held.place("acme"):
        pass


async def test_octets_are_counted_from_the_records_once_a_day() -> None:
    """A refusal counts nothing, says when midnight is, and midnight gives a new day."""
    held, ledger, clock, _ = quotas(Quota(100.0, 100, 10, 100))
    clock.advance(timedelta(hours=23))
    with held.place("acme"):
        await held.take_octets("acme", 40)
        with pytest.raises(VolumeError) as refused:
            await held.take_octets("acme", 1)
        assert refused.value.retry_after == 3600.0
        assert len(ledger.since) == 1
        ledger.octets.clear()
        clock.advance(timedelta(hours=1))
        await held.take_octets("acme", 100)
    assert [since % 86_400 for since in ledger.since] == [0, 0]
