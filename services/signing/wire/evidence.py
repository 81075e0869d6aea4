"""`/v1/evidence` and `/v1/holds`: archives of evidence, and what keeps a signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields


@dataclass(frozen=True, slots=True)
class NewEvidenceRequest:
    """`POST /v1/evidence`: an archive about signatures by id, and about all of the subjects (`sha256:HEX`)."""

    name: str
    signatures: tuple[str, ...]
    subjects: tuple[str, ...]
    profile: str

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class EvidenceAnswer:
    """An archive of evidence.

    Attributes:
        size: octets.
        sha256: of the archive, lower-case hexadecimal.
        manifest_signature: id of the signature over its manifest.
        retained_until: the earliest date of its signatures, Unix seconds; None where one has none.
        urls: `self` and `archive`, paths of the service.
    """

    id: str
    tenant: str
    name: str
    size: int
    sha256: str
    manifest_signature: str
    retained_until: int | None
    created_at: int
    created_by: str
    urls: Mapping[str, str]

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> EvidenceAnswer:
        """Read an answer body; MalformedError where it is none."""
        return cls.of(Fields.parse(data).members)

    @classmethod
    def of(cls, members: object) -> EvidenceAnswer:
        """Read one out of a page; MalformedError where it is none."""
        body = Fields.of(members)
        urls = body.members.get("urls")
        if not isinstance(urls, dict) or not all(isinstance(url, str) for url in urls.values()):
            raise MalformedError("urls must be an object of strings")
        return cls(
            body.text("id"),
            body.text("tenant"),
            body.text("name"),
            body.time("size"),
            body.text("sha256"),
            body.text("manifest_signature"),
            body.optional_time("retained_until"),
            body.time("created_at"),
            body.text("created_by", 4096),
            urls,
        )


@dataclass(frozen=True, slots=True)
class EvidencePage:
    """`GET /v1/evidence`: the newest first; `next` is the `after` of the following page, None at the end."""

    evidence: tuple[EvidenceAnswer, ...]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> EvidencePage:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(tuple(map(EvidenceAnswer.of, body.objects("evidence"))), body.optional_text("next"))


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """`PUT /v1/holds/{signature}`: a legal hold, and why."""

    reason: str

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps({"reason": self.reason})


@dataclass(frozen=True, slots=True)
class HoldAnswer:
    """`GET /v1/holds/{signature}`: what keeps a signature beyond its tenant's rule.

    Attributes:
        promised_until: by archives of evidence, Unix seconds; 0: nothing was promised.
        held_at: since when there is a legal hold; None: there is none.
        held_by: who laid it.
        hold_reason: why.
    """

    promised_until: int
    held_at: int | None
    held_by: str | None
    hold_reason: str | None

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> HoldAnswer:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(
            body.time("promised_until"),
            body.optional_time("held_at"),
            body.optional_text("held_by", 4096),
            body.optional_text("hold_reason", 4096),
        )
