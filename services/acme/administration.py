"""What operators do with accounts, and the parts that the admin API stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pkicore.algorithms import algorithm_of
from pkicore.clock import Clock, unix
from pkicore.errors import MalformedError
from pkicore.jose.jwk import public_key_from_jwk
from services.acme.accounts.terms import Terms
from services.acme.errors import NotKnownError, NotPossibleError
from services.acme.external_accounts.administration import ExternalAccountAdministration
from services.acme.ids import is_id
from services.acme.incidents.incidents import Incidents
from services.acme.rate_limits.administration import LimitAdministration
from services.acme.requests import AccountCache
from services.acme.store import AccountRow, Store
from services.acme.store.account_changes import AccountChanges
from services.acme.store.account_search import AccountSearch
from services.acme.urls import Urls
from services.acme.wire import AccountEntry, AccountPage, AccountQuery
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_STATUSES: Final = ("", "valid", "deactivated")


class AccountAdministration:
    """Accounts as operators see them, their agreement to terms, and their end."""

    def __init__(
        self,
        store: Store,
        search: AccountSearch,
        changes: AccountChanges,
        cache: AccountCache,
        terms: Terms,
        urls: Urls,
        clock: Clock,
    ) -> None:
        self._store = store
        self._search = search
        self._changes = changes
        self._cache = cache
        self._terms = terms
        self._urls = urls
        self._clock = clock

    async def page(self, query: AccountQuery) -> AccountPage:
        """Some accounts, the newest first.

        Raises:
            MalformedError: a status that there is not, or a cursor of somebody else.
        """
        if query.status not in _STATUSES:
            raise MalformedError("status must be valid or deactivated")
        found = await self._search.find(query, _position(query.cursor))
        more = len(found) > query.limit
        rows = found[: query.limit]
        cursor = f"{rows[-1].created_at}.{rows[-1].id}" if more else None
        return AccountPage([self._entry(row) for row in rows], cursor)

    async def one(self, account_id: str) -> AccountEntry:
        """The account with this id.

        Raises:
            NotKnownError: there is none.
        """
        return self._entry(await self._row(account_id))

    async def agree(self, account_id: str, terms: str, operator: str) -> AccountEntry:
        """Record that the holder agreed to the terms in force; the operator says which they are, and answers for it.

        For clients that cannot say it (RFC 8555 §7.3.3 leaves open how users agree). Once more is harmless.

        Raises:
            NotKnownError: there is no such account.
            NotPossibleError: these are not the terms in force, or the account is deactivated.
        """
        if terms != self._terms.url:
            in_force = f"the terms in force are {self._terms.url}" if self._terms.url else "there are no terms in force"
            raise NotPossibleError(f"{in_force}: an agreement to others is not recorded")
        row = await self._row(account_id)
        if row.terms == terms and row.status == "valid":
            return self._entry(row)
        audit = AuditEvent("account.agreed-for", operator, {"account": row.id, "terms": terms})
        try:
            await self._changes.update(row.id, None, (terms, unix(self._clock.now())), audit)
        except ConflictError as error:
            raise NotPossibleError("this account is deactivated: it agrees to nothing") from error
        finally:
            self._cache.forget(row.id)
        return self._entry(await self._row(account_id))

    async def deactivate(self, account_id: str, operator: str) -> AccountEntry:
        """End an account, its unfinished orders and its authorizations; its certificates stay as they are.

        Raises:
            NotKnownError: there is none.
            NotPossibleError: it is deactivated already.
        """
        row = await self._row(account_id)
        audit = AuditEvent("account.deactivated", operator, {"account": row.id})
        try:
            await self._store.deactivate_account(row.id, audit)
        except ConflictError as error:
            raise NotPossibleError("this account is deactivated already") from error
        finally:
            self._cache.forget(row.id)
        return self._entry(await self._row(account_id))

    async def _row(self, account_id: str) -> AccountRow:
        row = await self._store.account(account_id) if is_id(account_id) else None
        if row is None:
            raise NotKnownError("no account has this id")
        return row

    def _entry(self, row: AccountRow) -> AccountEntry:
        return AccountEntry(
            id=row.id,
            url=self._urls.of(f"acct/{row.id}"),
            status=row.status,
            thumbprint=row.thumbprint,
            algorithm=algorithm_of(public_key_from_jwk(row.jwk)).jws,
            contacts=row.contacts,
            created_at=row.created_at,
            terms=row.terms,
            eab_kid=row.eab_kid,
        )


@dataclass(frozen=True)
class Administration:
    """The parts that the admin API stands on."""

    accounts: AccountAdministration
    external_accounts: ExternalAccountAdministration
    incidents: Incidents
    limits: LimitAdministration


def _position(cursor: str) -> tuple[int, str] | None:
    """Where a page begins: behind the account that was made then and has this id."""
    if not cursor:
        return None
    at, _, account_id = cursor.partition(".")
    if not at.isascii() or not at.isdigit() or len(at) > 18 or not is_id(account_id):  # noqa: PLR2004 - digits of 64 bits
        raise MalformedError("cursor is not one that this server gave")
    return int(at), account_id
