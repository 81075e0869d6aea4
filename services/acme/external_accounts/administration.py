"""What operators do with external accounts: made, shown, revoked. The MAC key is told once, and stored nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator

from pkicore.clock import Clock, unix
from pkicore.encoding import base64url_encode
from pkicore.errors import MalformedError
from services.acme.errors import NotKnownError, NotPossibleError
from services.acme.external_accounts.allowed_names import canonical_pattern
from services.acme.external_accounts.secret import EabSecret
from services.acme.requests import AccountCache
from services.acme.store.external_accounts import ExternalAccountRow, ExternalAccountStore
from services.acme.wire import (
    ExternalAccountEntry,
    ExternalAccountPage,
    ExternalAccountRequest,
    NewExternalAccount,
    RevokedExternalAccount,
)
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_PREFIX = "eab-"
_MAX_KID = 128
_MAX_DIGITS = 18


class ExternalAccountAdministration:
    """External accounts as operators see them.

    Args:
        store: where they are.
        secret: of their MAC keys.
        cache: of the accounts that are bound to them.
        profiles: that there are.
        clock: the time.
    """

    def __init__(
        self,
        store: ExternalAccountStore,
        secret: EabSecret,
        cache: AccountCache,
        profiles: Collection[str],
        clock: Clock,
    ) -> None:
        self._store = store
        self._secret = secret
        self._cache = cache
        self._profiles = profiles
        self._clock = clock

    async def create(self, wanted: ExternalAccountRequest, operator: str) -> NewExternalAccount:
        """Make a key identifier, and tell its MAC key.

        Raises:
            MalformedError: a name that is no pattern, a profile that there is not, or an end in the past.
            SettingsError, KeyPermissionError: the secret cannot be used.
        """
        now = unix(self._clock.now())
        unknown = [name for name in wanted.profiles if name not in self._profiles]
        if unknown:
            raise MalformedError(f"there is no profile {unknown[0]!a}: there are {', '.join(self._profiles) or 'none'}")
        if wanted.not_after is not None and wanted.not_after <= now:
            raise MalformedError("not_after has passed already")
        kid, mac_key = fit_for_options(self._secret, _candidates())
        row = ExternalAccountRow(
            kid=kid,
            comment=wanted.comment,
            identifiers=tuple(dict.fromkeys(str(canonical_pattern(pattern)) for pattern in wanted.identifiers)),
            profiles=tuple(dict.fromkeys(wanted.profiles)),
            max_accounts=wanted.max_accounts,
            accounts=0,
            not_after=wanted.not_after,
            created_at=now,
            created_by=operator,
            revoked_at=None,
            secret_check=self._secret.check(kid),
        )
        detail = {
            "kid": kid,
            "identifiers": len(row.identifiers),
            "profiles": list(row.profiles),
            "max_accounts": row.max_accounts,
            "not_after": row.not_after,
        }
        await self._store.create(row, AuditEvent("external-account.created", operator, detail))
        return NewExternalAccount(_entry(row, now), mac_key)

    async def page(self, cursor: str, limit: int) -> ExternalAccountPage:
        """Some external accounts, the newest first.

        Raises:
            MalformedError: a cursor of somebody else.
        """
        found = await self._store.page(_position(cursor), limit)
        rows, now = found[:limit], unix(self._clock.now())
        more = f"{rows[-1].created_at}.{rows[-1].kid}" if len(found) > limit else None
        return ExternalAccountPage([_entry(row, now) for row in rows], more)

    async def one(self, kid: str) -> ExternalAccountEntry:
        """The external account with this key identifier.

        Raises:
            NotKnownError: there is none.
        """
        return _entry(await self._row(kid), unix(self._clock.now()))

    async def revoke(self, kid: str, operator: str, *, deactivate_accounts: bool) -> RevokedExternalAccount:
        """Let no account be made with it, nor anything be ordered by those that were; end these where that is wanted.

        Their unfinished orders end; certificates stay as they are.

        Raises:
            NotKnownError: there is none.
            NotPossibleError: it is revoked already, and no account of it is left to deactivate.
        """
        row, now = await self._row(kid), unix(self._clock.now())
        if not deactivate_accounts:
            await self._end(row, operator, now)
            return RevokedExternalAccount(_entry(await self._row(kid), now), 0)
        try:
            deactivated = await self._end_accounts(row, operator, now)
        finally:  # of those that were made meanwhile nobody has a list
            self._cache.forget_all()
        return RevokedExternalAccount(_entry(await self._row(kid), now), deactivated)

    async def _end(self, row: ExternalAccountRow, operator: str, now: int, accounts: int | None = None) -> None:
        """End it, with exactly so many accounts; ConflictError where it has another number."""
        again = row.revoked_at is not None
        if again and not accounts:
            raise _revoked_already()
        detail = {"kid": row.kid, "deactivate_accounts": accounts is not None, "accounts": accounts or 0}
        audit = AuditEvent("external-account.revoked", operator, detail)
        try:
            await self._store.revoke(row.kid, now, audit, deactivate=accounts, again=again)
        except ConflictError as error:
            if error.write == 0:
                raise _revoked_already() from error
            raise

    async def _end_accounts(self, row: ExternalAccountRow, operator: str, now: int) -> int:
        """How many accounts were deactivated.

        Accounts that come between the count and the write undo it. Then it is revoked first: there come no more.
        """
        while True:
            accounts = await self._store.bound_accounts(row.kid)
            try:
                await self._end(row, operator, now, accounts)
            except ConflictError:
                if row.revoked_at is None:
                    await self._end(row, operator, now)
                    row = await self._row(row.kid)
            else:
                return accounts

    async def _row(self, kid: str) -> ExternalAccountRow:
        found = await self._store.one(kid) if 0 < len(kid) <= _MAX_KID else None
        if found is None:
            raise NotKnownError("no external account has this key identifier")
        return found


def _revoked_already() -> NotPossibleError:
    return NotPossibleError("this external account is revoked already")


def fit_for_options(secret: EabSecret, candidates: Iterable[str]) -> tuple[str, str]:
    """The first key identifier whose MAC key (base64url, beside it) is not taken for an option on a command line."""
    keys = ((kid, base64url_encode(secret.mac_key(kid))) for kid in candidates)
    return next((kid, mac_key) for kid, mac_key in keys if not mac_key.startswith("-"))


def _candidates() -> Iterator[str]:
    while True:
        yield _PREFIX + secrets.token_hex(8)


def _entry(row: ExternalAccountRow, now: int) -> ExternalAccountEntry:
    return ExternalAccountEntry(
        kid=row.kid,
        status=_status(row, now),
        comment=row.comment,
        identifiers=row.identifiers,
        profiles=row.profiles,
        accounts=row.accounts,
        max_accounts=row.max_accounts,
        not_after=row.not_after,
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
    )


def _status(row: ExternalAccountRow, now: int) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.not_after is not None and row.not_after <= now:
        return "expired"
    return "full" if row.max_accounts is not None and row.accounts >= row.max_accounts else "valid"


def _position(cursor: str) -> tuple[int, str] | None:
    if not cursor:
        return None
    at, _, kid = cursor.partition(".")
    if not at.isascii() or not at.isdigit() or len(at) > _MAX_DIGITS or not kid:
        raise MalformedError("cursor is not one that this server gave")
    return int(at), kid
