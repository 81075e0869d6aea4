"""Every URL of the server, from one base: what clients sign, store and compare must never change its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFIX: Final = "/acme/"


@dataclass(frozen=True)
class Urls:
    """The resources below `base` (scheme and authority, without trailing slash)."""

    base: str

    def of(self, path: str) -> str:
        """The URL of a path below the ACME prefix, e.g. `new-order` or `acct/<id>`."""
        return f"{self.base}{PREFIX}{path}"

    def account_id(self, kid: str) -> str | None:
        """The account id of an account URL, or None where it is another kind of text."""
        prefix = self.of("acct/")
        return kid[len(prefix) :] if kid.startswith(prefix) else None
