"""in-toto Statement v1 around a predicate's exact bytes, and the predicate of a Verification Summary (SLSA VSA v1).

A predicate is spliced in as it was received: it is not parsed again, so nothing in it changes, and it may be a file of
any length. Whoever splices answers for its being one JSON object; `services.signing.sbom` and `provenance` see to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import checked_text

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
STATEMENT_TAIL: Final = b"}"
VSA_TYPE: Final = "https://slsa.dev/verification_summary/v1"
SLSA_VERSION: Final = "1.2"
MAX_SUBJECTS: Final = 1024
MAX_NAME: Final = 512  # characters of a subject's name
_MAX_URI: Final = 2048  # characters
_CHUNK: Final = 64 * 1024  # octets
_DIGEST_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}  # hexadecimal digits
_HEX: Final = re.compile(r"[0-9a-f]*", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\[\]_a-z~]+", re.ASCII)  # RFC 3986


@dataclass(frozen=True, slots=True)
class Subject:
    """An artefact: its name and its digests, lower-case hexadecimal by algorithm; sha256 is always among them."""

    name: str
    digest: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The digest that subjects are matched by."""
        return self.digest["sha256"]

    @classmethod
    def of(cls, members: object) -> Subject:
        """Read one.

        Raises:
            MalformedError: not `{name, digest: {sha256, …}}` with sha256, sha384 and sha512 at most.
        """
        if not isinstance(members, dict) or members.keys() != {"name", "digest"}:
            raise MalformedError("a subject must be an object with the members name and digest")
        return cls(_checked_name(members["name"]), _checked_digest(members["digest"]))


def read_subjects(values: object) -> tuple[Subject, ...]:
    """The subjects of a request.

    Raises:
        MalformedError: not a list of 1 to 1024 subjects with names of their own.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_SUBJECTS:
        raise MalformedError(f"subjects must be a list of 1 to {MAX_SUBJECTS} objects")
    subjects = tuple(map(Subject.of, values))
    if len({subject.name for subject in subjects}) != len(subjects):
        raise MalformedError("two subjects have the same name")
    return subjects


def statement_head(subjects: Sequence[Subject], predicate_type: str) -> bytes:
    """A statement up to its predicate; the predicate's bytes and `STATEMENT_TAIL` follow.

    Raises:
        MalformedError: the predicate type is no absolute URI.
    """
    members = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": subject.name, "digest": dict(subject.digest)} for subject in subjects],
        "predicateType": checked_uri(predicate_type, "the predicate type"),
    }
    return orjson.dumps(members)[:-1] + b',"predicate":'


def statement(subjects: Sequence[Subject], predicate_type: str, predicate: bytes) -> bytes:
    """A whole statement."""
    return statement_head(subjects, predicate_type) + predicate + STATEMENT_TAIL


def statement_chunks(subjects: Sequence[Subject], predicate_type: str, predicate: Path) -> Iterator[bytes]:
    """A statement whose predicate is a file, in chunks of at most 64 KiB or the head."""
    yield statement_head(subjects, predicate_type)
    with predicate.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
    yield STATEMENT_TAIL


@dataclass(frozen=True, slots=True)
class Attestation:
    """An attestation that a verification looked at, by its digest (SHA-256, hexadecimal)."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class VerificationSummary:
    """What was decided about an artefact, by which policy and on which attestations.

    Attributes:
        verifier_id: URI of the deciding service.
        verifier_version: its components' versions by name.
        time_verified: Unix seconds.
        resource_uri: what the artefact is fetched as.
        policy_uri: URI of the policy set.
        policy_sha256: its hash.
        attestations: what was looked at.
        passed: whether the policy allowed it.
        has_provenance: whether a provenance with the right subjects came with it.
    """

    verifier_id: str
    verifier_version: Mapping[str, str]
    time_verified: int
    resource_uri: str
    policy_uri: str
    policy_sha256: str
    attestations: tuple[Attestation, ...]
    passed: bool
    has_provenance: bool

    @property
    def verified_levels(self) -> list[str]:
        """The levels that can be claimed.

        Provenance that a tenant brings shows how the artefact was built and no more: Build L1. L2 would need provenance
        that the build platform itself made and signed, which is not verified here.
        """
        if not self.passed:
            return ["FAILED"]
        return ["SLSA_BUILD_LEVEL_1" if self.has_provenance else "SLSA_BUILD_LEVEL_0"]

    def to_json(self) -> bytes:
        """The predicate (https://slsa.dev/spec/v1.2/verification_summary).

        Raises:
            MalformedError: a URI or hash that is none.
        """
        members: dict[str, Any] = {
            "verifier": {
                "id": checked_uri(self.verifier_id, "the verifier's id"),
                "version": dict(self.verifier_version),
            },
            "timeVerified": f"{datetime.fromtimestamp(self.time_verified, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "resourceUri": checked_uri(self.resource_uri, "the resource URI"),
            "policy": _described(self.policy_uri, self.policy_sha256),
            "inputAttestations": [_described(one.uri, one.sha256) for one in self.attestations],
            "verificationResult": "PASSED" if self.passed else "FAILED",
            "verifiedLevels": self.verified_levels,
            "slsaVersion": SLSA_VERSION,
        }
        return orjson.dumps(members)


def checked_uri(value: object, what: str) -> str:
    """An absolute URI (RFC 3986 §3): a scheme, and its characters alone.

    Raises:
        MalformedError: anything else; `what` names it.
    """
    if not isinstance(value, str) or len(value) > _MAX_URI or not _URI.fullmatch(value):
        raise MalformedError(f"{what} must be an absolute URI of at most {_MAX_URI} characters")
    return value


def _checked_name(value: object) -> str:
    """A name that is one line to whoever shows it, and that a file may have."""
    name = checked_text(value, "a subject's name", MAX_NAME)
    if not name.isprintable():  # no line ends, nor what turns the direction of writing
        raise MalformedError("a subject's name has a control character")
    if name != name.strip():
        raise MalformedError("a subject's name begins or ends with a blank")
    if PurePosixPath(name).name in {"", ".."}:
        raise MalformedError("a subject's name must not be a directory's: . or ..")
    return name


def _described(uri: str, sha256: str) -> dict[str, Any]:
    return {"uri": checked_uri(uri, "a descriptor's uri"), "digest": {"sha256": _checked_hex("sha256", sha256)}}


def _checked_digest(digest: object) -> dict[str, str]:
    if not isinstance(digest, dict) or "sha256" not in digest or digest.keys() - _DIGEST_LENGTHS.keys():
        raise MalformedError("a subject's digest must have sha256, and besides it sha384 and sha512 at most")
    return {name: _checked_hex(name, digest[name]) for name in _DIGEST_LENGTHS if name in digest}


def _checked_hex(name: str, value: object) -> str:
    length = _DIGEST_LENGTHS[name]
    if not isinstance(value, str) or len(value) != length or not _HEX.fullmatch(value):
        raise MalformedError(f"a {name} digest must be {length} lower-case hexadecimal digits")
    return value
