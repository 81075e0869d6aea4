"""What the incidents' endpoints take and answer. Times are Unix seconds, serials lower-case hex."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from pkicore.errors import MalformedError
from services.ca.wire import format_serial, parse_serial
from services.chassis.fields import Fields

MAX_SERIALS: Final = 500
"""In one request; who has more sends several."""
MAX_AT_RISK: Final = 2000  # certificates in one page
_MAX_REASON, _MAX_URL = 1000, 2000
_CRITERIA: Final = ("serials", "issuer", "issuer_key", "profile", "account", "issued_from", "issued_to")
_KEY: Final = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass(frozen=True, slots=True)
class IncidentRequest:
    """`POST /v1/incidents`: why certificates are to be renewed now, and where that is explained, if it is."""

    reason: str
    explanation_url: str = ""

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> IncidentRequest:
        """Read a request body.

        Raises:
            MalformedError: no reason, or an explanation that is no URL.
        """
        body = Fields.parse(data, {"reason", "explanation_url"})
        url = body.text("explanation_url", _MAX_URL) if body.members.get("explanation_url") else ""
        if url and not _is_web_url(url):
            raise MalformedError("explanation_url must be a http or https URL with a host, without a user or a zone")
        return cls(body.line("reason", _MAX_REASON), url)


@dataclass(frozen=True, slots=True)
class Selection:
    """Certificates that have not expired and have all of what is given; at least one of it is.

    Attributes:
        serials: any of them.
        issuer: id of their issuing CA, for the records.
        issuer_key: subject key identifier of that CA, hex; what they are found by.
        profile: of their orders.
        account: id of the account that ordered them.
        issued_from: first second of the time in which they were issued.
        issued_to: its last second.
    """

    serials: tuple[str, ...] = ()
    issuer: str = ""
    issuer_key: str = ""
    profile: str = ""
    account: str = ""
    issued_from: int | None = None
    issued_to: int | None = None

    def described(self) -> dict[str, Any]:
        """What is given, for records; of serials their number."""
        given = {name: value for name, value in asdict(self).items() if value not in ("", None, ())}
        return given | ({"serials": len(self.serials)} if self.serials else {})

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps({name: value for name, value in asdict(self).items() if value not in ("", None, ())})

    @classmethod
    def from_json(cls, data: bytes) -> Selection:
        """Read a request body.

        Raises:
            MalformedError: nothing is selected, or a member is not what it should be.
        """
        body = Fields.parse(data, _CRITERIA)
        serials = body.texts("serials") if "serials" in body.members else []
        if len(serials) > MAX_SERIALS:
            raise MalformedError(f"serials has at most {MAX_SERIALS} in one request")
        found = cls(
            serials=tuple(dict.fromkeys(format_serial(parse_serial(serial)) for serial in serials)),
            issuer=body.optional_text("issuer") or "",
            issuer_key=body.optional_text("issuer_key") or "",
            profile=body.optional_text("profile") or "",
            account=body.optional_text("account") or "",
            issued_from=body.optional_time("issued_from"),
            issued_to=body.optional_time("issued_to"),
        )
        found.check()
        return found

    def check(self) -> None:
        """Whether this selects something, and one thing only.

        Raises:
            MalformedError: it does not.
        """
        if not self.described():
            raise MalformedError(f"select certificates by at least one of {', '.join(_CRITERIA)}")
        if bool(self.issuer) != bool(self.issuer_key) or (self.issuer_key and not _KEY.fullmatch(self.issuer_key)):
            raise MalformedError("issuer goes with issuer_key, its subject key identifier in hex")
        if (self.issued_from is None) != (self.issued_to is None) or (self.issued_to or 0) < (self.issued_from or 0):
            raise MalformedError("issued_from and issued_to go together, the earlier one first")


@dataclass(frozen=True, slots=True)
class Selected:
    """What a selection added to an incident: how many certificates, and how many serials this server does not know."""

    added: int
    unknown: int

    @classmethod
    def from_json(cls, data: bytes) -> Selected:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(body.time("added"), body.time("unknown"))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an incident is: every certificate that it concerns is in one of the other four numbers.

    Attributes:
        concerned: all of them.
        replaced: another certificate is in their place.
        revoked: not replaced, and revoked.
        expired: neither, and over.
        at_risk: none of that.
    """

    concerned: int
    replaced: int
    revoked: int
    expired: int
    at_risk: int

    @classmethod
    def read(cls, item: Fields) -> Progress:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(*(item.time(name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class IncidentEntry:
    """An incident as operators see it.

    Attributes:
        id: by which commands name it.
        state: prepared (nobody sees it yet), open or closed.
        reason: the operator's.
        explanation_url: what clients are told; may be empty.
        opened_at: when it was opened; of a prepared one, when it was prepared.
        opened_by: who opened it.
        closed_at: when it was closed.
        progress: where it was counted.
    """

    id: str
    state: str
    reason: str
    explanation_url: str
    opened_at: int
    opened_by: str
    closed_at: int | None = None
    progress: Progress | None = None

    @classmethod
    def read(cls, item: Fields) -> IncidentEntry:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        progress = item.members.get("progress")
        return cls(
            id=item.text("id"),
            state=item.text("state"),
            reason=item.text("reason", _MAX_REASON),
            explanation_url=item.text("explanation_url", _MAX_URL) if item.members.get("explanation_url") else "",
            opened_at=item.time("opened_at"),
            opened_by=item.text("opened_by", 2048),
            closed_at=item.optional_time("closed_at"),
            progress=None if progress is None else Progress.read(Fields.of(progress)),
        )

    @classmethod
    def from_json(cls, data: bytes) -> IncidentEntry:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))


@dataclass(frozen=True, slots=True)
class IncidentList:
    """`GET /v1/incidents`: the newest first."""

    incidents: Sequence[IncidentEntry]

    @classmethod
    def from_json(cls, data: bytes) -> IncidentList:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls([IncidentEntry.read(Fields(item)) for item in Fields.parse(data).objects("incidents")])


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A certificate that nobody has replaced, with whom to write to."""

    serial: str
    names: Sequence[str]
    account: str
    contacts: Sequence[str]
    profile: str
    not_after: int

    @classmethod
    def read(cls, item: Fields) -> AtRisk:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(
            serial=item.text("serial"),
            names=item.texts("names"),
            account=item.text("account", 2048),
            contacts=item.texts("contacts"),
            profile=item.text("profile"),
            not_after=item.time("not_after"),
        )


@dataclass(frozen=True, slots=True)
class AtRiskPage:
    """`GET /v1/incidents/{id}/at-risk`: some of them, and where the next page begins; None at the end."""

    certificates: Sequence[AtRisk]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> AtRiskPage:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls([AtRisk.read(Fields(item)) for item in body.objects("certificates")], body.optional_text("next"))


def _is_web_url(text: str) -> bool:
    if not text.isascii() or set(text) & set(' "<>\\\n'):  # browsers take a backslash for a slash
        return False
    try:
        url = urlsplit(text)
        has_host = bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    # A zone (RFC 6874) means something on one machine alone; nor is any other host written with escapes.
    return url.scheme in {"http", "https"} and has_host and not set("@%") & set(url.netloc)
