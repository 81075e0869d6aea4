import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.vsa.v1.vsa_pb2 import (  # type: ignore[import-untyped]  # ships no types
    VerificationSummary as Oracle,
)
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]  # ships no types
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]  # ships no types

from pkicore.errors import MalformedError
from services.signing.statements import (
    MAX_SUBJECTS,
    STATEMENT_TAIL,
    VSA_TYPE,
    Attestation,
    Subject,
    VerificationSummary,
    checked_uri,
    read_subjects,
    statement,
    statement_chunks,
    statement_head,
)

_A, _B = "ab" * 32, "cd" * 32
_TYPE = "https://example.com/predicate/v1"
_PREDICATE = b' { "x" : 1.0, "\\u0061": [ ] ,"x:y":"\xc3\xa4"}\n'


def _subject(name: str = "app", sha256: str = _A) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}


def _by_the_oracle(data: bytes) -> Any:  # noqa: ANN401 - a protobuf message, made at run time
    message = json_format.Parse(data, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    return message


def test_a_statement_is_one_to_others() -> None:
    """in-toto's own library reads subjects, type and predicate out of it and finds it valid."""
    subjects = read_subjects([_subject(), _subject("lib", _B) | {"digest": {"sha256": _B, "sha512": "ef" * 64}}])
    message = _by_the_oracle(statement(subjects, _TYPE, _PREDICATE))
    assert [(one.name, dict(one.digest)) for one in message.subject] == [
        ("app", {"sha256": _A}),
        ("lib", {"sha256": _B, "sha512": "ef" * 64}),
    ]
    assert message.predicate_type == _TYPE
    assert message.predicate["x:y"] == "\N{LATIN SMALL LETTER A WITH DIAERESIS}"


def test_the_predicate_is_spliced_byte_for_byte(tmp_path: Path) -> None:
    """Bytes, file and stream give the same statement, and the predicate stands in it as it was."""
    subjects = read_subjects([_subject()])
    whole = statement(subjects, _TYPE, _PREDICATE)
    assert whole == statement_head(subjects, _TYPE) + _PREDICATE + STATEMENT_TAIL
    path = tmp_path / "predicate"
    path.write_bytes(_PREDICATE)
    assert b"".join(statement_chunks(subjects, _TYPE, path)) == whole


def test_a_large_predicate_goes_through_in_small_chunks(tmp_path: Path) -> None:
    """No chunk of a predicate of 1 MiB is longer than 64 KiB."""
    path = tmp_path / "predicate"
    path.write_bytes(b'{"x": "' + b"y" * (1 << 20) + b'"}')
    chunks = list(statement_chunks(read_subjects([_subject()]), _TYPE, path))
    assert max(map(len, chunks)) == 64 * 1024
    assert json.loads(b"".join(chunks))["predicate"] == {"x": "y" * (1 << 20)}


def test_a_name_cannot_break_out_of_its_string() -> None:
    """Quotes and backslashes in a name are escaped."""
    name = '", "digest": {}}], "predicateType": "\\'
    assert _by_the_oracle(statement(read_subjects([_subject(name)]), _TYPE, b'{"a":1}')).subject[0].name == name


@pytest.mark.parametrize(
    "subjects",
    [
        None,
        {},
        [],
        "abc",
        [1],
        [{}],
        [{"name": "a"}],
        [_subject() | {"uri": "x"}],
        [_subject("")],
        [_subject("a" * 513)],
        [_subject("a\x00")],
        [_subject("a\x1b[0m")],
        [{"name": 1, "digest": {"sha256": _A}}],
        [_subject(), _subject("app", _B)],
        [_subject(sha256=_A.upper())],
        [_subject(sha256=_A[:-1])],
        [_subject(sha256=_A + "ab")],
        [_subject(sha256="\N{ARABIC-INDIC DIGIT ONE}" * 64)],
        [_subject(sha256=_A[:-1] + "\n")],
        [{"name": "a", "digest": {}}],
        [{"name": "a", "digest": {"sha512": "ef" * 64}}],
        [{"name": "a", "digest": {"sha256": _A, "sha512": _A}}],
        [{"name": "a", "digest": {"sha256": _A, "md5": "ab" * 16}}],
        [{"name": "a", "digest": {"sha256": None}}],
        [{"name": "a", "digest": [_A]}],
        [_subject(f"a{number}") for number in range(MAX_SUBJECTS + 1)],
    ],
)
def test_subjects_that_are_none_are_refused(subjects: object) -> None:
    """Every subject has a name of its own and digests of the right length, and nothing else."""
    with pytest.raises(MalformedError):
        read_subjects(subjects)


@pytest.mark.parametrize(
    "name",
    [
        *(".", "..", "../..", "a/..", "./.", "/", " a", "a "),
        *(f"a{one}b" for one in "\n\r\t\x7f\x85\u2028\u202e\u200b\ud800"),
        "a\n",
    ],
    ids=ascii,
)
def test_names_that_no_line_and_no_file_has_are_refused(name: str) -> None:
    """Control characters of every kind, blanks at the ends, the names of directories."""
    with pytest.raises(MalformedError, match="a subject's name"):
        read_subjects([_subject(name)])


@pytest.mark.parametrize("name", ["app", "my app.tar", "...", "..a", "registry.example.org/app:1.2", "größe", "a/b.c"])
def test_names_that_are_fine_stay_as_they_are(name: str) -> None:
    """Blanks within, letters of any alphabet, slashes and dots."""
    assert read_subjects([_subject(name)])[0].name == name


def test_as_many_subjects_as_the_limit_are_read() -> None:
    """1024 subjects are 1024; the order of digests is the same whatever the request's."""
    assert len(read_subjects([_subject(f"a{number}") for number in range(MAX_SUBJECTS)])) == 1024
    digest = {"sha512": "ef" * 64, "sha384": "ef" * 48, "sha256": _A}
    assert list(Subject.of({"name": "a", "digest": digest}).digest) == ["sha256", "sha384", "sha512"]


@pytest.mark.parametrize(
    "uri", ["", "example.com", "/a", "a b:c", "https://a b", 'https://a"b', "https://a\n", "1a:b", 7, None]
)
def test_a_predicate_type_must_be_a_uri(uri: object) -> None:
    """Relative references, spaces and quotes are refused."""
    with pytest.raises(MalformedError, match="must be an absolute URI"):
        checked_uri(uri, "it")


def _summary(*, passed: bool = True, has_provenance: bool = True) -> VerificationSummary:
    return VerificationSummary(
        verifier_id="https://example.com/signing",
        verifier_version={"pqcpki": "0.1.0"},
        time_verified=1_767_323_045,
        resource_uri="pkg:generic/app@1.0",
        policy_uri="https://example.com/policies/1",
        policy_sha256=_A,
        attestations=(Attestation("https://example.com/provenance/1", _B),),
        passed=passed,
        has_provenance=has_provenance,
    )


def test_a_summary_is_one_to_others() -> None:
    """in-toto's own message reads every field but two: it has no verifier's version, and levels are one text to it."""
    members = json.loads(_summary().to_json())
    assert members["verifier"].pop("version") == {"pqcpki": "0.1.0"}
    assert members.pop("verifiedLevels") == ["SLSA_BUILD_LEVEL_1"]
    message = json_format.ParseDict(members, Oracle())
    assert message.verifier.id == "https://example.com/signing"
    assert message.policy.uri == "https://example.com/policies/1"
    assert dict(message.policy.digest) == {"sha256": _A}
    assert message.resource_uri == "pkg:generic/app@1.0"
    assert message.time_verified.seconds == 1_767_323_045
    assert [dict(one.digest) for one in message.input_attestations] == [{"sha256": _B}]
    assert message.verification_result == "PASSED"
    assert message.slsa_version == "1.2"
    assert _by_the_oracle(statement(read_subjects([_subject()]), VSA_TYPE, _summary().to_json()))


@pytest.mark.parametrize(
    ("passed", "has_provenance", "result", "levels"),
    [
        (True, True, "PASSED", ["SLSA_BUILD_LEVEL_1"]),
        (True, False, "PASSED", ["SLSA_BUILD_LEVEL_0"]),
        (False, True, "FAILED", ["FAILED"]),
        (False, False, "FAILED", ["FAILED"]),
    ],
)
def test_no_level_is_claimed_that_was_not_verified(
    *, passed: bool, has_provenance: bool, result: str, levels: list[str]
) -> None:
    """A tenant's provenance is Build L1 and never more, none is L0, and a refusal claims nothing."""
    members = json.loads(_summary(passed=passed, has_provenance=has_provenance).to_json())
    assert (members["verificationResult"], members["verifiedLevels"]) == (result, levels)


@pytest.mark.parametrize(
    "change", [{"verifier_id": "us"}, {"resource_uri": ""}, {"policy_uri": "x"}, {"policy_sha256": "AB" * 32}]
)
def test_a_summary_with_no_uri_or_hash_is_not_written(change: dict[str, str]) -> None:
    """What would not be a summary to others raises."""
    with pytest.raises(MalformedError):
        replace(_summary(), **change).to_json()  # type: ignore[arg-type]  # texts all of them
