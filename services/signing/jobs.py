"""What a request comes to: the keys, formats and statements that are wanted, checked against the profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography import x509

from pkicore.errors import MalformedError
from services.signing.callers import Caller
from services.signing.errors import DigestMissingError, NotOfferedError, UnknownKeyError
from services.signing.formats import raw
from services.signing.formats.log_entry import entry_digest_name
from services.signing.keys import JobKey
from services.signing.statements import Subject
from services.signing.wire import OF_ARTEFACTS, OF_STATEMENTS, Format, SignatureRequest

LONG: Final = 1024 * 1024
"""Octets above which a statement is not held in memory."""
_MAX_ARTEFACT_SIGNATURES: Final = 1024  # of one request
_WITHOUT_ENTRY: Final[frozenset[Format]] = frozenset({"composite"})  # Sigstore has no name for such keys
_OF_ATTESTATIONS: Final[frozenset[Format]] = frozenset({"dsse", "bundle"})
_ARTEFACT_KEY_FORMATS: Final[tuple[Format, ...]] = ("raw", "bundle")
_ATTESTATION_KEY_FORMATS: Final[tuple[Format, ...]] = ("dsse", "bundle")
_IDENTITY_FORMATS: Final[tuple[Format, ...]] = ("bundle",)


class Profile(NamedTuple):
    """What a caller signs with when it names the profile.

    Artefacts are signed by the digests that callers give, so whoever may have that done has any octets signed: the
    digest of a statement's PAE, too. Statements are therefore signed by keys that sign nothing else.

    Attributes:
        keys: TENANT.NAME, that sign artefacts.
        attestation_keys: likewise, that sign statements.
        formats: where a request names none.
        timestamp: whether signatures are time-stamped.
        log: whether they are entered in the log.
        chains: certificates of the keys, where they have some, with those above them: for CMS.
    """

    keys: tuple[str, ...]
    attestation_keys: tuple[str, ...]
    formats: tuple[Format, ...]
    timestamp: bool = False
    log: bool = False
    chains: Mapping[str, tuple[x509.Certificate, ...]] = {}


IDENTITY: Final = Profile(("certificate",), ("certificate",), _IDENTITY_FORMATS, timestamp=True, log=True)
"""With a short-lived certificate: bundles, with all that foreign verifiers ask for.

Its one key signs both: what is signed under a caller's own identity is that caller's word, statements as well.
"""


class Profiles:
    """The profiles by tenant and id."""

    def __init__(self, profiles: Mapping[tuple[str, str], Profile]) -> None:
        self._profiles = profiles

    def wanted(self, caller: Caller, request: SignatureRequest) -> Profile:
        """What the request is to be signed with: its formats are those that were asked for, its keys those they need.

        Raises:
            UnknownKeyError: a profile or key that the caller's tenant does not have.
            NotOfferedError: formats that none of the keys signs in.
        """
        profile = self._named(caller.tenant, request)
        if request.formats is not None:
            profile = profile._replace(formats=request.formats)
        return _only_needed(profile)

    def _named(self, tenant: str, request: SignatureRequest) -> Profile:
        if request.identity:
            return IDENTITY
        if request.key is not None:
            return self._of_key(tenant, request.key)
        profile = self._profiles.get((tenant, request.profile or ""))
        if profile is None:
            raise UnknownKeyError("there is no such profile")
        return profile

    def _of_key(self, tenant: str, key_id: str) -> Profile:
        """One key of a profile, witnessed as there, so that nobody leaves the log by naming the key alone."""
        if key_id.partition(".")[0] != tenant:
            raise UnknownKeyError("there is no such key")
        having = [one for one in self._profiles.values() if key_id in {*one.keys, *one.attestation_keys}]
        if not having:
            raise UnknownKeyError("there is no such key in a profile")
        attests = any(key_id in one.attestation_keys for one in having)
        return Profile(
            () if attests else (key_id,),
            (key_id,) if attests else (),
            _ATTESTATION_KEY_FORMATS if attests else _ARTEFACT_KEY_FORMATS,
            any(one.timestamp for one in having),
            any(one.log for one in having),
            having[0].chains,
        )


def _only_needed(profile: Profile) -> Profile:
    keys = profile.keys if OF_ARTEFACTS & {*profile.formats} else ()
    attestation_keys = profile.attestation_keys if OF_STATEMENTS & {*profile.formats} else ()
    for name in profile.formats:
        if not (keys and name in OF_ARTEFACTS) and not (attestation_keys and name in OF_STATEMENTS):
            role = "artefacts" if name in OF_ARTEFACTS else "statements"
            raise NotOfferedError(f"the format {name} is signed by keys for {role}, and there is none here")
    return profile._replace(keys=keys, attestation_keys=attestation_keys)


@dataclass(frozen=True, slots=True)
class StatementToSign:
    """A statement in pieces, since it may be longer than memory should hold.

    Attributes:
        kind: vsa, sbom, provenance.
        predicate_type: URI.
        length: octets.
        pieces: its octets, again and again.
    """

    kind: str
    predicate_type: str
    length: int
    pieces: Callable[[], Iterable[bytes]] = field(repr=False)

    @classmethod
    def of(cls, kind: str, predicate_type: str, content: bytes) -> StatementToSign:
        """One that is at hand."""
        return cls(kind, predicate_type, len(content), lambda: iter((content,)))

    @property
    def is_long(self) -> bool:
        """Whether it is not to be held in memory."""
        return self.length > LONG

    def content(self) -> bytes:
        """Its octets, if it is not long."""
        return b"".join(self.pieces())


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One request, ready to be signed.

    Attributes:
        subjects: the artefacts.
        keys: each signs the artefacts.
        attestation_keys: each signs the statements.
        profile: formats and what else is wanted.
        mu: by key id.
        statements: the summary first, then what was sent along.
    """

    subjects: tuple[Subject, ...]
    keys: tuple[JobKey, ...]
    attestation_keys: tuple[JobKey, ...]
    profile: Profile
    mu: Mapping[str, bytes] = field(default_factory=dict)
    statements: tuple[StatementToSign, ...] = ()

    def artefact_signatures(self) -> Iterator[ArtefactToSign]:
        """What is signed of the artefacts themselves: by their digests, for raw signatures and message bundles."""
        for key in self.keys:
            if not signs_artefacts(key, self.profile.formats, self.mu):
                continue
            for number, subject in enumerate(self.subjects, start=1):
                yield ArtefactToSign(key, number, subject, digest_for(key, subject, self.mu))


