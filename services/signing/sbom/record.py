"""What is known of an SBOM once it has been checked, and its form between the checking process and the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.signing.sbom.errors import bounded

MAX_TEXT: Final = 512  # characters of what is quoted from a document


@dataclass(frozen=True, slots=True)
class Kind:
    """A format in one version, with the names that others know it by."""

    format: str  # cyclonedx, spdx
    version: str
    media_type: str  # canonical
    predicate_type: str  # of an in-toto statement
    accepted: tuple[str, ...]  # media types that name this format


@dataclass(frozen=True, slots=True)
class Description:
    """What an SBOM says of itself, quoted and bounded; None where it says nothing.

    Attributes:
        subject: identifier of what it describes: a purl, or the id within the document.
        serial: what tells this document from others: CycloneDX serial number, SPDX namespace or document id.
        components: how many components (CycloneDX) or packages (SPDX) it lists, the subject not counted apart.
    """

    subject: str | None
    name: str | None
    version: str | None
    serial: str | None
    components: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A requirement of the guideline that is not met: how often, and the JSON path where it is missed first."""

    requirement: str
    message: str
    count: int
    first: str


@dataclass(frozen=True, slots=True)
class BsiReport:
    """How far an SBOM goes with BSI TR-03183-2; a report, never a reason to refuse.

    Attributes:
        guideline: the guideline with its version.
        findings: requirements that are not met; none means that nothing was found, not that the document conforms.
        unchecked: requirements that were not looked at.
    """

    guideline: str
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sbom:
    """An SBOM that was checked against its format."""

    format: str
    version: str
    media_type: str
    predicate_type: str
    description: Description
    bsi: BsiReport

    def to_members(self) -> dict[str, Any]:
        """Its JSON form."""
        return asdict(self)

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Sbom:
        """Read what `to_members` wrote; any other shape raises KeyError or TypeError."""
        bsi = members["bsi"]
        findings = tuple(Finding(**finding) for finding in bsi["findings"])
        return cls(
            **{name: members[name] for name in ("format", "version", "media_type", "predicate_type")},
            description=Description(**members["description"]),
            bsi=BsiReport(bsi["guideline"], findings, tuple(bsi["unchecked"])),
        )


def quoted(value: object) -> str | None:
    """A string of a document as it may be kept and shown: bounded and printable; None of anything else."""
    return bounded(value, MAX_TEXT) if isinstance(value, str) and value else None
