"""AWS KMS that is slow, gone, overloaded or wrong: typed errors in time, and recovery without a restart."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import SystemClock
from services.signer_hsm.backends import BackendKey, KeyLabel
from services.signer_hsm.backends.aws_kms.answers import spki
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES
from tests.support.aws_kms_account import Fields
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated

LABEL = KeyLabel("ca", "issuing", 1)
P256 = ALGORITHMS["ecdsa-p256"]
DEADLINE = 4.0
QUICK = {"deadline_seconds": DEADLINE, "timeout_seconds": 1.0, "connect_timeout_seconds": 1.0}


@pytest.fixture
def simulator() -> Iterator[AwsKmsSimulator]:
    """AWS KMS, simulated."""
    with AwsKmsSimulator() as made:
        yield made
        assert made.broken_replies == []


@asynccontextmanager
async def opened(simulator: AwsKmsSimulator, **changes: object) -> AsyncIterator[AwsKmsBackend]:
    """A back end with short time-outs."""
    backend = await open_simulated(simulator, SystemClock(), **{**QUICK, **changes})
    try:
        yield backend
    finally:
        await backend.aclose()


@pytest.fixture
async def kms(simulator: AwsKmsSimulator) -> AsyncIterator[AwsKmsBackend]:
    """A back end with short time-outs that repeats nothing by itself."""
    async with opened(simulator, attempts=1) as backend:
        yield backend


async def sign(backend: AwsKmsBackend, key: BackendKey) -> bytes:
    """One signature."""
    (signature,) = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    assert isinstance(signature, bytes)
    return signature


# what may have been done


async def test_a_key_whose_creation_got_no_answer_is_found_and_named(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """The connection breaks after CreateKey: the outcome is open, `find` finds the key by its tags and names it."""
    simulator.drop("after", operation="CreateKey")
    with pytest.raises(DeadlineError):
        await kms.create(LABEL, P256)
    assert simulator.account.aliases == {}
    found = await kms.find(LABEL)
    assert found is not None
    assert simulator.account.aliases == {"alias/pqcpki/ca/issuing/v1": found.handle.rpartition("/")[2]}
    again = await kms.find(LABEL)
    assert again is not None
    assert again.handle == found.handle
    assert len(simulator.account.keys) == simulator.calls["CreateKey"] == 1


async def test_the_sdk_never_repeats_the_making_of_a_key(simulator: AwsKmsSimulator) -> None:
    """With attempts left for everything else, CreateKey is sent once, whatever comes back."""
    async with opened(simulator, attempts=3) as backend:
        simulator.fail("KMSInternalException", status=500, operation="CreateKey")
        with pytest.raises(DeadlineError):
            await backend.create(LABEL, P256)
        simulator.delay(30, operation="CreateKey")
        with pytest.raises(DeadlineError):
            await backend.create(LABEL, P256)
    assert simulator.calls["CreateKey"] == 2


async def test_an_alias_whose_answer_was_lost_is_known_as_ours(simulator: AwsKmsSimulator) -> None:
    """The SDK repeats CreateAlias, is told that it exists, and it points to the very key."""
    async with opened(simulator, attempts=2) as backend:
        simulator.drop("after", operation="CreateAlias")
        key = await backend.create(LABEL, P256)
    assert simulator.calls["CreateAlias"] == 2
    assert simulator.account.keys[key.handle.rpartition("/")[2]].state == "Enabled"


@pytest.mark.parametrize("code", ["AccessDeniedException", "KMSInternalException", "ThrottlingException"])
@pytest.mark.parametrize("operation", ["CreateAlias", "GetPublicKey"])
async def test_a_key_that_was_made_half_is_completed_by_find(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, operation: str, code: str
) -> None:
    """Errors that elsewhere mean "nothing was done" mean an open outcome once the key exists."""
    simulator.fail(code, operation=operation, times=100)
    with pytest.raises(DeadlineError):
        await kms.create(LABEL, P256)
    simulator.recover()
    found = await kms.find(LABEL)
    assert found is not None
    assert await sign(kms, found)
    assert len(simulator.account.keys) == len(simulator.account.aliases) == 1


async def test_of_two_nameless_keys_the_oldest_living_one_is_taken(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Keys that wait for deletion do not count, nor do those of other labels and deployments."""
    tags = [
        {"TagKey": key, "TagValue": value}
        for key, value in {"managed-by": "pqcpki", "tenant": "ca", "name": "issuing", "version": "1"}.items()
    ]
    account = simulator.account
    made = []
    for change in ({}, {}, {}, {"tenant": "cb"}, {"managed-by": "another"}):
        rows = [{**row, "TagValue": change.get(row["TagKey"], row["TagValue"])} for row in tags]
        answer = account.create_key({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "Tags": rows})
        made.append(account.keys[answer["KeyMetadata"]["KeyId"]])
    for age, key in enumerate(made):
        key.created -= timedelta(hours=age)
    account.schedule_key_deletion({"KeyId": made[2].key_id})
    found = await kms.find(LABEL)
    assert found is not None
    assert found.handle == made[1].arn


