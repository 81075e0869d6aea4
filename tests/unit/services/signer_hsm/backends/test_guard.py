"""One deadline, safe repetitions, the breaker, fair shares, and hung back ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    MisconfiguredError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES
from tests.support.guarded import Guarded, for_ever
from tests.support.hang import GENEROUS, Hang
from tests.support.payloads import check_signature
from tests.support.scripted_backend import ScriptedBackend

LABEL = KeyLabel("bank", "issuing", 1)
ES256 = SCHEMES["ES256"]
ROW = ALGORITHMS["ecdsa-p256"]
SHORT = 0.05


def test_a_guard_is_a_back_end() -> None:
    """Whoever needs a back end can be given a guard."""
    made = Guarded()
    backend: Backend = made.guard
    assert (backend.name, backend.type) == ("scripted", "file")
    assert (backend.offers, backend.imports) == (made.backend.offers, made.backend.imports)


async def test_acts_reach_the_back_end_once() -> None:
    """Each act is passed on, and its answer back."""
    made = Guarded()
    assert await made.guard.create(LABEL, ROW) is made.backend.key
    assert await made.guard.import_key(LABEL, made.backend.private_key) is made.backend.key
    assert await made.guard.find(LABEL) is made.backend.key
    assert await made.guard.load("handle") is made.backend.key
    assert (await made.guard.attest("handle")).claims == {"colour": "green"}
    await made.guard.set_enabled("handle", enabled=False)
    check_signature(made.backend.key.public_key, ES256, (await made.sign())[0], b"first")
    await made.guard.aclose()
    assert made.backend.calls == ["create", "import", "find", "load", "attest", "disable", "sign", "aclose"]


async def test_one_deadline_for_the_whole_operation() -> None:
    """A back end that does not answer is given up after the deadline, and its place is free again."""
    made = Guarded(deadline_seconds=SHORT, workers=1, queue=1)
    for _ in range(2):
        made.backend.script.append(for_ever)
        with pytest.raises(DeadlineError):
            await made.sign()
    assert await made.sign()
    assert made.backend.calls == ["sign"] * 3
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "deadline"}) == 2


async def test_making_a_key_may_take_longer() -> None:
    """A creation has a longer deadline than a signature, which the guard tells."""
    made = Guarded(deadline_seconds=SHORT)
    made.backend.script.append(lambda: asyncio.sleep(2 * SHORT))
    assert await made.guard.create(LABEL, ROW) is made.backend.key
    assert made.guard.create_seconds >= 10 * SHORT


@pytest.mark.parametrize("error", [UnavailableError("x"), ThrottledError("x", retry_after=0.001)])
@pytest.mark.parametrize("act", ["sign", "find", "load", "attest"])
async def test_what_is_safe_is_repeated(act: str, error: BackendError) -> None:
    """Signing and reading are tried again when the back end did nothing, twice at most."""
    made = Guarded()
    acts: dict[str, Callable[[], Any]] = {
        "sign": made.sign,
        "find": lambda: made.guard.find(LABEL),
        "load": lambda: made.guard.load("handle"),
        "attest": lambda: made.guard.attest("handle"),
    }
    made.backend.script = [error, error]
    assert await acts[act]()
    assert made.backend.calls == [act] * 3
    made.backend.script = [error, error, error]
    with pytest.raises(type(error)):
        await acts[act]()
    assert made.backend.calls == [act] * 6


async def test_what_changes_keys_is_asked_once() -> None:
    """Creating, importing, enabling, disabling and destroying are never repeated by the guard."""
    made = Guarded(breaker_failures=100)
    acts: list[Callable[[], Any]] = [
        lambda: made.guard.create(LABEL, ROW),
        lambda: made.guard.import_key(LABEL, made.backend.private_key),
        lambda: made.guard.set_enabled("handle", enabled=True),
        lambda: made.guard.set_enabled("handle", enabled=False),
        lambda: made.guard.destroy("handle"),
    ]
    for act in acts:
        made.backend.script = [UnavailableError("x")]
        with pytest.raises(UnavailableError):
            await act()
    assert made.backend.calls == ["create", "import", "enable", "disable", "destroy"]


@pytest.mark.parametrize("error", [DeniedError, KeyNotFoundError, WrongStateError, BadAnswerError, DeadlineError])
async def test_other_errors_are_not_repeated(error: type[BackendError]) -> None:
    """A refusal stands, and what may have been done is not done twice."""
    made = Guarded()
    made.backend.script = [error("x")]
    with pytest.raises(error):
        await made.sign()
    assert made.backend.calls == ["sign"]


async def test_no_repetition_beyond_the_deadline() -> None:
    """When the back end asks for more patience than the deadline has, its error is told at once."""
    made = Guarded(deadline_seconds=5)
    made.backend.script = [ThrottledError("x", retry_after=100.0)]
    with pytest.raises(ThrottledError) as refusal:
        await made.sign()
    assert refusal.value.retry_after == 100.0
    assert made.backend.calls == ["sign"]


async def test_an_open_breaker_spares_the_back_end() -> None:
    """After so many failures the back end is left alone; then one call tries, and its success lets all through."""
    made = Guarded()
    for _ in range(3):
        made.backend.script = [DeadlineError("x")]
        with pytest.raises(DeadlineError):
            await made.sign()
    with pytest.raises(UnavailableError, match="left alone"):
        await made.sign()
    assert len(made.backend.calls) == 3
    assert made.sample("signer_breaker_state") == 2
    made.now += 5
    assert made.sample("signer_breaker_state") == 1
    assert await made.sign()
    assert made.sample("signer_breaker_state") == 0


async def test_a_wrong_pin_is_never_tried_again() -> None:
    """After a configuration error nothing reaches the back end any more, the question for its health neither."""
    made = Guarded()
    made.backend.script = [MisconfiguredError("the PIN is wrong")]
    for _ in range(5):
        made.now += 1000
        with pytest.raises(MisconfiguredError, match="the PIN is wrong"):
            await made.sign()
        health = await made.guard.health()
        assert not health.ready
        assert (health.detail["problem"], health.detail["reason"]) == ("misconfigured", "the PIN is wrong")
    assert made.backend.calls == ["sign"]
    made.guard.breaker.reset()
    assert await made.sign()


async def test_faults_of_ours_pass_and_hold_nothing() -> None:
    """An exception that is no back end's comes through as it is, and its place is free again."""

    async def bug() -> None:
        raise ZeroDivisionError

    made = Guarded(workers=1, queue=1)
    for _ in range(5):
        made.backend.script = [bug]
        with pytest.raises(ZeroDivisionError):
            await made.sign()
    assert await made.sign()


