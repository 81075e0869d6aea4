"""SLSA provenance v1 that a tenant brings: its predicate's exact bytes, out of whatever it came in.

1 it is a predicate, a Statement, a DSSE envelope or a Sigstore bundle around it · 2 whatever names subjects names those
of the request: the same SHA-256 digests, no more and no fewer · 3 the fields that SLSA requires are there and of their
kind (https://slsa.dev/spec/v1.2/build-provenance) · 4 unknown fields stay, byte for byte · 5 signatures that came
along are not checked and count for nothing: whoever may call could have made the document, and the record says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.jose.strict import strict_object
from services.signing.statements import STATEMENT_TYPE, Subject, checked_uri

PROVENANCE_TYPE: Final = "https://slsa.dev/provenance/v1"
MAX_PROVENANCE_BYTES: Final = 2 * 1024 * 1024  # of the document as it came; a predicate of 1 MiB in an envelope fits
ORIGIN: Final = "tenant-made: signatures that came with it were not checked"
_TIME: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,9})?Z", re.ASCII
)
_BUNDLE: Final = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\.v0\.3\+json|\+json;version=0\.[123])", re.ASCII)


class SubjectMismatchError(MalformedError):
    """A provenance that is about other artefacts than the request."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A provenance that fits the request.

    Attributes:
        predicate: the exact JSON bytes of its predicate.
        form: what it came in: predicate, statement, envelope or bundle.
        build_type: URI of the kind of build.
        builder_id: URI of the build platform, as the tenant has it.
        origin: how far it can be trusted, for the record.
    """

    predicate: bytes
    form: str
    build_type: str
    builder_id: str
    origin: str = ORIGIN


def read_provenance(data: bytes, subjects: Sequence[Subject]) -> Provenance:
    """Read what was sent along with a request about `subjects`; the rules are numbered above.

    Raises:
        MalformedError: longer than 2 MiB, JSON with more than one meaning, or none of the four forms; a field that is
            missing or of another kind.
        SubjectMismatchError: it is about other artefacts.
        UnsupportedError: a predicate of another type, or an envelope or bundle that carries something else.
    """
    if len(data) > MAX_PROVENANCE_BYTES:
        raise MalformedError(f"the provenance is longer than {MAX_PROVENANCE_BYTES} bytes")
    members = strict_object(data, "the provenance")
    forms = [form for form in _FORMS if form[0] in members]
    if len(forms) != 1:
        raise MalformedError("the provenance must be one of predicate, Statement, DSSE envelope and Sigstore bundle")
    _, form, unwrap = forms[0]
    predicate = unwrap(data, members, subjects)
    build_type, builder_id = _checked_predicate(strict_object(predicate, "the predicate"))
    return Provenance(predicate, form, build_type, builder_id)


def _of_predicate(data: bytes, _members: Mapping[str, Any], _subjects: Sequence[Subject]) -> bytes:
    return data.strip(b" \t\r\n")


def _of_statement(data: bytes, members: Mapping[str, Any], subjects: Sequence[Subject]) -> bytes:
    if members["_type"] != STATEMENT_TYPE:
        raise UnsupportedError(f"the provenance must be of the type {STATEMENT_TYPE}")
    if members.get("predicateType") != PROVENANCE_TYPE:
        raise UnsupportedError(f"the provenance must have the predicate type {PROVENANCE_TYPE}")
    _check_subjects(members.get("subject"), subjects)
    return member_bytes(data, "predicate")


def _of_envelope(data: bytes, _members: Mapping[str, Any], subjects: Sequence[Subject]) -> bytes:
    envelope = Envelope.parse(data, max_bytes=MAX_PROVENANCE_BYTES)
    if envelope.payload_type != IN_TOTO_PAYLOAD:
        raise UnsupportedError(f"the provenance's envelope must have the payload type {IN_TOTO_PAYLOAD}")
    members = strict_object(envelope.payload, "the envelope's payload")
    if "_type" not in members:
        raise MalformedError("the envelope's payload is not a Statement")
    return _of_statement(envelope.payload, members, subjects)


def _of_bundle(data: bytes, members: Mapping[str, Any], subjects: Sequence[Subject]) -> bytes:
    media_type = members["mediaType"]
    if not isinstance(media_type, str) or not _BUNDLE.fullmatch(media_type):
        raise UnsupportedError("the provenance's mediaType is not that of a Sigstore bundle")
    if not isinstance(members.get("dsseEnvelope"), dict):
        raise UnsupportedError("the provenance's bundle carries no DSSE envelope")
    return _of_envelope(member_bytes(data, "dsseEnvelope"), members, subjects)


_Unwrap = Callable[[bytes, Mapping[str, Any], Sequence[Subject]], bytes]
_FORMS: Final[tuple[tuple[str, str, _Unwrap], ...]] = (
    ("_type", "statement", _of_statement),
    ("payloadType", "envelope", _of_envelope),
    ("mediaType", "bundle", _of_bundle),
    ("buildDefinition", "predicate", _of_predicate),
)


def member_bytes(data: bytes, name: str) -> bytes:
    """The exact bytes of a member's value in a JSON object that `strict_object` has read.

    Raises:
        MalformedError: it has no such member.
    """
    text = data.decode()
    place = _after(text, 0)  # behind the brace
    while text[place] != "}":
        found, place = _VALUE.raw_decode(text, place)
        start = _after(text, place)  # behind the colon
        _, end = _VALUE.raw_decode(text, start)
        if found == name:
            return text[start:end].encode()
        place = _SPACE.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing at least
        if text[place] == ",":
            place = _after(text, place)
    raise MalformedError(f"the member {name} is missing")


_VALUE: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _after(text: str, place: int) -> int:
    """The place behind the next character that is no space, and the spaces after it."""
    mark = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing at least
    return _SPACE.match(text, mark + 1).end()  # type: ignore[union-attr]  # likewise


def _check_subjects(values: object, subjects: Sequence[Subject]) -> None:
    """Rule 2; names are not compared, since a digest is what an artefact is known by (in-toto Statement v1)."""
    if not isinstance(values, list) or not values:
        raise MalformedError("the provenance has no list of subjects")
    wanted = {subject.sha256: subject for subject in subjects}
    found = {_matched(index, value, wanted) for index, value in enumerate(values)}
    for subject in subjects:
        if subject.sha256 not in found:
            raise SubjectMismatchError(f"the provenance has no subject with the sha256 digest of {subject.name!a:.100}")


def _matched(index: int, value: object, wanted: Mapping[str, Subject]) -> str:
    digest = value.get("digest") if isinstance(value, dict) else None
    sha256 = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(digest, dict) or not isinstance(sha256, str):
        raise MalformedError(f"the provenance's subject {index} has no sha256 digest")
    if sha256 not in wanted:
        raise SubjectMismatchError(f"the provenance's subject {index} has a sha256 digest that the request has not")
    for name, hexadecimal in wanted[sha256].digest.items():
        if digest.get(name, hexadecimal) != hexadecimal:
            raise SubjectMismatchError(f"the provenance's subject {index} has another {name} digest than the request")
    return sha256


def _checked_predicate(predicate: Mapping[str, Any]) -> tuple[str, str]:
    """Rule 3: the build type and the builder's id, everything else of its kind."""
    definition = _object(predicate, "buildDefinition")
    details = _object(predicate, "runDetails")
    build_type = checked_uri(definition.get("buildType"), "buildDefinition.buildType")
    _object(definition, "externalParameters", "buildDefinition.")
    _optional(definition, "internalParameters", dict, "buildDefinition.")
    _optional(definition, "resolvedDependencies", list, "buildDefinition.")
    builder_id = checked_uri(_object(details, "builder", "runDetails.").get("id"), "runDetails.builder.id")
    _optional(details, "byproducts", list, "runDetails.")
    _optional(details, "metadata", dict, "runDetails.")
    for name in ("startedOn", "finishedOn"):
        moment = (details.get("metadata") or {}).get(name)
        if moment is not None and not (isinstance(moment, str) and _TIME.fullmatch(moment)):
            raise MalformedError(f"runDetails.metadata.{name} must be a time such as 2026-01-31T12:00:00Z")
    return build_type, builder_id


def _object(members: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
    value = members.get(name)
    if not isinstance(value, dict):
        raise MalformedError(f"{where}{name} must be an object")
    return value


def _optional(members: Mapping[str, Any], name: str, kind: type, where: str) -> None:
    if not isinstance(members.get(name), kind | None):
        raise MalformedError(f"{where}{name} must be {'an object' if kind is dict else 'a list'}")
