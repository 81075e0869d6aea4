import base64
import copy
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import (  # type: ignore[import-untyped]  # ships no types
    Provenance as Oracle,
)

from pkicore.errors import MalformedError, UnsupportedError
from services.signing.provenance import (
    MAX_PROVENANCE_BYTES,
    ORIGIN,
    PROVENANCE_TYPE,
    SubjectMismatchError,
    member_bytes,
    read_provenance,
)
from services.signing.statements import Subject, statement

_A, _B = "ab" * 32, "cd" * 32
_SUBJECTS = (Subject("app", {"sha256": _A, "sha512": "ef" * 64}), Subject("lib", {"sha256": _B}))
_PREDICATE: dict[str, Any] = {
    "buildDefinition": {
        "buildType": "https://example.com/build/v1",
        "externalParameters": {"ref": "main"},
        "internalParameters": {},
        "resolvedDependencies": [{"uri": "git+https://example.com/app", "digest": {"gitCommit": "ab" * 20}}],
    },
    "runDetails": {
        "builder": {"id": "https://ci.example.com/runner", "version": {"runner": "1"}},
        "metadata": {
            "invocationId": "https://ci.example.com/runs/1",
            "startedOn": "2026-01-02T03:04:05Z",
            "finishedOn": "2026-01-02T03:05:05.123Z",
        },
    },
}


def _statement(**changes: object) -> dict[str, Any]:
    subjects = [{"name": "other-name", "digest": dict(subject.digest)} for subject in _SUBJECTS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": PROVENANCE_TYPE,
        "predicate": _PREDICATE,
    } | changes


def _envelope(payload: bytes, payload_type: str = "application/vnd.in-toto+json") -> bytes:
    signatures = [{"keyid": "", "sig": base64.b64encode(b"not a signature").decode()}]
    members = {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": signatures}
    return json.dumps(members).encode()


def _bundle(envelope: bytes, media_type: str = "application/vnd.dev.sigstore.bundle.v0.3+json") -> bytes:
    return b'{"mediaType": "%b", "verificationMaterial": {}, "dsseEnvelope": %b}' % (media_type.encode(), envelope)


def _read(document: object) -> Any:  # noqa: ANN401 - a Provenance
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_provenance(data, _SUBJECTS)


_EXACT = (
    b' {"runDetails" : '
    + json.dumps(_PREDICATE["runDetails"]).encode()
    + (
        b',\n"https://example.com/own": [1.0, 1e2, "\\u00e4\xc3\xa4", {"predicate": {}}], "buildDefinition":'
        b'{"externalParameters":{},"buildType":"https:\\/\\/example.com\\/build"} } '
    )
)
_AROUND = json.dumps({key: value for key, value in _statement().items() if key != "predicate"}).encode()[:-1]


@pytest.mark.parametrize("form", ["predicate", "statement", "envelope", "bundle"])
def test_the_predicate_comes_out_byte_for_byte(form: str) -> None:
    """Out of each form come the bytes that its maker wrote: numbers, escapes, spaces, order and own fields."""
    whole = _AROUND + b', "predicate" :' + _EXACT + b', "after": {"predicate": 1}}'
    forms = {"predicate": _EXACT, "statement": whole, "envelope": _envelope(whole), "bundle": _bundle(_envelope(whole))}
    found = read_provenance(forms[form], _SUBJECTS)
    assert found.predicate == _EXACT.strip()
    assert found.form == form
    assert (found.build_type, found.builder_id) == ("https://example.com/build", "https://ci.example.com/runner")


def test_the_record_says_that_signatures_count_for_nothing() -> None:
    """An envelope with nonsense for a signature is taken like the bare predicate, and the record says so."""
    found = _read(_envelope(json.dumps(_statement()).encode()))
    assert found.origin == ORIGIN == _read(_PREDICATE).origin
    assert "tenant-made" in found.origin
    assert "not checked" in found.origin


def test_what_is_attested_again_is_a_provenance_to_others() -> None:
    """in-toto's own messages read the predicate out of a new statement around it."""
    found = _read(_statement())
    again = json.loads(statement(_SUBJECTS, PROVENANCE_TYPE, found.predicate))
    message = json_format.ParseDict(again["predicate"], Oracle())
    assert message.build_definition.build_type == found.build_type
    assert message.run_details.builder.id == found.builder_id


@pytest.mark.parametrize(
    ("subjects", "problem"),
    [
        ([{"name": "app", "digest": {"sha256": _A}}], "has no subject with the sha256 digest of 'lib'"),
        ([{"digest": {"sha256": "00" * 32}}], "subject 0 has a sha256 digest that the request has not"),
        ([*_statement()["subject"], {"digest": {"sha256": "00" * 32}}], "subject 2 has a sha256 digest that"),
        (
            [*_statement()["subject"][1:], {"digest": {"sha256": _A, "sha512": "00" * 64}}],
            "subject 1 has another sha512",
        ),
        ([{"digest": {"sha256": _A.upper()}}], "subject 0 has a sha256 digest that the request has not"),
    ],
)
def test_a_provenance_about_something_else_is_refused(subjects: list[Any], problem: str) -> None:
    """Its digests and the request's are the same set, whatever it is wrapped in; the message says which is not."""
    data = json.dumps(_statement(subject=subjects)).encode()
    for wrapped in (data, _envelope(data), _bundle(_envelope(data))):
        with pytest.raises(SubjectMismatchError, match=problem):
            read_provenance(wrapped, _SUBJECTS)


def test_a_subject_may_be_named_twice_and_have_other_digests() -> None:
    """Matching is by digest only: names, repetitions and algorithms that the request lacks do not matter."""
    subjects = [*_statement()["subject"], {"digest": {"sha256": _B, "gitCommit": "ab" * 20}}]
    assert _read(_statement(subject=subjects)).form == "statement"


@pytest.mark.parametrize(
    "subjects", [None, [], {}, [1], [{}], [{"digest": {}}], [{"digest": {"sha1": "ab" * 20}}], [{"digest": "x"}]]
)
def test_a_statement_without_subjects_is_refused(subjects: object) -> None:
    """A statement has subjects, each with a sha256 digest."""
    with pytest.raises(MalformedError):
        _read(_statement(subject=subjects))


@pytest.mark.parametrize(
    "document",
    [
        _statement(_type="https://in-toto.io/Statement/v0.1"),
        _statement(predicateType="https://slsa.dev/provenance/v0.2"),
        _statement(predicateType=None),
        _envelope(json.dumps(_statement()).encode(), "application/json"),
        _bundle(_envelope(json.dumps(_statement()).encode()), "application/json"),
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "messageSignature": {}},
    ],
)
def test_another_type_is_not_supported(document: object) -> None:
    """Older statements, other predicates and envelopes of something else are told apart from nonsense."""
    with pytest.raises(UnsupportedError):
        _read(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b"\xef\xbb\xbf{}",
        b'{"buildDefinition": {}, "buildDefinition": {}}',
        b'{"buildDefinition": NaN}',
        b'{"buildDefinition": "\\ud800"}',
        b'{"buildDefinition":' * 5000,
        _PREDICATE | {"_type": "https://in-toto.io/Statement/v1"},
        {name: value for name, value in _statement().items() if name != "predicate"},
        _statement(predicate=None),
        _statement(predicate=[]),
        _envelope(b"{}"),
        _envelope(b"\xff"),
        _envelope(_envelope(json.dumps(_statement()).encode())),
        {"payloadType": "application/vnd.in-toto+json", "payload": "!", "signatures": []},
        b" " * (MAX_PROVENANCE_BYTES + 1),
    ],
)
def test_what_is_none_of_the_forms_is_refused(document: object) -> None:
    """Nonsense, ambiguities and more than 2 MiB raise, with a short sentence."""
    with pytest.raises(MalformedError) as caught:
        _read(document)
    assert len(str(caught.value)) < 200


