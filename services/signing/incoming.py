"""A request to sign as the steps of `services.signing.signatures` hand it on: read, checked, approved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.signing.callers import Caller
from services.signing.jobs import Job, Profile, StatementToSign, needs_statement
from services.signing.keys import JobKey
from services.signing.objects import WrittenFile
from services.signing.policy import Decision
from services.signing.provenance import PROVENANCE_TYPE, Provenance
from services.signing.sbom import Sbom
from services.signing.statements import VSA_TYPE
from services.signing.wire import PolicyUsed, SignatureRequest


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

    @property
    def octets(self) -> int:
        """Of the documents."""
        return (0 if self.sbom is None else self.sbom.file.size) + len(self.provenance or b"")


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
        found = {VSA_TYPE} if needs_statement(self.profile.formats) else set()
        if self.sbom is not None:
            found.add(self.sbom.predicate_type)
        if self.provenance is not None:
            found.add(PROVENANCE_TYPE)
        return frozenset(found)

    def job(self, keys: Sequence[JobKey], statements: tuple[StatementToSign, ...] = ()) -> Job:
        """What these keys are to do."""
        request = self.incoming.request
        return Job(
            subjects=request.subjects, keys=tuple(keys), profile=self.profile, mu=request.mu, statements=statements
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
    keys: Sequence[JobKey]
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
