from __future__ import annotations

import re

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.names import (
    KINDS,
    MESSAGE_TYPES,
    SPECS,
    alias_of,
    check_handle,
    check_raw,
    has_tags,
    key_arn_beside,
    signing_algorithm,
    tags_of,
)
from services.signer_hsm.errors import KeyNotFoundError, NotOfferedError
from services.signer_hsm.schemes import SCHEMES

MODEL = botocore.session.get_session().get_service_model("kms")
REGION = "eu-central-1"
ARN = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
labels = st.builds(
    KeyLabel,
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.integers(1, 10**6),
)


def words(shape: str) -> set[str]:
    """The words that the service model allows."""
    return set(MODEL.shape_for(shape).enum)


def test_all_names_are_words_of_the_service_model() -> None:
    """Specs, message types and signing algorithms."""
    assert set(SPECS.values()) <= words("KeySpec")
    assert set(MESSAGE_TYPES.values()) == words("MessageType")
    assert {signing_algorithm(scheme) for scheme in SCHEMES.values()} <= words("SigningAlgorithmSpec")


def test_every_algorithm_of_the_project_has_a_spec_and_kinds() -> None:
    """Nothing was forgotten when the table grew."""
    assert set(SPECS) == set(ALGORITHMS)
    assert all(ALGORITHMS[name].payload in KINDS[ALGORITHMS[name].family] for name in SPECS)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("ES256", "ECDSA_SHA_256"),
        ("ES512", "ECDSA_SHA_512"),
        ("RS384", "RSASSA_PKCS1_V1_5_SHA_384"),
        ("PS256", "RSASSA_PSS_SHA_256"),
        ("EdDSA", "ED25519_SHA_512"),
        ("ML-DSA-87", "ML_DSA_SHAKE_256"),
    ],
)
def test_signing_algorithms(scheme: str, expected: str) -> None:
    """One per scheme."""
    assert signing_algorithm(SCHEMES[scheme]) == expected


def test_two_schemes_never_share_an_algorithm_but_for_ml_dsa() -> None:
    """An answer's algorithm tells RSA's paddings and hashes apart."""
    names = [signing_algorithm(scheme) for scheme in SCHEMES.values() if scheme.family != "mldsa"]
    assert len(names) == len(set(names))


@given(labels)
def test_every_alias_and_tag_is_one_that_kms_takes(label: KeyLabel) -> None:
    """Characters and lengths, with the longest prefix too."""
    shape = MODEL.operation_model("CreateAlias").input_shape.members["AliasName"]
    alias = alias_of("p" * 64, label)
    assert re.fullmatch(shape.metadata["pattern"], alias)
    assert len(alias) <= shape.metadata["max"]
    for tag in tags_of("p" * 64, label):
        assert re.fullmatch(r"[A-Za-z0-9 _.:/=+@-]*", tag["TagKey"] + tag["TagValue"])
        assert len(tag["TagKey"]) <= 128
        assert len(tag["TagValue"]) <= 256


@given(labels, labels)
def test_different_labels_have_different_names(one: KeyLabel, other: KeyLabel) -> None:
    """No two keys run into each other, by alias or by tags."""
    assert (alias_of("p", one) == alias_of("p", other)) == (one == other)
    assert has_tags(tags_of("p", one), tags_of("p", other)) == (one == other)


def test_more_tags_than_ours_do_no_harm_and_fewer_do() -> None:
    """Others may add tags; one of ours that is missing or differs is another key."""
    wanted = tags_of("p", KeyLabel("ca", "issuing", 1))
    assert has_tags([*wanted, {"TagKey": "cost", "TagValue": "7"}], wanted)
    for at in range(len(wanted)):
        assert not has_tags([*wanted[:at], *wanted[at + 1 :]], wanted)
        assert not has_tags([*wanted[:at], {**wanted[at], "TagValue": "other"}, *wanted[at + 1 :]], wanted)
    assert not has_tags([], wanted)


@pytest.mark.parametrize("arn", [ARN, ARN.replace("arn:aws:", "arn:aws-us-gov:"), ARN.replace("key/", "key/mrk-")])
def test_handles_are_key_arns(arn: str) -> None:
    """Of any partition; multi-Region keys have a prefix."""
    check_handle(arn, REGION)


@pytest.mark.parametrize(
    "handle",
    [
        "",
        ARN.removeprefix("arn:"),
        ARN + "\n",
        ARN.replace("key/", "alias/"),
        ARN.replace(REGION, "us-east-1"),
        ARN.replace("111122223333", "1111"),
        ARN.replace(":kms:", ":s3:"),
        ARN + "/../x",
        ARN + "a" * 200,
    ],
)
def test_everything_else_is_none(handle: str) -> None:
    """And the handle is not repeated in the refusal."""
    with pytest.raises(KeyNotFoundError) as caught:
        check_handle(handle, REGION)
    assert not handle or handle not in str(caught.value)


def test_a_region_is_no_pattern() -> None:
    """The settings' text stands for itself."""
    with pytest.raises(KeyNotFoundError):
        check_handle(ARN, "eu.central.1")


@pytest.mark.parametrize("size", [1, 4096])
def test_messages_that_kms_takes(size: int) -> None:
    """One octet to four thousand and ninety-six."""
    check_raw(bytes(size))


@pytest.mark.parametrize("size", [0, 4097])
def test_messages_that_it_does_not(size: int) -> None:
    """None, and one too many."""
    with pytest.raises(NotOfferedError):
        check_raw(bytes(size))


def test_the_key_behind_an_alias() -> None:
    """Same partition, region and account."""
    alias = f"arn:aws-cn:kms:{REGION}:111122223333:alias/pqcpki/ca/alias/v1"
    assert key_arn_beside(alias, "abc") == f"arn:aws-cn:kms:{REGION}:111122223333:key/abc"
