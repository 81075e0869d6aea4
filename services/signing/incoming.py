"""A request to sign as the steps of `services.signing.signatures` hand it on: read, checked, approved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.signing.callers import Caller
from services.signing.jobs import Job, Profile, StatementToSign
from services.signing.keys import JobKey
from services.signing.objects import WrittenFile
from services.signing.policy import Decision
from services.signing.provenance import PROVENANCE_TYPE, Provenance
from services.signing.sbom import Sbom
from services.signing.statements import VSA_TYPE
from services.signing.wire import PolicyUsed, SignatureRequest


class OwnStatement(NamedTuple):
    """What this service itself says of the subjects; no request of a caller brings one.

    Attributes:
        kind: for the names of files.
        predicate_type: that no caller's document has.
        predicate: JSON.
    """

    kind: str
    predicate_type: str
    predicate: bytes


class DocumentFile(NamedTuple):
    """A document that came along, and the media type it was declared to be of."""

    file: WrittenFile
    media_type: str | None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that was read (steps 1 and 2).

    Attributes:
        caller: who asks.
        request: what is asked.
        request_hash: SHA-256 of all of it, documents included.
        idempotency_key: None where there is none.
        sbom: on disk.
        provenance: its octets as they came.
    """

    caller: Caller
    request: SignatureRequest
    request_hash: bytes
    idempotency_key: str | None
    sbom: DocumentFile | None = None
    provenance: bytes | None = field(default=None, repr=False)
    own: OwnStatement | None = None

    @property
    def octets(self) -> int:
        """Of the documents."""
        return (0 if self.sbom is None else self.sbom.file.size) + len(self.provenance or b"")


class Keys(NamedTuple):
    """The keys of a request, by what they sign."""

    artefacts: tuple[JobKey, ...]
    statements: tuple[JobKey, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A request whose documents are what they should be (step 5).

    Attributes:
        incoming: as it was read.
        profile: what it is signed with.
        sbom: what the check found; None where there is none.
        provenance: likewise.
    """

    incoming: Incoming
    profile: Profile
    sbom: Sbom | None = None
    provenance: Provenance | None = None

    def predicate_types(self) -> frozenset[str]:
        """Of all that is attested."""
        if self.incoming.own is not None:
            return frozenset({self.incoming.own.predicate_type})
        found = {VSA_TYPE} if self.profile.attestation_keys else set()
        if self.sbom is not None:
            found.add(self.sbom.predicate_type)
        if self.provenance is not None:
            found.add(PROVENANCE_TYPE)
        return frozenset(found)

    def job(self, keys: Keys, statements: tuple[StatementToSign, ...] = ()) -> Job:
        """What these keys are to do."""
        return Job(
            subjects=self.incoming.request.subjects,
            keys=keys.artefacts,
            attestation_keys=keys.statements,
            profile=self.profile,
            mu=self.incoming.request.mu,
            statements=statements,
        )


@dataclass(frozen=True, slots=True)
class Approved:
    """A request that the policy allows, which is on record (step 6).

    Attributes:
        checked: the request.
        keys: that sign it.
        policy: what allowed it.
        id: of the signature to be.
        at: Unix seconds.
    """

    checked: Checked
    keys: Keys
    policy: PolicyUsed
    id: str
    at: int

    @property
    def incoming(self) -> Incoming:
        """As it was read."""
        return self.checked.incoming


def policy_used(decisions: Sequence[Decision]) -> PolicyUsed:
    """What allowed a request, of the decisions about each of its keys."""
    determining = sorted({policy for decision in decisions for policy in decision.determining})
    return PolicyUsed(decisions[0].policy_hash, decisions[0].policy_version, tuple(determining))
