from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.backends.aws_kms.answers import (
    KeyDescription,
    octets,
    public_key_of,
    rows,
    signature_of,
    spki,
    text,
    whole_seconds,
)
from services.signer_hsm.errors import BadAnswerError, NotOfferedError

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
P256 = ALGORITHMS["ecdsa-p256"]
PUBLIC = generate_private_key(P256).public_key()
METADATA: dict[str, Any] = {
    "Arn": ARN,
    "KeyUsage": "SIGN_VERIFY",
    "KeySpec": "ECC_NIST_P256",
    "KeyState": "Enabled",
    "Origin": "AWS_KMS",
    "KeyManager": "CUSTOMER",
    "MultiRegion": False,
    "CreationDate": datetime(2030, 1, 1, 12, 0, 0, 999, tzinfo=UTC),
}
PUBLIC_KEY: dict[str, Any] = {
    "KeyId": ARN,
    "KeySpec": "ECC_NIST_P256",
    "KeyUsage": "SIGN_VERIFY",
    "SigningAlgorithms": ["ECDSA_SHA_256"],
    "PublicKey": spki(PUBLIC),
}
SIGNATURE: dict[str, Any] = {"KeyId": ARN, "SigningAlgorithm": "ECDSA_SHA_256", "Signature": b"signature"}


def described() -> KeyDescription:
    """A description of a good answer."""
    return KeyDescription.of({"KeyMetadata": METADATA}, ARN)


def test_a_description_is_read() -> None:
    """Evidence is what AWS says, whole seconds and nothing where it says nothing."""
    found = described()
    assert (found.arn, found.algorithm, found.state, found.deletion_date) == (ARN, P256, "Enabled", None)
    assert found.evidence == {
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomKeyStoreId": None,
        "CloudHsmClusterId": None,
        "MultiRegion": False,
        "KeySpec": "ECC_NIST_P256",
        "CreationDate": 1893499200,
    }


@pytest.mark.parametrize("field", ["Arn", "KeyUsage", "KeySpec", "KeyState", "CreationDate"])
@pytest.mark.parametrize("value", [None, 7, "", b"octets", [], {}])
def test_a_description_with_a_field_that_is_wrong(field: str, value: object) -> None:
    """Missing and mistyped fields are a bad answer, never an exception of another kind."""
    with pytest.raises((BadAnswerError, NotOfferedError)):
        KeyDescription.of({"KeyMetadata": METADATA | {field: value}}, ARN)


@pytest.mark.parametrize("metadata", [None, [], "text", 7])
def test_no_description_at_all(metadata: object) -> None:
    """Likewise."""
    with pytest.raises(BadAnswerError):
        KeyDescription.of({"KeyMetadata": metadata}, ARN)


@pytest.mark.parametrize(
    "change", [{"KeyUsage": "ENCRYPT_DECRYPT"}, {"KeySpec": "ECC_SECG_P256K1"}, {"KeySpec": "SYMMETRIC_DEFAULT"}]
)
def test_keys_that_are_not_for_signatures_of_ours(change: dict[str, str]) -> None:
    """They exist, and are not offered."""
    with pytest.raises(NotOfferedError):
        KeyDescription.of({"KeyMetadata": METADATA | change}, ARN)


def test_a_description_of_another_key() -> None:
    """Asked for one ARN, told of another."""
    with pytest.raises(BadAnswerError, match="another key"):
        KeyDescription.of({"KeyMetadata": METADATA}, ARN + "0")


def test_a_public_key_is_read() -> None:
    """The key itself comes out."""
    assert spki(public_key_of(PUBLIC_KEY, described())) == spki(PUBLIC)


@pytest.mark.parametrize(
    "change",
    [
        {"KeyId": ARN + "0"},
        {"KeyId": None},
        {"KeySpec": "RSA_2048"},
        {"KeyUsage": "KEY_AGREEMENT"},
        {"SigningAlgorithms": []},
        {"SigningAlgorithms": "ECDSA_SHA_256"},
        {"SigningAlgorithms": None},
        {"PublicKey": b""},
        {"PublicKey": "text"},
        {"PublicKey": spki(PUBLIC)[:-1]},
        {"PublicKey": spki(generate_private_key(ALGORITHMS["ecdsa-p384"]).public_key())},
    ],
)
def test_a_public_key_that_is_not_the_key_s(change: dict[str, object]) -> None:
    """Each field has to agree with the description."""
    with pytest.raises(BadAnswerError):
        public_key_of(PUBLIC_KEY | change, described())


def test_a_signature_is_read() -> None:
    """Its octets come out."""
    assert signature_of(SIGNATURE, ARN, "ECDSA_SHA_256") == b"signature"


@pytest.mark.parametrize(
    "change",
    [
        {"KeyId": ARN + "0"},
        {"SigningAlgorithm": "ECDSA_SHA_384"},
        {"SigningAlgorithm": None},
        {"Signature": b""},
        {"Signature": "text"},
        {"Signature": bytes(8193)},
    ],
)
def test_a_signature_that_is_of_something_else(change: dict[str, object]) -> None:
    """Key, algorithm, type and length."""
    with pytest.raises(BadAnswerError):
        signature_of(SIGNATURE | change, ARN, "ECDSA_SHA_256")


def test_fields_that_are_missing_are_named() -> None:
    """By their own name, which is ours to say."""
    for read in (text, octets, rows):
        with pytest.raises(BadAnswerError, match="Field"):
            read({}, "Field")
    wrong: list[object] = [{}, ["text"], [7], None]
    for value in wrong:
        with pytest.raises(BadAnswerError):
            rows({"Field": value}, "Field")
    assert rows({"Field": []}, "Field") == []


def test_times_are_utc_and_whole() -> None:
    """From any time zone; a time without one is none."""
    east = datetime(2030, 1, 1, 2, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert whole_seconds(east) == datetime(2030, 1, 1, tzinfo=UTC)
    for value in (None, 7, "2030", datetime(2030, 1, 1)):  # noqa: DTZ001 - the time without a zone is the test
        with pytest.raises(BadAnswerError):
            whole_seconds(value)
