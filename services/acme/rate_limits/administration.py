"""What operators do with rate limits: see them, give somebody others, fill buckets."""

from __future__ import annotations

import ipaddress
from typing import get_args

from pkicore.errors import MalformedError
from services.acme.errors import NotKnownError, NotPossibleError
from services.acme.ids import is_id
from services.acme.rate_limits.rate_limits import (
    OFF,
    Limit,
    LimitName,
    RateLimits,
    bucket_of_address,
    bucket_of_name,
    buckets_of_account,
    prefixes_of_account,
)
from services.acme.rate_limits.wire import USUAL, LimitEntry, LimitList
from services.acme.store import Store
from services.acme.store.external_accounts import ExternalAccountStore
from services.acme.store.rate_limits import OverrideRow, RateLimitStore
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_SUBJECTS = "account:ID or eab:KID"


class LimitAdministration:
    """Rate limits as operators see them.

    Args:
        limits: those that this process applies; it learns at once what is changed here, other replicas within seconds.
        store: the buckets and the overrides.
        accounts: who may have others.
        external: likewise.
    """

    def __init__(
        self, limits: RateLimits, store: RateLimitStore, accounts: Store, external: ExternalAccountStore
    ) -> None:
        self._limits = limits
        self._store = store
        self._accounts = accounts
        self._external = external

    async def all(self) -> LimitList:
        """The usual limits, then those of accounts and external accounts."""
        usual = [LimitEntry(name, str(self._limits.limits.of(name) or OFF)) for name in get_args(LimitName)]
        rows = await self._store.overrides()
        return LimitList([*usual, *(LimitEntry(row.name, _text(row), row.subject) for row in rows)])

    async def set(self, wanted: LimitEntry, operator: str) -> LimitList:
        """Give an account, or every account of a key identifier, another limit; `usual` takes it back.

        Raises:
            MalformedError: no such limit, or another form.
            NotKnownError: no such account or key identifier.
            NotPossibleError: it has the usual limit already.
        """
        if wanted.name not in get_args(LimitName):
            raise MalformedError(f"there is no limit {wanted.name!a}: there are {', '.join(get_args(LimitName))}")
        await self._known(wanted.subject)
        audit = AuditEvent("rate-limit.set", operator, {"subject": wanted.subject, wanted.name: wanted.limit})
        if wanted.limit == USUAL:
            try:
                await self._store.delete_override(wanted.subject, wanted.name, audit)
            except ConflictError as error:
                raise NotPossibleError(f"{wanted.subject} has the usual limit already") from error
        else:
            await self._store.set_override(_row(wanted), audit)
        await self._limits.load_overrides()
        return await self.all()

    async def reset(self, subject: str, operator: str) -> None:
        """Fill the buckets of an account, an address or a name.

        Raises:
            MalformedError: another form than account:ID, address:ADDRESS or name:NAME.
        """
        keys, prefixes = _buckets(subject)
        await self._store.reset(keys, prefixes, AuditEvent("rate-limit.reset", operator, {"subject": subject}))

    async def _known(self, subject: str) -> None:
        kind, _, value = subject.partition(":")
        if kind == "account":
            found: object = await self._accounts.account(value) if is_id(value) else None
        elif kind == "eab":
            found = await self._external.one(value)
        else:
            raise MalformedError(f"subject must be {_SUBJECTS}")
        if found is None:
            raise NotKnownError(f"there is no {subject}")


def _row(wanted: LimitEntry) -> OverrideRow:
    try:
        limit = Limit.parse(wanted.limit)
    except ValueError as error:
        raise MalformedError(f"limit {error}, or {USUAL}") from error
    burst, seconds = (0, 0) if limit is None else (limit.burst, limit.seconds)
    return OverrideRow(wanted.subject, wanted.name, burst, seconds)


def _text(row: OverrideRow) -> str:
    return str(Limit(row.burst, row.seconds)) if row.burst else OFF


def _buckets(subject: str) -> tuple[list[str], list[str]]:
    kind, _, value = subject.partition(":")
    if kind == "account" and is_id(value):
        return buckets_of_account(value), prefixes_of_account(value)
    if kind == "address" and _is_address(value):
        return [bucket_of_address(value)], []
    if kind == "name" and value:
        return [bucket_of_name("ip" if _is_address(value) else "dns", value.lower().removeprefix("*."))], []
    raise MalformedError(
        "subject must be account:ID (the end of the account's URL, 22 characters), address:ADDRESS or name:NAME"
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
