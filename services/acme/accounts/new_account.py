"""newAccount (RFC 8555 §7.3): an account for a key, or the one that the key has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pkicore.clock import Clock, unix
from pkicore.jose.jwk import jwk_of, thumbprint
from services.acme.accounts.account import AccountDocuments, AccountRules, flag
from services.acme.accounts.blocked_keys import BlockedKeys
from services.acme.answers import answer, location
from services.acme.errors import AcmeError, of_ended_account
from services.acme.external_accounts.accounts import ExternalAccounts
from services.acme.ids import new_id
from services.acme.rate_limits.rate_limits import Charge, RateLimits
from services.acme.requests import KeyRequest
from services.acme.store import AccountRow, Store
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DuplicateError


class NewAccounts:
    """The resource newAccount."""

    def __init__(
        self,
        store: Store,
        documents: AccountDocuments,
        rules: AccountRules,
        external: ExternalAccounts,
        limits: RateLimits,
        blocked: BlockedKeys,
        clock: Clock,
    ) -> None:
        self._store = store
        self._documents = documents
        self._rules = rules
        self._external = external
        self._limits = limits
        self._blocked = blocked
        self._clock = clock

    async def create(self, request: KeyRequest, address: str) -> Response:
        """Make an account for the key, or find the one it has; `address` is the client's.

        Raises:
            AcmeError: badPublicKey (blocked), accountDoesNotExist, unauthorized (deactivated, or blocked since),
                userActionRequired, externalAccountRequired and what else a binding is refused for, rateLimited, or a
                contact is refused.
        """
        members = request.members()
        only_existing = flag(members, "onlyReturnExisting")
        agreed = flag(members, "termsOfServiceAgreed")
        key = thumbprint(request.public_key)
        existing = await self._store.account_by_thumbprint(key)
        if existing is not None:
            await self._blocked.refuse_account(request.public_key)
            return self._found(existing)
        await self._blocked.refuse_new(request.public_key)
        if only_existing:
            raise AcmeError("accountDoesNotExist", "no account has this key")
        terms = self._rules.terms
        if terms.url and not agreed:
            raise terms.refusal("the terms of service must be agreed to")
        now = unix(self._clock.now())
        account = AccountRow(
            id=new_id(),
            status="valid",
            thumbprint=key,
            jwk=jwk_of(request.public_key),
            contacts=self._rules.contacts(members.get("contact", [])),
            terms_agreed_at=now if terms.url else None,
            created_at=now,
            terms=terms.url or None,
            eab_kid=await self._external.bound(members, key),
        )
        # What was verified comes back as it was sent (§7.3.4).
        binding = {"externalAccountBinding": members["externalAccountBinding"]} if account.eab_kid is not None else {}
        return await self._store_new(account, self._limits.new_account(address, account.eab_kid), binding)

    def _found(self, account: AccountRow) -> Response:
        if account.status != "valid":
            raise of_ended_account(account.status)
        return answer(self._documents.of(account), location(self._documents.url(account.id)))

    async def _store_new(self, account: AccountRow, charges: Sequence[Charge], binding: dict[str, Any]) -> Response:
        riding = [*self._limits.writes(charges)]
        detail: dict[str, Any] = {"thumbprint": account.thumbprint, "contacts": list(account.contacts)}
        if account.eab_kid is not None:
            riding.append(self._external.take(account.eab_kid))
            detail["eab_kid"] = account.eab_kid
        audit = AuditEvent("account.created", f"account:{account.id}", detail)
        try:
            await self._store.create_account(account, audit, riding)
        except ConflictError as conflict:
            if account.eab_kid is not None and conflict.write == len(charges):
                raise await self._external.explain(account.eab_kid) from conflict
            await self._limits.refuse(charges, conflict)
        except DuplicateError:  # the same key asked twice at once; the other request has made the account
            existing = await self._store.account_by_thumbprint(account.thumbprint)
            if existing is None:
                raise
            return self._found(existing)
        return answer(self._documents.of(account) | binding, location(self._documents.url(account.id)), status=201)