_BROKEN: list[tuple[tuple[str, ...], object, str]] = [
    (("buildDefinition",), None, "buildDefinition must be an object"),
    (("runDetails",), [], "runDetails must be an object"),
    (("buildDefinition", "buildType"), "build", "buildDefinition.buildType must be an absolute URI"),
    (("buildDefinition", "buildType"), None, "buildDefinition.buildType must be an absolute URI"),
    (("buildDefinition", "externalParameters"), None, "buildDefinition.externalParameters must be an object"),
    (("buildDefinition", "internalParameters"), "x", "buildDefinition.internalParameters must be an object"),
    (("buildDefinition", "resolvedDependencies"), {}, "buildDefinition.resolvedDependencies must be a list"),
    (("runDetails", "builder"), "x", "runDetails.builder must be an object"),
    (("runDetails", "builder", "id"), "runner 1", "runDetails.builder.id must be an absolute URI"),
    (("runDetails", "metadata"), "x", "runDetails.metadata must be an object"),
    (("runDetails", "byproducts"), "x", "runDetails.byproducts must be a list"),
    (("runDetails", "metadata", "startedOn"), "2026-01-02T03:04:05+01:00", "startedOn must be a time"),
    (("runDetails", "metadata", "startedOn"), "2026-13-02T03:04:05Z", "startedOn must be a time"),
    (("runDetails", "metadata", "finishedOn"), "2026-01-02 03:04:05Z", "finishedOn must be a time"),
    (("runDetails", "metadata", "finishedOn"), 1767323045, "finishedOn must be a time"),
]


@pytest.mark.parametrize(("way", "value", "problem"), _BROKEN)
def test_a_field_of_another_kind_is_named(way: tuple[str, ...], value: object, problem: str) -> None:
    """What SLSA requires is there and of its kind, or the message says which field is not."""
    predicate = copy.deepcopy(_PREDICATE)
    holder = predicate
    for step in way[:-1]:
        holder = holder[step]
    holder[way[-1]] = value
    for document in (predicate, _statement(predicate=predicate)):
        if way == ("buildDefinition",) and document is predicate:
            continue  # without it, a bare predicate is told by nothing else
        with pytest.raises(MalformedError, match=problem):
            _read(document)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=5), st.sampled_from([None, 1, "\t"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_members_bytes_are_its_value(members: dict[str, Any], indent: int | str | None, ascii_only: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    """Of any object in any layout, the bytes of each member parse to its value and stand in the text."""
    text = json.dumps(members, indent=indent, ensure_ascii=ascii_only)
    try:
        data = f" \n{text} ".encode()
    except UnicodeEncodeError:
        return
    for name, value in members.items():
        found = member_bytes(data, name)
        assert json.loads(found) == value
        assert found in data
    with pytest.raises(MalformedError, match="is missing"):
        member_bytes(data, "no member has this name")
