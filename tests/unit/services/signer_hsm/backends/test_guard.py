"""One deadline, safe repetitions, the breaker, fair shares, checked signatures, and what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.backends import Backend, BackendHealth, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.settings import FileSettings
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
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES
from tests.support.hang import GENEROUS, Hang
from tests.support.payloads import check_signature, payload_of
from tests.support.scripted_backend import ScriptedBackend

LABEL = KeyLabel("bank", "issuing", 1)
ES256 = SCHEMES["ES256"]
ROW = ALGORITHMS["ecdsa-p256"]
SHORT = 0.05
MESSAGES = [b"first", b"second", b"third"]


class Guarded:
    """A scripted back end behind a guard, with its own metrics and a clock that the test moves."""

    def __init__(self, backend: ScriptedBackend | None = None, **changes: Any) -> None:  # noqa: ANN401 - settings
        self.backend = backend or ScriptedBackend()
        self.now = 0.0
        fields = {
            "name": self.backend.name,
            "type": "file",
            "directory": "/nowhere",
            "passphrase_file": "/nowhere/passphrase",
            "deadline_seconds": 60,
            "breaker_failures": 3,
            "breaker_seconds": 5,
        }
        self.registry = CollectorRegistry()
        settings = FileSettings.model_validate(fields | changes)
        self.guard = GuardedBackend(self.backend, settings, SignerMetrics(self.registry), monotonic=lambda: self.now)

    async def sign(
        self, tenant: str = "bank", messages: Sequence[bytes] = (b"first",), *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Signatures over the messages."""
        payloads = [payload_of(self.backend.key.public_key, ES256, "digest", message) for message in messages]
        return await self.guard.sign("handle", ES256, "digest", payloads, tenant=tenant, once=once)

    def sample(self, name: str, **labels: str) -> float | None:
        """The value of a metric of this back end."""
        return self.registry.get_sample_value(name, {"backend": self.backend.name, **labels})


async def _for_ever() -> None:
    await asyncio.Event().wait()


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
        made.backend.script.append(_for_ever)
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


async def test_wrong_signatures_are_found_out() -> None:
    """A signature that does not verify is a bad answer, counts as a failure of the back end, and is not repeated."""
    made = Guarded(verify=True)
    made.backend.answers = [[b"\x30\x00"]]
    with pytest.raises(BadAnswerError):
        await made.sign()
    assert made.backend.calls.count("sign") == 1
    assert made.sample("signer_signatures_total", scheme="ES256", result="failure") == 1
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "bad-answer"}) == 1


async def test_one_wrong_signature_of_many() -> None:
    """In a batch the wrong one is replaced by its error in its place, the others stand."""
    made = Guarded(verify=True)
    good = await made.sign(messages=MESSAGES)
    made.backend.answers = [[good[0], good[0], good[2]]]
    answers = await made.sign(messages=MESSAGES)
    assert isinstance(answers[1], BadAnswerError)
    assert (answers[0], answers[2]) == (good[0], good[2])
    assert made.sample("signer_signatures_total", scheme="ES256", result="success") == 5
    assert made.sample("signer_signatures_total", scheme="ES256", result="failure") == 1


async def test_all_wrong_is_a_failure_of_the_back_end() -> None:
    """When each signature of a batch is wrong the batch is, and so often that the breaker opens."""
    made = Guarded(verify=True, breaker_failures=1)
    good = await made.sign(messages=MESSAGES)
    made.backend.answers = [[good[1], good[2], good[0]]]
    with pytest.raises(BadAnswerError):
        await made.sign(messages=MESSAGES)
    assert made.guard.breaker.state == "open"


async def test_the_callers_public_key_decides() -> None:
    """Signatures are verified against the key that the service has on record, where it says which."""
    made = Guarded(verify=True)
    other = generate_private_key(ROW).public_key()
    digest = payload_of(other, ES256, "digest", b"first")
    with pytest.raises(BadAnswerError):
        await made.guard.sign("handle", ES256, "digest", [digest], public_key=other)
    assert "load" not in made.backend.calls


async def test_the_back_ends_public_key_is_asked_once() -> None:
    """Without a key on record the back end is asked for it, once."""
    made = Guarded(verify=True)
    for _ in range(3):
        await made.sign()
    assert made.backend.calls == ["load", "sign", "sign", "sign"]


async def test_signatures_are_passed_unverified_where_the_settings_say_so() -> None:
    """Without `verify` the consumer's own check has to do."""
    made = Guarded(verify=False)
    made.backend.answers = [[b"anything"]]
    assert await made.sign() == [b"anything"]


@pytest.mark.parametrize("answers", [[], [b"a", b"b"], [b""], [None], ["text"]])
async def test_answers_of_the_wrong_shape(answers: Any) -> None:  # noqa: ANN401 - garbage
    """Too few, too many, empty or strange signatures are a bad answer even when nothing is verified."""
    made = Guarded(verify=False)
    made.backend.answers = [answers]
    with pytest.raises(BadAnswerError):
        await made.sign()


