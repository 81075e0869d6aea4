"""Answers of AWS KMS that are garbled, or about something else than what was asked, are not believed."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.answers import spki
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import BadAnswerError
from tests.support.aws_kms_account import Fields
from tests.support.aws_kms_faults import LABEL, P256, sign
from tests.support.aws_kms_simulator import AwsKmsSimulator

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