async def test_one_tenant_does_not_fill_the_back_end() -> None:
    """While one tenant's calls hang and more of them wait, another tenant's call is served at once."""
    made = Guarded(workers=1, queue=8)
    made.backend.script = [for_ever] * 3
    hanging = [asyncio.create_task(made.sign("greedy")) for _ in range(7)]
    await asyncio.sleep(0)
    async with asyncio.timeout(GENEROUS):
        assert await made.sign("modest")
    assert made.backend.calls == ["sign"] * 4
    with pytest.raises(BusyError):
        await made.sign("greedy")
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await made.sign("greedy")


async def test_waiting_for_a_turn_ends_in_time() -> None:
    """Whose turn does not come in half of the deadline is told that it is busy here; the back end is not to blame."""
    made = Guarded(workers=1, queue=1, deadline_seconds=SHORT, breaker_failures=2)
    made.backend.script = [lambda: asyncio.sleep(GENEROUS)] * 2
    results = await asyncio.gather(*(made.sign("bank") for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineError, BusyError]
    assert made.backend.calls == ["sign"]
    assert made.guard.breaker.state == "closed"


async def test_a_hung_back_end_slows_no_other() -> None:
    """While eight calls of one back end hang in its threads, another one's forty are served and the loop stays free."""
    hang = Hang()
    hung = ScriptedBackend("hung", lane=Lane("hung", 4, 8))
    hung.script = [lambda: hung.lane.run(hang.call)] * 8
    well = ScriptedBackend("well", lane=Lane("well", 2, 64))
    well.script = [lambda: well.lane.run(time.sleep, 0.001)] * 40
    bad, good = Guarded(hung, workers=4, queue=8), Guarded(well, workers=2, queue=64)
    hanging = [asyncio.create_task(bad.sign(tenant)) for tenant in "abababab"]
    await hang.has_begun(4)
    watch = asyncio.create_task(_longest_turn(40))
    async with asyncio.timeout(GENEROUS):
        results = await asyncio.gather(*(good.sign("ab"[number % 2]) for number in range(40)))
    assert len(results) == 40
    assert not any(task.done() for task in hanging)
    assert await watch < 5  # the hang itself has no end
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert hung.lane.exhausted
    assert bad.sample("signer_backend_stuck_workers") == 4
    assert not (await bad.guard.health()).ready
    assert (await good.guard.health()).ready
    hang.gate.set()
    async with asyncio.timeout(GENEROUS):
        while bad.sample("signer_backend_stuck_workers"):  # noqa: ASYNC110 - threads tell nobody when they end
            await asyncio.sleep(0.01)
    await asyncio.gather(hung.lane.aclose(), well.lane.aclose())


async def _longest_turn(turns: int) -> float:
    """Seconds that the event loop was away at most, over some turns of a millisecond."""
    loop = asyncio.get_running_loop()
    longest = 0.0
    for _ in range(turns):
        begun = loop.time()
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - begun)
    return longest


async def test_a_hung_back_end_sheds_and_recovers() -> None:
    """Calls to a hung back end end within their deadline, later ones are refused at once, and it recovers by itself."""
    hang = Hang()
    backend = ScriptedBackend(lane=Lane("scripted", 2, 2))
    backend.script = [lambda: backend.lane.run(hang.call)] * 20
    made = Guarded(backend, workers=2, queue=2, deadline_seconds=0.5)
    async with asyncio.timeout(GENEROUS):
        results = await asyncio.gather(*(made.sign("abcd"[number % 4]) for number in range(12)), return_exceptions=True)
    assert {type(result) for result in results} <= {DeadlineError, BusyError, UnavailableError}
    assert sum(isinstance(result, DeadlineError) for result in results) >= 3
    with pytest.raises(UnavailableError, match="left alone"):
        await made.sign()
    hang.gate.set()
    async with asyncio.timeout(GENEROUS):
        while backend.lane.in_use:  # noqa: ASYNC110 (the lane offers no event)
            await asyncio.sleep(0.001)
    made.now += 5
    assert await made.sign()
    assert (await made.guard.health()).ready
    await backend.lane.aclose()