async def test_when_each_payload_failed_so_did_the_operation() -> None:
    """A batch of which nothing could be signed is told by its first error."""
    made = Guarded()
    made.backend.answers = [[WrongStateError("disabled"), ThrottledError("x")]]
    with pytest.raises(WrongStateError, match="disabled"):
        await made.sign(messages=MESSAGES[:2])


async def test_one_tenant_does_not_fill_the_back_end() -> None:
    """While one tenant's calls hang and more of them wait, another tenant's call is served at once."""
    made = Guarded(workers=1, queue=8)
    made.backend.script = [_for_ever] * 3
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


async def test_metrics_of_an_operation() -> None:
    """Latency, failures by class, pool use and signatures are counted per back end."""
    made = Guarded(workers=3)
    made.backend.script = [None, DeniedError("x")]
    await made.sign()
    with pytest.raises(DeniedError):
        await made.sign()
    assert made.sample("signer_backend_seconds_count", operation="sign") == 2
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "denied"}) == 1
    assert made.sample("signer_signatures_total", scheme="ES256", result="success") == 1
    assert made.sample("signer_signatures_total", scheme="ES256", result="failure") == 1
    assert made.sample("signer_backend_workers") == 3
    assert made.sample("signer_backend_in_use") == 0


async def test_refused_calls_do_not_count_as_quick_ones() -> None:
    """What never reached the back end is a failure, but no latency of the back end."""
    made = Guarded(breaker_failures=1)
    made.backend.script = [DeadlineError("x")]
    for _ in range(5):
        with pytest.raises((DeadlineError, UnavailableError)):
            await made.sign()
    assert made.sample("signer_backend_seconds_count", operation="sign") == 1
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "unavailable"}) == 4


async def test_health_is_asked_once_for_all() -> None:
    """Those who ask within a second share one answer, which the metrics keep."""
    made = Guarded()
    made.backend.state = BackendHealth(False, {"sealed": True, "token_ttl_seconds": 42})
    answers = await asyncio.gather(*(made.guard.health() for _ in range(20)))
    assert made.backend.calls == ["health"]
    assert {answer.ready for answer in answers} == {False}
    assert made.sample("vault_sealed") == 1
    assert made.sample("vault_token_ttl_seconds") == 42
    assert made.sample("signer_backend_ready") == 0
    made.now += 1
    made.backend.state = BackendHealth(True, {"sealed": False})
    health = await made.guard.health()
    assert health.ready
    assert health.detail == {"sealed": False, "breaker": "closed"}
    assert made.sample("vault_sealed") == 0
    assert made.sample("signer_backend_ready") == 1


@pytest.mark.parametrize(
    ("error", "ready"), [(UnavailableError("x"), False), (DeniedError("x"), False), (BusyError("x"), True)]
)
async def test_health_never_raises(error: BackendError, ready: bool) -> None:  # noqa: FBT001 - a table's column
    """A back end that cannot be asked is not ready; one that is merely busy is."""
    made = Guarded()
    made.backend.script = [error]
    health = await made.guard.health()
    assert (health.ready, health.detail["problem"]) == (ready, error.cause)


async def test_health_has_a_deadline() -> None:
    """A back end that does not answer the question is not ready."""
    made = Guarded(deadline_seconds=SHORT)
    made.backend.script = [_for_ever]
    health = await made.guard.health()
    assert (health.ready, health.detail["problem"]) == (False, "deadline")


CUT = UnavailableError("cut", uncertain=True)


async def test_a_signature_that_must_be_made_once_is_not_asked_for_again_when_it_may_exist() -> None:
    """After a connection that broke off the caller gets the error; without `once` the guard asks again."""
    made = Guarded()
    made.backend.script = [CUT]
    with pytest.raises(UnavailableError) as caught:
        await made.sign(once=True)
    assert caught.value.uncertain
    made.backend.script = [CUT]
    await made.sign()
    assert made.backend.calls == ["sign"] * 3


async def test_a_signature_that_must_be_made_once_is_asked_for_again_when_nothing_was_done() -> None:
    """Refused connections and throttling are repeated in any case, up to the first uncertain failure."""
    made = Guarded()
    made.backend.script = [UnavailableError("refused"), ThrottledError("slow down"), None]
    assert len(await made.sign(once=True)) == 1
    made.backend.script = [UnavailableError("refused"), CUT]
    with pytest.raises(UnavailableError) as caught:
        await made.sign(once=True)
    assert caught.value.uncertain
    assert made.backend.calls == ["sign"] * 5


async def test_a_batch_of_failures_is_uncertain_if_one_of_them_is() -> None:
    """The error that stands for all says so, whatever the first one was."""
    made = Guarded()
    made.backend.answers = [[ThrottledError("slow down"), CUT]]
    with pytest.raises(UnavailableError) as caught:
        await made.sign(messages=(b"one", b"two"), once=True)
    assert caught.value is CUT


async def test_a_public_key_that_is_not_to_be_had_is_missed_before_anything_is_signed() -> None:
    """The key for the check comes first: its lack is a certain failure, not a hidden signature."""
    made = Guarded(verify=True)
    made.backend.script = [DeadlineError("no public key")]
    with pytest.raises(DeadlineError) as caught:
        await made.sign(once=True)
    assert not caught.value.uncertain
    assert made.backend.calls == ["load"]
