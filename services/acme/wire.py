"""What the endpoints of the admin listener take and answer. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields

OPERATOR_ENDPOINTS: Final = (
    "GET /v1/accounts",
    "GET /v1/accounts/{id}",
    "POST /v1/accounts/{id}/agreement",
    "POST /v1/accounts/{id}/deactivation",
    "GET /v1/external-accounts",
    "POST /v1/external-accounts",
    "GET /v1/external-accounts/{kid}",
    "POST /v1/external-accounts/{kid}/revocation",
    "GET /v1/incidents",
    "POST /v1/incidents",
    "GET /v1/incidents/{id}",
    "DELETE /v1/incidents/{id}",
    "POST /v1/incidents/{id}/certificates",
    "POST /v1/incidents/{id}/opening",
    "POST /v1/incidents/{id}/closure",
    "GET /v1/incidents/{id}/at-risk",
    "GET /v1/limits",
    "POST /v1/limits",
    "POST /v1/limits/reset",
    "GET /v1/openapi.json",
)
"""What the caller policy of a new deployment lets operators ask; an older one lacks it."""
MAX_PAGE: Final = 500
MAX_SEARCH: Final = 320  # characters of what is searched for, and of a name that is allowed
MAX_COMMENT: Final = 200  # characters
MAX_LISTED: Final = 500  # names that one external account allows


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """An account as operators see it.

    Attributes:
        id: the end of its URL.
        url: what clients call it (kid).
        status: valid or deactivated.
        thumbprint: of its key, RFC 7638.
        algorithm: JWS algorithm of its key.
        contacts: mailto URLs.
        created_at: when it was made.
        terms: the URL that it agreed to, if any.
        eab_kid: its external account, if it is bound to one.
    """

    id: str
    url: str
    status: str
    thumbprint: str
    algorithm: str
    contacts: Sequence[str]
    created_at: int
    terms: str | None = None
    eab_kid: str | None = None

    @classmethod
    def read(cls, item: Fields) -> AccountEntry:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(
            id=item.text("id"),
            url=item.text("url"),
            status=item.text("status"),
            thumbprint=item.text("thumbprint"),
            algorithm=item.text("algorithm"),
            contacts=item.texts("contacts"),
            created_at=item.time("created_at"),
            terms=item.optional_text("terms", 2048),
            eab_kid=item.optional_text("eab_kid"),
        )

    @classmethod
    def from_json(cls, data: bytes) -> AccountEntry:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))


@dataclass(frozen=True, slots=True)
class AccountPage:
    """`GET /v1/accounts`: the newest first, and the cursor of the next page; None at the end."""

    accounts: Sequence[AccountEntry]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> AccountPage:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        entries = [AccountEntry.read(Fields(item)) for item in body.objects("accounts")]
        return cls(entries, body.optional_text("next"))


@dataclass(frozen=True, slots=True)
class AccountQuery:
    """What is looked for; what is left empty finds every account.

    Attributes:
        contact: a part of a contact, in any case.
        thumbprint: of the account's key, whole.
        eab_kid: of its external account, whole.
        status: valid or deactivated.
        cursor: where the page begins.
        limit: accounts at most.
    """

    contact: str = ""
    thumbprint: str = ""
    eab_kid: str = ""
    status: str = ""
    cursor: str = ""
    limit: int = 100

    def parameters(self) -> dict[str, str | int]:
        """As the query of a URL, without what is empty."""
        every: dict[str, str | int] = {
            "contact": self.contact,
            "thumbprint": self.thumbprint,
            "eab_kid": self.eab_kid,
            "status": self.status,
            "cursor": self.cursor,
            "limit": self.limit,
        }
        return {name: value for name, value in every.items() if value}


@dataclass(frozen=True, slots=True)
class ExternalAccountRequest:
    """`POST /v1/external-accounts`: what a new key identifier allows.

    Attributes:
        comment: for people.
        identifiers: patterns of `services.acme.external_accounts.allowed_names`; none: any name.
        profiles: by name; none: any.
        max_accounts: that may be made with it in all, deactivated ones counted; None: any number.
        not_after: after this, no more accounts; None: never.
    """

    comment: str = ""
    identifiers: Sequence[str] = ()
    profiles: Sequence[str] = ()
    max_accounts: int | None = None
    not_after: int | None = None

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> ExternalAccountRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"comment", "identifiers", "profiles", "max_accounts", "not_after"})
        identifiers, profiles = (_listed(body, name) for name in ("identifiers", "profiles"))
        most = body.optional_time("max_accounts")
        if most == 0:
            raise MalformedError("max_accounts must be at least 1, or null for any number")
        comment = body.line("comment", MAX_COMMENT) if body.members.get("comment") else ""
        return cls(comment, identifiers, profiles, most, body.optional_time("not_after"))


@dataclass(frozen=True, slots=True)
class ExternalAccountEntry:
    """An external account as operators see it; `status` is valid, full, expired or revoked."""

    kid: str
    status: str
    comment: str
    identifiers: Sequence[str]
    profiles: Sequence[str]
    accounts: int
    max_accounts: int | None
    not_after: int | None
    created_at: int
    created_by: str
    revoked_at: int | None

    @classmethod
    def read(cls, item: Fields) -> ExternalAccountEntry:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(
            kid=item.text("kid"),
            status=item.text("status"),
            comment=item.text("comment") if item.members.get("comment") else "",
            identifiers=item.texts("identifiers"),
            profiles=item.texts("profiles"),
            accounts=item.time("accounts"),
            max_accounts=item.optional_time("max_accounts"),
            not_after=item.optional_time("not_after"),
            created_at=item.time("created_at"),
            created_by=item.text("created_by", 2048),
            revoked_at=item.optional_time("revoked_at"),
        )

    @classmethod
    def from_json(cls, data: bytes) -> ExternalAccountEntry:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))


@dataclass(frozen=True, slots=True)
class NewExternalAccount:
    """A key identifier that was made, and its MAC key, base64url: said this once."""

    entry: ExternalAccountEntry
    mac_key: str = field(repr=False)

    @classmethod
    def from_json(cls, data: bytes) -> NewExternalAccount:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(ExternalAccountEntry.read(Fields.of(body.members.get("entry"))), body.text("mac_key"))


@dataclass(frozen=True, slots=True)
class ExternalAccountPage:
    """`GET /v1/external-accounts`: the newest first, and the cursor of the next page; None at the end."""

    external_accounts: Sequence[ExternalAccountEntry]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> ExternalAccountPage:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        entries = [ExternalAccountEntry.read(Fields(item)) for item in body.objects("external_accounts")]
        return cls(entries, body.optional_text("next"))


@dataclass(frozen=True, slots=True)
class RevokedExternalAccount:
    """`POST /v1/external-accounts/{kid}/revocation`: what became of it, and how many accounts were deactivated."""

    entry: ExternalAccountEntry
    deactivated: int

    @classmethod
    def from_json(cls, data: bytes) -> RevokedExternalAccount:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(ExternalAccountEntry.read(Fields.of(body.members.get("entry"))), body.time("deactivated"))


def _listed(body: Fields, name: str) -> list[str]:
    values = body.texts(name, MAX_SEARCH) if body.members.get(name) is not None else []
    if len(values) > MAX_LISTED:
        raise MalformedError(f"{name} has at most {MAX_LISTED} entries")
    return values
