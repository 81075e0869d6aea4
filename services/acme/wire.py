"""What the endpoints of the admin listener take and answer. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from services.chassis.fields import Fields

OPERATOR_ENDPOINTS: Final = (
    "GET /v1/accounts",
    "GET /v1/accounts/{id}",
    "POST /v1/accounts/{id}/deactivation",
    "GET /v1/external-accounts",
    "POST /v1/external-accounts",
    "GET /v1/external-accounts/{kid}",
    "POST /v1/external-accounts/{kid}/revocation",
    "GET /v1/openapi.json",
)
"""What the caller policy of a new deployment lets operators ask; an older one lacks it."""
MAX_PAGE: Final = 500
MAX_SEARCH: Final = 320  # characters of what is searched for


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

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)


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

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)


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
        every = {
            "contact": self.contact,
            "thumbprint": self.thumbprint,
            "eab_kid": self.eab_kid,
            "status": self.status,
            "cursor": self.cursor,
            "limit": self.limit,
        }
        return {name: value for name, value in every.items() if value}
