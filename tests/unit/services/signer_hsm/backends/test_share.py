"""Places go round the tenants; none takes them all, none waits without end."""

from __future__ import annotations

import asyncio

import pytest

from services.signer_hsm.backends.share import FairShare
from services.signer_hsm.errors import BusyError


async def _in_line(share: FairShare, tenant: str, done: list[str]) -> None:
    await share.take(tenant)
    done.append(tenant)


async def _waiting(share: FairShare, tenants: str, done: list[str]) -> list[asyncio.Task[None]]:
    """One task per letter, all in line."""
    tasks = [asyncio.create_task(_in_line(share, tenant, done)) for tenant in tenants]
    await asyncio.sleep(0)
    return tasks


async def test_places_are_taken_and_given_back() -> None:
    """A free place is taken at once; given back, it is free again and no tenant is remembered."""
    share = FairShare("hsm", 8, 10)
    await share.take("a")
    assert share.take_at_once("b")
    assert (share.in_use, dict(share.held)) == (2, {"a": 1, "b": 1})
    share.give_back("a")
    share.give_back("b")
    assert (share.in_use, dict(share.held)) == (0, {})


async def test_no_tenant_takes_all_places() -> None:
    """One tenant gets three quarters of the places, and another one's first call finds one at once."""
    share = FairShare("hsm", 8, 10)
    assert [share.take_at_once("greedy") for _ in range(8)] == [True] * 6 + [False] * 2
    assert share.take_at_once("modest")


async def test_a_single_place_is_for_anyone() -> None:
    """With one place a tenant may have it."""
    share = FairShare("hsm", 1, 2)
    assert share.take_at_once("a")
    assert not share.take_at_once("b")
    share.give_back("a")
    assert share.take_at_once("b")


async def test_tenants_take_turns() -> None:
    """However many calls one tenant has in line, the others' come in turn, each tenant's in their order."""
    share = FairShare("hsm", 1, 100)
    await share.take("x")
    done: list[str] = []
    tasks = await _waiting(share, "aaaaabbc", done)
    holder = "x"
    for _ in tasks:
        share.give_back(holder)
        await asyncio.sleep(0)
        holder = done[-1]
    assert "".join(done) == "abcabaaa"
    share.give_back(holder)
    assert (share.in_use, share.waiting) == (0, 0)


async def test_a_bounded_number_waits() -> None:
    """When so many wait, the next one is refused; one tenant's line is full at half of it."""
    share = FairShare("hsm", 1, 4)
    await share.take("x")
    done: list[str] = []
    tasks = await _waiting(share, "aa", done)
    with pytest.raises(BusyError):
        await share.take("a")
    tasks += await _waiting(share, "bc", done)
    with pytest.raises(BusyError) as refusal:
        await share.take("d")
    assert refusal.value.retry_after
    assert share.waiting == 4
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert share.waiting == 0
    share.give_back("x")
    assert share.take_at_once("a")


async def test_who_leaves_loses_no_place() -> None:
    """A caller that leaves the line, even at the moment its turn comes, leaves its place to the next."""
    share = FairShare("hsm", 1, 10)
    await share.take("x")
    done: list[str] = []
    first, second, third = await _waiting(share, "abc", done)
    second.cancel()
    share.give_back("x")  # it is the first one's turn, which gives up before it learns of it
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await third
    assert done == ["c"]
    assert (dict(share.held), share.waiting) == ({"c": 1}, 0)


async def test_a_cancelled_turn_is_passed_over() -> None:
    """A place that comes free between a caller's end and its last words goes to the next in line."""
    share = FairShare("hsm", 1, 10)
    await share.take("x")
    done: list[str] = []
    first, second = await _waiting(share, "ab", done)
    first.cancel()
    share.give_back("x")
    await second
    await asyncio.gather(first, return_exceptions=True)
    assert (done, share.in_use, share.waiting) == (["b"], 1, 0)


async def test_a_full_tenant_does_not_hold_up_others_in_line() -> None:
    """While a tenant at its limit is first in line, the next tenant takes the free place."""
    share = FairShare("hsm", 4, 10)
    for _ in range(3):
        await share.take("greedy")
    done: list[str] = []
    tasks = await _waiting(share, "g", done)
    tasks += [asyncio.create_task(_in_line(share, "greedy", done))]
    await asyncio.sleep(0)
    assert (done, share.in_use) == (["g"], 4)
    tasks += await _waiting(share, "m", done)
    share.give_back("g")
    await asyncio.sleep(0)
    assert done == ["g", "m"]
    share.give_back("greedy")
    await asyncio.gather(*tasks)
    assert done == ["g", "m", "greedy"]
