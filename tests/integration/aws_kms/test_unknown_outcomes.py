"""AWS KMS whose answers get lost: what may have been done is found again, and nothing is made twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import DeadlineError, NotOfferedError
from tests.support.aws_kms_faults import LABEL, P256, opened, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator


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
