"""Terms of service (RFC 8555 §7.3.3): who has agreed to those that are in force."""

from __future__ import annotations

from dataclasses import dataclass

from services.acme.answers import link
from services.acme.errors import AcmeError
from services.acme.store import AccountRow


@dataclass(frozen=True)
class Terms:
    """The terms in force, by their URL; empty where there is nothing to agree to. Other terms have another URL."""

    url: str

    def is_agreed(self, account: AccountRow) -> bool:
        """Whether the account has agreed to these terms.

        One that agreed before URLs were kept agreed to what there was: it is asked again when it agrees to others.
        """
        if not self.url or account.terms == self.url:
            return True
        return account.terms is None and account.terms_agreed_at is not None

    def require(self, account: AccountRow) -> None:
        """The account must have agreed before it may order.

        Raises:
            AcmeError: userActionRequired, with the terms as `instance` and as a link.
        """
        if not self.is_agreed(account):
            raise self.refusal("the terms of service have changed: agree to them with an update of the account")

    def refusal(self, detail: str) -> AcmeError:
        """What is answered to who has not agreed (RFC 8555 §7.3.3)."""
        return AcmeError(
            "userActionRequired",
            detail,
            extra={"instance": self.url},
            headers=[link(self.url, "terms-of-service")],
        )