async def test_listings_are_read_to_their_end(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """Aliases and keys come in pages, and the key without alias may be on the last."""
    simulator.account.page = 2
    labels = [KeyLabel("ca", f"key-{number}", 1) for number in range(5)]
    made = [await kms.create(label, P256) for label in labels]
    del simulator.account.aliases["alias/pqcpki/ca/key-4/v1"]
    found = [await kms.find(label) for label in labels]
    assert [key.handle for key in found if key is not None] == [key.handle for key in made]
    assert (simulator.calls["ListAliases"], simulator.calls["ListKeys"]) == (3, 3)


async def test_an_account_with_too_many_keys_of_others_is_not_taken_for_one_without_the_key(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """An answer of "none" would have the key made twice."""
    for _ in range(101):
        simulator.account.create_key({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})
    with pytest.raises(NotOfferedError, match="101 keys"):
        await kms.find(LABEL)
    assert simulator.calls["ListResourceTags"] == 0
    simulator.account.page = 1
    with pytest.raises(NotOfferedError, match="more than"):
        await kms.find(LABEL)


async def test_an_alias_that_appears_meanwhile_is_believed(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """A listing that lags must not have a living key renamed or scheduled for deletion."""
    key = await kms.create(LABEL, P256)
    simulator.fail("NotFoundException", operation="DescribeKey")
    simulator.alter("ListAliases", lambda reply: reply | {"Aliases": []})
    found = await kms.find(LABEL)
    assert found is not None
    assert found.handle == key.handle
    assert simulator.account.key(key.handle).state == "Enabled"


# what is not yet so everywhere


async def test_a_new_key_that_is_not_known_everywhere_yet_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """NotFound just after creation passes."""
    simulator.account.lag = 3
    key = await kms.create(LABEL, P256)
    simulator.account.key(key.handle).hidden_for = 2
    assert await sign(kms, key)


async def test_patience_with_a_new_key_ends_before_the_deadline(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """What does not settle is an open outcome, in time."""
    simulator.account.lag = 10_000
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await kms.create(LABEL, P256)
    assert time.monotonic() - started < DEADLINE


async def test_a_policy_by_tags_that_does_not_know_the_new_key_yet_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """AccessDenied just after creation passes too."""
    simulator.fail("AccessDeniedException", operation="CreateAlias", times=2)
    assert await sign(kms, await kms.create(LABEL, P256))


async def test_a_key_that_was_enabled_a_moment_ago_is_waited_for(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Part of KMS still calls it disabled."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=False)
    await kms.set_enabled(key.handle, enabled=True)
    simulator.fail("DisabledException", operation="Sign", times=2)
    assert await sign(kms, key)


async def test_a_key_that_somebody_else_disabled_is_refused_at_once(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Patience is for our own changes only."""
    key = await kms.create(LABEL, P256)
    simulator.account.disable_key({"KeyId": key.handle})
    with pytest.raises(WrongStateError):
        await sign(kms, key)
    assert simulator.calls["Sign"] == 1


# slow, gone, overloaded


async def test_an_answer_that_comes_too_late_is_a_deadline(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The error comes within the deadline, and the next call works."""
    key = await kms.create(LABEL, P256)
    simulator.delay(5.0, operation="Sign")
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        await sign(kms, key)
    assert time.monotonic() - started < DEADLINE
    assert await sign(kms, key)


async def test_all_attempts_together_stay_within_the_deadline(simulator: AwsKmsSimulator) -> None:
    """Five attempts at an endpoint that never answers take no longer than the deadline, whatever the time-outs say."""
    async with opened(simulator) as usual:
        key = await usual.create(LABEL, P256)
    async with opened(simulator, attempts=5, deadline_seconds=2.0, timeout_seconds=60) as backend:
        simulator.delay(30, operation="Sign", times=100)
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - started < 20  # and not five times 30 s
        assert simulator.calls["Sign"] == 5


async def test_an_endpoint_that_is_gone_and_comes_back(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """Unavailable while it is gone; the same back end signs when it is back."""
    key = await kms.create(LABEL, P256)
    simulator.kill()
    with pytest.raises(UnavailableError) as caught:
        await sign(kms, key)
    assert caught.value.retry_after
    with pytest.raises(UnavailableError):  # nobody was reached, so nothing was made
        await kms.create(KeyLabel("ca", "other", 1), P256)
    assert not (await kms.health()).ready
    simulator.start()
    assert await sign(kms, key)
    assert (await kms.health()).ready


async def test_an_endpoint_killed_in_mid_call(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The waiting caller gets its error when the connection breaks."""
    key = await kms.create(LABEL, P256)
    simulator.delay(30, operation="Sign")
    killer = threading.Timer(0.15, simulator.kill)
    killer.start()
    with pytest.raises(UnavailableError):
        await sign(kms, key)
    await asyncio.to_thread(killer.join)
    simulator.start()
    assert await sign(kms, key)


async def test_a_flapping_endpoint_is_ridden_out_by_the_sdk(simulator: AwsKmsSimulator) -> None:
    """Every second answer is an internal error; two attempts are enough for every call."""
    async with opened(simulator, attempts=2) as backend:
        key = await backend.create(LABEL, P256)
        for _ in range(10):
            simulator.fail("KMSInternalException", status=500, operation="Sign")
            assert await sign(backend, key)


async def test_throttling_says_how_long_to_wait(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """The header's seconds where there are any, one second otherwise."""
    key = await kms.create(LABEL, P256)
    for code, header, seconds in (("ThrottlingException", 7, 7), ("LimitExceededException", None, 1)):
        simulator.fail(code, operation="Sign", retry_after=header)
        with pytest.raises(ThrottledError) as caught:
            await sign(kms, key)
        assert caught.value.retry_after == seconds


async def test_a_full_queue_says_so(simulator: AwsKmsSimulator) -> None:
    """More callers than threads and waiting places are refused at once; the accepted ones are served."""
    async with opened(simulator, attempts=1, workers=1, queue=1) as backend:
        key = await backend.create(LABEL, P256)
        simulator.delay(0.2, operation="Sign", times=2)
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, bytes) for answer in answers) == 2
    assert sum(isinstance(answer, BusyError) for answer in answers) == 3


async def test_a_batch_stops_when_the_back_end_breaks(simulator: AwsKmsSimulator) -> None:
    """What was signed before stays; the rest is not tried one by one."""
    async with opened(simulator, attempts=1, workers=1) as backend:
        key = await backend.create(LABEL, P256)
        simulator.delay(0, operation="Sign", times=3)
        simulator.fail("KMSInternalException", status=500, operation="Sign", times=100)
        answers = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)] * 64)
    assert [isinstance(answer, bytes) for answer in answers] == [True] * 3 + [False] * 61
    assert all(isinstance(answer, UnavailableError) for answer in answers[3:])
    assert simulator.calls["Sign"] == 4


# wrong answers


GARBAGE = (b"", b"{", b"[]", b"null", b"7", b'"text"', b"{}", b"<html></html>", b"\xff\xfe\x00")


@pytest.mark.parametrize("operation", ["Sign", "DescribeKey", "GetPublicKey", "ListAliases", "ScheduleKeyDeletion"])
async def test_garbage_is_a_bad_answer(simulator: AwsKmsSimulator, kms: AwsKmsBackend, operation: str) -> None:
    """Whatever the SDK makes of it, nothing but a BackendError comes out."""
    key = await kms.create(LABEL, P256)
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "Sign": lambda: sign(kms, key),
        "ListAliases": lambda: kms.find(KeyLabel("ca", "other", 1)),
        "ScheduleKeyDeletion": lambda: kms.destroy(key.handle),
        "DescribeKey": lambda: kms.load(key.handle),
        "GetPublicKey": lambda: kms.load(key.handle),
    }
    for raw in GARBAGE:
        simulator.account.key(key.handle).state = "Enabled"
        simulator.garble(raw, operation=operation)
        with pytest.raises(BadAnswerError):
            await acts[operation]()


SIGN_LIES = {
    "another key": ("KeyId", "arn:aws:kms:eu-central-1:111122223333:key/ffffffff-0000-0000-0000-000000000000"),
    "an alias": ("KeyId", "alias/pqcpki/ca/issuing/v1"),
    "another algorithm": ("SigningAlgorithm", "ECDSA_SHA_384"),
    "no signature": ("Signature", ""),
    "not base64": ("Signature", "%%%"),
    "a number": ("Signature", 7),
    "far too long": ("Signature", base64.b64encode(bytes(9000)).decode()),
}


@pytest.mark.parametrize("lie", SIGN_LIES.values(), ids=SIGN_LIES)
async def test_a_signature_of_something_else_is_refused(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, lie: tuple[str, object]
) -> None:
    """Key, algorithm and form of the answer are compared with what was asked."""
    key = await kms.create(LABEL, P256)
    simulator.alter("Sign", lambda reply: reply | dict([lie]))
    with pytest.raises(BadAnswerError):
        await sign(kms, key)


def other_public_key(name: str) -> str:
    """A fresh public key in base64."""
    return base64.b64encode(spki(generate_private_key(ALGORITHMS[name]).public_key())).decode()


PUBLIC_KEY_LIES = {
    "another key": ("KeyId", "arn:aws:kms:eu-central-1:111122223333:key/ffffffff-0000-0000-0000-000000000000"),
    "another spec": ("KeySpec", "ECC_NIST_P384"),
    "another usage": ("KeyUsage", "ENCRYPT_DECRYPT"),
    "other algorithms": ("SigningAlgorithms", ["ECDSA_SHA_384"]),
    "another curve": ("PublicKey", other_public_key("ecdsa-p384")),
    "another family": ("PublicKey", other_public_key("ml-dsa-44")),
    "another key of the same kind": ("PublicKey", other_public_key("ecdsa-p256")),
    "not a key": ("PublicKey", base64.b64encode(b"key").decode()),
}


@pytest.mark.parametrize("lie", PUBLIC_KEY_LIES.values(), ids=PUBLIC_KEY_LIES)
async def test_a_public_key_that_is_not_the_key_s_is_refused(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, lie: tuple[str, object]
) -> None:
    """Spec, usage, algorithms and the key that was seen before have to agree."""
    key = await kms.create(LABEL, P256)
    simulator.alter("GetPublicKey", lambda reply: reply | dict([lie]))
    with pytest.raises(BadAnswerError):
        await kms.load(key.handle)
    assert (await kms.load(key.handle)).handle == key.handle


async def test_a_key_of_another_kind_than_asked_for_is_refused(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """CreateKey says what it made."""

    def lie(reply: Fields) -> Fields:
        return {"KeyMetadata": reply["KeyMetadata"] | {"KeySpec": "RSA_2048"}}

    simulator.alter("CreateKey", lie)
    with pytest.raises(BadAnswerError):
        await kms.create(LABEL, P256)


# who may


async def test_denial_is_typed_and_passes_on_nothing_of_what_aws_said(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """AWS names principals, accounts and resources in its sentence; ours names the operation and the code."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=True)  # no longer new, so denial is not waited out
    simulator.fail("AccessDeniedException", operation="Sign")
    with pytest.raises(DeniedError) as caught:
        await sign(kms, key)
    assert "as told" not in str(caught.value)
    assert "AccessDeniedException" in str(caught.value)
    assert "as told" in str(caught.value.__cause__)


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_clock_that_is_off_is_told_from_a_wrong_secret(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, minutes: int
) -> None:
    """The error names the difference; when the clocks agree again, the back end works."""
    key = await kms.create(LABEL, P256)
    await kms.set_enabled(key.handle, enabled=True)
    simulator.skew = timedelta(minutes=minutes)
    with pytest.raises(DeniedError, match=r"the clock of this machine is (599|60\d) s (ahead of|behind)"):
        await sign(kms, key)
    simulator.skew = timedelta(0)
    assert await sign(kms, key)


# health


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [
        ("AccessDeniedException", 400, "denied"),
        ("ThrottlingException", 400, "throttled"),
        ("KMSInternalException", 500, "unavailable"),
        ("WhatIsThis", 400, "bad-answer"),
    ],
)
async def test_health_tells_why_signing_would_not_work(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, code: str, status: int, cause: str
) -> None:
    """It does not raise, and makes no signature."""
    key = await kms.create(LABEL, P256)
    simulator.fail(code, status=status)
    health = await kms.health()
    assert not health.ready
    assert health.detail["cause"] == cause
    assert (await kms.health()).ready
    assert simulator.account.key(key.handle).signatures == 0


async def test_the_trouble_of_one_key_is_not_that_of_the_back_end(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """A disabled or vanished key is not rehearsed with again."""
    key = await kms.create(LABEL, P256)
    simulator.account.disable_key({"KeyId": key.handle})
    assert (await kms.health()).detail["probe"] == "ListAliases"
    await kms.health()
    assert simulator.calls["Sign"] == 1


async def test_an_endpoint_that_signs_a_rehearsal_is_not_trusted(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """DryRun must not make a signature."""
    await kms.create(LABEL, P256)
    simulator.garble(b'{"KeyId":"x","Signature":"eA==","SigningAlgorithm":"ECDSA_SHA_256"}', operation="Sign")
    health = await kms.health()
    assert (health.ready, health.detail["cause"]) == (False, "bad-answer")


# states that only the service can bring about


@pytest.mark.parametrize(
    ("state", "error"),
    [("PendingImport", WrongStateError), ("Unavailable", UnavailableError), ("Updating", WrongStateError)],
)
async def test_other_key_states(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, state: str, error: type[BackendError]
) -> None:
    """A key store that is not connected is an outage; other states are the key's own."""
    key = await kms.create(LABEL, P256)
    simulator.account.key(key.handle).state = state
    with pytest.raises(error):
        await sign(kms, key)


async def test_a_disabled_key_that_was_never_seen_shows_no_public_key(simulator: AwsKmsSimulator) -> None:
    """KMS gives none out, and a key without one is of no use to anybody."""
    async with opened(simulator, attempts=1) as backend:
        key = await backend.create(LABEL, P256)
        await backend.set_enabled(key.handle, enabled=False)
    async with opened(simulator, attempts=1) as reopened:
        with pytest.raises(WrongStateError):
            await reopened.load(key.handle)
        await reopened.set_enabled(key.handle, enabled=True)
        assert (await reopened.load(key.handle)).enabled


async def test_a_key_is_gone_after_its_window_and_destroying_it_again_is_final(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """What KMS no longer knows, though we made it, is destroyed for good."""
    key = await kms.create(LABEL, P256)
    first = await kms.destroy(key.handle)
    simulator.account.key(key.handle).deletion_date = SystemClock().now() - timedelta(seconds=1)
    last = await kms.destroy(key.handle)
    assert (first.final, last.final) == (False, True)
    assert last.proof["code"] == "NotFoundException"
    with pytest.raises(KeyNotFoundError):
        await kms.load(key.handle)
    assert await kms.find(LABEL) is None


async def test_a_new_key_that_is_not_known_everywhere_is_not_taken_for_destroyed(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """NotFound of a key that was just made proves nothing."""
    key = await kms.create(LABEL, P256)
    simulator.fail("NotFoundException", operation="ScheduleKeyDeletion", times=1000)
    with pytest.raises(KeyNotFoundError):
        await kms.destroy(key.handle)


async def test_a_deletion_that_was_cancelled_in_aws_is_ordered_anew(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Repeating `destroy` brings about what was asked, with the date that now holds."""
    key = await kms.create(LABEL, P256)
    await kms.destroy(key.handle)
    simulator.account.cancel_key_deletion({"KeyId": key.handle})
    again = await kms.destroy(key.handle)
    assert "RequestId" in again.proof
    assert simulator.account.key(key.handle).state == "PendingDeletion"
