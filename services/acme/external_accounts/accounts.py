"""External accounts (RFC 8555 §7.3.4): who is bound to one, and what its accounts may order.

An account that is bound when it is made stays bound. Accounts without cost no query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from pkicore.clock import Clock, unix
from pkicore.errors import PkiError
from services.acme.errors import AcmeError, Subproblem
from services.acme.external_accounts.allowed_names import AllowedNames
from services.acme.external_accounts.binding import NOBODYS_KEY, UnverifiedBinding, unknown_key
from services.acme.external_accounts.secret import EabSecret
from services.acme.identifiers import Identifier
from services.acme.store import AccountRow
from services.acme.store.external_accounts import ExternalAccountRow, ExternalAccountStore
from services.acme.urls import Urls
from services.chassis.database import Write
from services.chassis.errors import SettingsError

_log = structlog.get_logger("acme.external_accounts")


class ExternalAccounts:
    """What external accounts mean for requests.

    Args:
        store: where they are.
        secret: of their MAC keys.
        urls: of this server.
        clock: the time.
        required: whether a new account must be bound to one.
    """

    def __init__(
        self, store: ExternalAccountStore, secret: EabSecret, urls: Urls, clock: Clock, *, required: bool
    ) -> None:
        self._store = store
        self._secret = secret
        self._url = urls.of("new-account")
        self._clock = clock
        self._required = required

    async def bound(self, members: dict[str, Any], account_key: str) -> str | None:
        """The key identifier to which newAccount binds the key with this thumbprint, None where it sends no binding.

        Whether there is room for one more account is said by the unit that makes it (`take`, `explain`).

        Raises:
            AcmeError: externalAccountRequired, malformed, badSignatureAlgorithm, unauthorized; serverInternal where
                this server has another secret than the one that made the key.
        """
        value = members.get("externalAccountBinding")
        if value is None and "externalAccountBinding" not in members:
            if self._required:
                raise AcmeError("externalAccountRequired", "a new account must be bound to an external account (EAB)")
            return None
        binding = UnverifiedBinding.parse(value, self._url)
        found = await self._store.one(binding.kid)
        if found is None:
            binding.verify(NOBODYS_KEY)
            raise unknown_key()
        binding.verify(self._mac_key(found))
        binding.require_key(account_key)
        refusal = _refusal(found, unix(self._clock.now()))
        if refusal is not None:
            raise refusal
        return found.kid

    def take(self, kid: str) -> Write:
        """Count the account that is being made."""
        return self._store.take(kid, unix(self._clock.now()))

    async def explain(self, kid: str) -> AcmeError:
        """Why `take` changed nothing."""
        found = await self._store.one(kid)
        refusal = None if found is None else _refusal(found, unix(self._clock.now()))
        return refusal or AcmeError("unauthorized", "the external account was changed by another request; try again")

    async def admit(self, account: AccountRow, identifiers: Sequence[Identifier], profile: str | None = None) -> None:
        """The account may order these names, with this profile where one is given.

        Raises:
            AcmeError: unauthorized (revoked), rejectedIdentifier, invalidProfile.
        """
        if account.eab_kid is None:
            return
        found = await self._store.one(account.eab_kid)
        if found is None or found.revoked_at is not None:
            raise AcmeError("unauthorized", "the external account of this account is revoked: it can order no more")
        if profile is not None and found.profiles and profile not in found.profiles:
            offered = ", ".join(found.profiles)
            raise AcmeError("invalidProfile", f"the external account of this account has these profiles: {offered}")
        refused = AllowedNames.parse(found.identifiers).refused(identifiers)
        if refused:
            detail = "the external account of this account does not allow this name"
            raise AcmeError(
                "rejectedIdentifier",
                f"{detail}: {refused[0].value}" if len(refused) == 1 else f"{detail}, nor {len(refused) - 1} more",
                subproblems=[Subproblem("rejectedIdentifier", detail, identifier) for identifier in refused],
            )

    def _mac_key(self, found: ExternalAccountRow) -> bytes:
        try:
            if self._secret.is_of(found.kid, found.secret_check):
                return self._secret.mac_key(found.kid)
            _log.error("the secret of external accounts is not the one that made this key: restore it", kid=found.kid)
        except (PkiError, SettingsError) as error:
            _log.error("the secret of external accounts cannot be used", error=str(error))
        raise AcmeError("serverInternal", "external accounts cannot be checked now; tell the operator of this server")


def _refusal(found: ExternalAccountRow, now: int) -> AcmeError | None:
    """Why no account can be made with it, told only to who holds its MAC key."""
    if found.revoked_at is not None:
        return AcmeError("unauthorized", "this external account is revoked")
    if found.not_after is not None and found.not_after <= now:
        return AcmeError("unauthorized", "this external account has expired: no more accounts can be bound to it")
    if found.max_accounts is not None and found.accounts >= found.max_accounts:
        return AcmeError("unauthorized", f"this external account has all its accounts ({found.max_accounts})")
    return None