class ArtefactToSign(NamedTuple):
    """One artefact under one key; `number` is its place among the subjects, from 1."""

    key: JobKey
    number: int
    subject: Subject
    digest: bytes

    @property
    def entry_digest(self) -> bytes:
        """The artefact's digest as a log entry names it; what is signed may be a mu instead."""
        return bytes.fromhex(self.subject.digest[entry_digest_name(self.key.algorithm)])


def check_attestable(profile: Profile) -> None:
    """See to it that what was sent along can be attested.

    Raises:
        NotOfferedError: no format has a place for it, or no key attests.
    """
    if not profile.attestation_keys or _OF_ATTESTATIONS.isdisjoint(profile.formats):
        raise NotOfferedError("an SBOM or provenance is attested in the formats dsse and bundle: name one of these")


def check_job(job: Job) -> None:
    """See to it that each key signs something, in formats that it can have.

    Raises:
        DigestMissingError: a raw signature needs a digest or mu that the request does not give.
        NotOfferedError: formats that do not fit the keys or the subjects.
        MalformedError: mu for several subjects, or for a key that does not sign; too many signatures.
    """
    formats = frozenset(job.profile.formats)
    if job.mu:
        if len(job.subjects) > 1:
            raise MalformedError("mu stands for one artefact: give one subject")
        if unused := job.mu.keys() - {key.key_id for key in job.keys if key.algorithm.family == "mldsa"}:
            raise MalformedError(f"mu is given for {min(unused)}, which is no ML-DSA key of this request")
    _check_formats(job, formats)
    if len(job.subjects) * len(job.keys) > _MAX_ARTEFACT_SIGNATURES and formats & {"raw", "bundle"}:
        raise MalformedError(f"a request makes at most {_MAX_ARTEFACT_SIGNATURES} signatures of artefacts")
    for key in job.keys:
        if not signs_artefacts(key, formats, job.mu) and not (job.attestation_keys or "cms" in formats):
            raise _uncovered(key)
        if signs_artefacts(key, formats, job.mu):
            for subject in job.subjects:
                digest_for(key, subject, job.mu)


def _check_formats(job: Job, formats: frozenset[Format]) -> None:
    if job.profile.log and formats <= _WITHOUT_ENTRY:
        raise NotOfferedError(
            "this profile's signatures are in the log, and a composite one has no entry there: ask for dsse beside it"
        )
    if "cms" in formats and len(job.subjects) > 1:
        raise NotOfferedError("a CMS signature is of one artefact: give one subject")


def signs_artefacts(key: JobKey, formats: Iterable[Format], mu: Mapping[str, bytes]) -> bool:
    """Whether a key signs artefacts themselves: by digest where it takes one, by mu where that is given."""
    if key.algorithm.payload == "digest":
        return "raw" in formats or "bundle" in formats
    return "raw" in formats and key.key_id in mu


def digest_for(key: JobKey, subject: Subject, mu: Mapping[str, bytes]) -> bytes:
    """What stands for an artefact under a key.

    Raises:
        DigestMissingError: it is not given.
    """
    name = raw.needed_digest(key.algorithm)
    if name == raw.MU:
        return mu[key.key_id]
    if name not in subject.digest:
        raise DigestMissingError(
            f"{key.key_id} ({key.algorithm.name}) signs the {name} digest of an artefact; "
            f"the subject {subject.name[:100]!a} has none"
        )
    return bytes.fromhex(subject.digest[name])


def _uncovered(key: JobKey) -> Exception:
    if key.algorithm.family == "mldsa":
        return DigestMissingError(
            f"a raw signature by {key.key_id} ({key.algorithm.name}) needs the artefact's mu; or name the format dsse"
        )
    return NotOfferedError(f"{key.key_id} ({key.algorithm.name}) signs in none of the formats that were asked for")
