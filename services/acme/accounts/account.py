"""Accounts (RFC 8555 §7.3): read, changed, closed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pkicore.clock import Clock, unix
from services.acme.accounts.terms import Terms
from services.acme.answers import answer, location, not_found
from services.acme.errors import AcmeError
from services.acme.requests import AccountCache, AccountRequest
from services.acme.store import AccountRow, Store
from services.acme.store.account_changes import AccountChanges
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_MAX_CONTACT: Final = 320  # characters: "mailto:" and an address of RFC 5321 §4.5.3.1
# One addr-spec of RFC 6068 without hfields; quoted local parts, address literals and escapes (%0A …) are not taken.
_MAILTO: Final = re.compile(
    r"mailto:[A-Za-z0-9.!#$&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.IGNORECASE
)


@dataclass(frozen=True)
class AccountRules:
    """What the operator asks of accounts: the terms to agree to, and how many contacts an account has at most."""

    terms: Terms
    max_contacts: int

    def contacts(self, value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON from the client
        """The contacts of a request, each once.

        Raises:
            AcmeError: malformed, unsupportedContact or invalidContact.
        """
        if not isinstance(value, list) or not all(isinstance(contact, str) for contact in value):
            raise AcmeError("malformed", "contact must be a list of URLs")
        if len(value) > self.max_contacts:
            raise AcmeError("invalidContact", f"an account has at most {self.max_contacts} contacts")
        for contact in value:
            if not contact.lower().startswith("mailto:"):
                raise AcmeError("unsupportedContact", "contacts must be mailto URLs")
            if len(contact) > _MAX_CONTACT or not _MAILTO.fullmatch(contact):
                raise AcmeError("invalidContact", "a mailto contact is exactly one e-mail address without headers")
        return tuple(dict.fromkeys(value))


@dataclass(frozen=True)
class AccountDocuments:
    """Account objects (RFC 8555 §7.1.2)."""

    urls: Urls
    terms: Terms

    def url(self, account_id: str) -> str:
        """What clients call the account (kid)."""
        return self.urls.of(f"acct/{account_id}")

    def of(self, account: AccountRow) -> dict[str, Any]:
        """The object; the agreement stands in it while it is to the terms in force."""
        document: dict[str, Any] = {"status": account.status, "orders": f"{self.url(account.id)}/orders"}
        if account.contacts:
            document["contact"] = list(account.contacts)
        if account.terms_agreed_at is not None and self.terms.is_agreed(account):
            document["termsOfServiceAgreed"] = True
        return document


class Accounts:
    """The resource account."""

    def __init__(
        self,
        store: Store,
        changes: AccountChanges,
        cache: AccountCache,
        documents: AccountDocuments,
        rules: AccountRules,
        clock: Clock,
    ) -> None:
        self._store = store
        self._changes = changes
        self._cache = cache
        self._documents = documents
        self._rules = rules
        self._clock = clock

    async def post(self, request: AccountRequest, account_id: str) -> Response:
        """Read, change or deactivate the account that signs.

        Raises:
            AcmeError: unauthorized for any other account, whether it exists or not.
        """
        account = request.account.row
        if account.id != account_id:
            raise AcmeError("unauthorized", "this is not the account that signed the request")
        if request.is_read:
            return self._answer(account)
        members = request.members()
        if members.get("status") == "deactivated":
            return await self._deactivate(account)
        # Any other status is ignored (§7.3.2), since clients may send the whole account back.
        contacts = self._rules.contacts(members["contact"]) if "contact" in members else None
        agrees = flag(members, "termsOfServiceAgreed")
        terms = self._rules.terms.url if agrees and account.terms != self._rules.terms.url else ""
        if contacts is None and not terms:
            return self._answer(account)
        return await self._update(account, contacts, terms)

    def _answer(self, account: AccountRow) -> Response:
        return answer(self._documents.of(account), location(self._documents.url(account.id)))

    async def _deactivate(self, account: AccountRow) -> Response:
        try:
            await self._store.deactivate_account(account.id, AuditEvent("account.deactivated", f"account:{account.id}"))
        except ConflictError as error:
            raise not_valid_any_more() from error
        finally:
            self._cache.forget(account.id)
        return answer(self._documents.of(account) | {"status": "deactivated"})

    async def _update(self, account: AccountRow, contacts: tuple[str, ...] | None, terms: str) -> Response:
        detail: dict[str, Any] = {} if contacts is None else {"contacts": list(contacts)}
        if terms:
            detail["terms"] = terms
        agreement = (terms, unix(self._clock.now())) if terms else None
        audit = AuditEvent("account.updated", f"account:{account.id}", detail)
        try:
            await self._changes.update(account.id, contacts, agreement, audit)
        except ConflictError as error:
            raise not_valid_any_more() from error
        finally:
            self._cache.forget(account.id)
        changed = await self._store.account(account.id)
        if changed is None:
            raise not_found()
        return self._answer(changed)


def not_valid_any_more() -> AcmeError:
    """The account was deactivated while the request was on its way."""
    return AcmeError("unauthorized", "this account is deactivated")


def flag(members: dict[str, Any], name: str) -> bool:
    """A member that is true or false, and false where it is left out.

    Raises:
        AcmeError: malformed: anything else.
    """
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise AcmeError("malformed", f"{name} must be true or false")
    return value
