"""What a guard does with signatures: it verifies them, and asks once where they must be made once."""

from __future__ import annotations

from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.errors import (
    BadAnswerError,
    DeadlineError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES
from tests.support.guarded import Guarded
from tests.support.payloads import payload_of

ES256 = SCHEMES["ES256"]
ROW = ALGORITHMS["ecdsa-p256"]
MESSAGES = [b"first", b"second", b"third"]


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
