"""Accounts (RFC 8555 §7.3): made, found, changed, closed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pkicore.clock import Clock, unix
from pkicore.jose.jwk import jwk_of, thumbprint
from services.acme.answers import answer, link, location, not_found
from services.acme.blocked_keys import BlockedKeys
from services.acme.errors import AcmeError
from services.acme.ids import new_id
from services.acme.requests import AccountCache, AccountRequest, KeyRequest
from services.acme.store import AccountRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DuplicateError

_MAX_CONTACT: Final = 320  # characters: "mailto:" and an address of RFC 5321 §4.5.3.1
# One addr-spec of RFC 6068 without hfields; quoted local parts, address literals and escapes (%0A …) are not taken.
_MAILTO: Final = re.compile(
    r"mailto:[A-Za-z0-9.!#$&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.IGNORECASE
)


@dataclass(frozen=True)
class AccountRules:
    """What the operator asks of accounts; `terms` is a URL, or empty where there is nothing to agree to."""

    terms: str
    max_contacts: int


class Accounts:
    """The resources newAccount, account and the list of its orders."""

    def __init__(
        self,
        store: Store,
        cache: AccountCache,
        urls: Urls,
        rules: AccountRules,
        blocked: BlockedKeys,
        clock: Clock,
    ) -> None:
        self._store = store
        self._blocked = blocked
        self._cache = cache
        self._urls = urls
        self._rules = rules
        self._clock = clock

    async def create(self, request: KeyRequest) -> Response:
        """Make an account for the key, or find the one it has.

        Raises:
            AcmeError: badPublicKey (blocked), accountDoesNotExist, unauthorized (deactivated, or blocked since),
                userActionRequired, or a contact is refused.
        """
        members = request.members()
        only_existing = _flag(members, "onlyReturnExisting")
        agreed = _flag(members, "termsOfServiceAgreed")
        existing = await self._store.account_by_thumbprint(thumbprint(request.public_key))
        if existing is not None:
            await self._blocked.refuse_account(request.public_key)
            return self._found(existing)
        await self._blocked.refuse_new(request.public_key)
        if only_existing:
            raise AcmeError("accountDoesNotExist", "no account has this key")
        if self._rules.terms and not agreed:
            raise AcmeError(
                "userActionRequired",
                "the terms of service must be agreed to",
                headers=[link(self._rules.terms, "terms-of-service")],
            )
        now = unix(self._clock.now())
        account = AccountRow(
            id=new_id(),
            status="valid",
            thumbprint=thumbprint(request.public_key),
            jwk=jwk_of(request.public_key),
            contacts=self._contacts(members.get("contact", [])),
            terms_agreed_at=now if agreed and self._rules.terms else None,
            created_at=now,
        )
        return await self._store_new(account)

    async def post(self, request: AccountRequest, account_id: str) -> Response:
        """Read, change or deactivate the account that signs.

        Raises:
            AcmeError: unauthorized for any other account, whether it exists or not.
        """
        account = request.account.row
        if account.id != account_id:
            raise AcmeError("unauthorized", "this is not the account that signed the request")
        if request.is_read:
            return answer(self._document(account), location(self._urls.of(f"acct/{account.id}")))
        members = request.members()
        if members.get("status") == "deactivated":
            return await self._deactivate(account)
        # Any other status is ignored (§7.3.2), since clients may send the whole account back.
        if "contact" in members:
            return await self._update(account, self._contacts(members["contact"]))
        return answer(self._document(account))

    async def orders(self, request: AccountRequest, account_id: str) -> Response:
        """The account's orders, newest first, without the invalid ones (RFC 8555 §7.1.2.1).

        Raises:
            AcmeError: unauthorized for any other account.
        """
        request.require_read()
        if request.account.id != account_id:
            raise AcmeError("unauthorized", "this is not the account that signed the request")
        ids = await self._store.order_ids(account_id)
        return answer({"orders": [self._urls.of(f"order/{order_id}") for order_id in ids]})

    def _found(self, account: AccountRow) -> Response:
        if account.status != "valid":
            raise AcmeError("unauthorized", f"the account of this key is {account.status}")
        return answer(self._document(account), location(self._urls.of(f"acct/{account.id}")))

    async def _store_new(self, account: AccountRow) -> Response:
        detail = {"thumbprint": account.thumbprint, "contacts": list(account.contacts)}
        try:
            await self._store.create_account(account, AuditEvent("account.created", f"account:{account.id}", detail))
        except DuplicateError:  # the same key asked twice at once; the other request has made the account
            existing = await self._store.account_by_thumbprint(account.thumbprint)
            if existing is None:
                raise
            return self._found(existing)
        where = location(self._urls.of(f"acct/{account.id}"))
        return answer(self._document(account), where, status=201)

    async def _deactivate(self, account: AccountRow) -> Response:
        try:
            await self._store.deactivate_account(account.id, AuditEvent("account.deactivated", f"account:{account.id}"))
        except ConflictError as error:
            raise not_valid_any_more() from error
        finally:
            self._cache.forget(account.id)
        return answer(self._document(account) | {"status": "deactivated"})

    async def _update(self, account: AccountRow, contacts: tuple[str, ...]) -> Response:
        audit = AuditEvent("account.updated", f"account:{account.id}", {"contacts": list(contacts)})
        try:
            await self._store.update_contacts(account.id, contacts, audit)
        except ConflictError as error:
            raise not_valid_any_more() from error
        finally:
            self._cache.forget(account.id)
        changed = await self._store.account(account.id)
        if changed is None:
            raise not_found()
        return answer(self._document(changed))

    def _contacts(self, value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON from the client
        if not isinstance(value, list) or not all(isinstance(contact, str) for contact in value):
            raise AcmeError("malformed", "contact must be a list of URLs")
        if len(value) > self._rules.max_contacts:
            raise AcmeError("invalidContact", f"an account has at most {self._rules.max_contacts} contacts")
        for contact in value:
            if not contact.lower().startswith("mailto:"):
                raise AcmeError("unsupportedContact", "contacts must be mailto URLs")
            if len(contact) > _MAX_CONTACT or not _MAILTO.fullmatch(contact):
                raise AcmeError("invalidContact", "a mailto contact is exactly one e-mail address without headers")
        return tuple(dict.fromkeys(value))

    def _document(self, account: AccountRow) -> dict[str, Any]:
        document: dict[str, Any] = {"status": account.status, "orders": self._urls.of(f"acct/{account.id}/orders")}
        if account.contacts:
            document["contact"] = list(account.contacts)
        if account.terms_agreed_at is not None:
            document["termsOfServiceAgreed"] = True
        return document


def not_valid_any_more() -> AcmeError:
    """The account was deactivated while the request was on its way."""
    return AcmeError("unauthorized", "this account is deactivated")


def _flag(members: dict[str, Any], name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise AcmeError("malformed", f"{name} must be true or false")
    return value
