"""How long signatures are kept: a rule per tenant, what evidence has promised, and legal holds.

1 without a rule nothing is removed · 2 a signature's date is the rule's time after its creation, or what an archive of
evidence has promised, whichever is later: a shorter rule breaks no promise · 3 before that date, and under a legal
hold, nothing removes it; the removing commit checks that itself · 4 each removal is on record with the rule that asked
for it, and told to receivers · 5 files go when no other record names them · 6 the transparency log and the audit log
stay whole.
"""

from __future__ import annotations

import asyncio
import re
from calendar import monthrange
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pkicore.clock import Clock, from_unix, unix
from services.chassis.database import AuditEvent, Write
from services.chassis.errors import ConflictError, DatabaseError
from services.chassis.fields import checked_text
from services.signing.callers.tenants import TenantName
from services.signing.errors import NotFoundError
from services.signing.records import first_id
from services.signing.store.outbox import OutboxStore
from services.signing.store.retention import Keeping, RetentionStore
from services.signing.webhooks.events import event

_KEEP: Final = re.compile(r"([1-9][0-9]{0,4})([dmy])", re.ASCII)
_MOST_YEARS: Final = 200
_MONTHS: Final = 12
_DAY: Final = 86_400
_DAYS_OF: Final = {"d": 1.0, "m": 28.0, "y": 365.0}  # at least
_BATCH: Final = 100
_EVERY_SECONDS: Final = 3600.0
_MAX_REASON: Final = 500
_ACTOR: Final = "signing"
_log = structlog.get_logger("retention")


def _keep(text: str) -> str:
    found = _KEEP.fullmatch(text)
    if found is None or int(found[1]) * _DAYS_OF[found[2]] > _MOST_YEARS * _DAYS_OF["y"]:
        raise ValueError("must be days, months or years, such as 90d, 18m or 10y, and at most 200 years")
    return text


class RetentionRule(BaseModel):
    """How long the signatures of a tenant are kept: one of `[[retention]]` in the service's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName = Field(description="whose signatures")
    keep: Annotated[str, AfterValidator(_keep)] = Field(
        description="how long after its creation one is kept at least, then removed: 90d, 18m, 10y"
    )

    @property
    def days(self) -> float:
        """How many days that is at least."""
        found = _KEEP.fullmatch(self.keep)
        return 0.0 if found is None else int(found[1]) * _DAYS_OF[found[2]]


def kept_until(created_at: int, keep: str) -> int:
    """The first second at which a rule no longer keeps what was created then.

    Months and years are those of the calendar (UTC); a day that a month does not have is the first of the next month.

    Args:
        created_at: Unix seconds.
        keep: of a rule.
    """
    number, unit = int(keep[:-1]), keep[-1]
    if unit == "d":
        return created_at + number * _DAY
    created = from_unix(created_at)
    return unix(_months_later(created, number * (_MONTHS if unit == "y" else 1)))


def _months_later(moment: datetime, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, _MONTHS)
    year, month = moment.year + years, month + 1
    if moment.day <= monthrange(year, month)[1]:
        return moment.replace(year=year, month=month)
    return _months_later(moment.replace(day=1), months + 1)


class Retention:
    """The rules, and what makes them come true.

    Args:
        store: promises, holds, removals.
        outbox: where removals are told.
        rules: one per tenant.
        clock: the time.
    """

    def __init__(
        self, store: RetentionStore, outbox: OutboxStore, rules: Iterable[RetentionRule], clock: Clock
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._rules = {rule.tenant: rule for rule in rules}
        self._clock = clock

    def rule(self, tenant: str) -> RetentionRule | None:
        """The rule of a tenant; None: nothing of it is removed."""
        return self._rules.get(tenant)

    async def keeping(self, tenant: str, signature: str) -> Keeping:
        """What keeps a signature beyond the rule.

        Raises:
            NotFoundError: the tenant has no such signature.
        """
        found = await self._store.keeping(tenant, signature)
        if found is None:
            raise NotFoundError("there is no such signature")
        return found

    def promising(self, tenant: str, signature: str, until: int) -> list[Write]:
        """What promises that a signature is kept until then; for the unit of what promises it."""
        return self._store.promising(tenant, signature, until)

    async def hold(self, tenant: str, actor: str, signature: str, reason: object) -> None:
        """Lay a legal hold on a signature: nothing removes it until that is lifted.

        Raises:
            MalformedError: there is no reason of 1 to 500 characters.
            NotFoundError: the tenant has no such signature, or it is held already.
        """
        text = checked_text(reason, "the reason of a hold", _MAX_REASON)
        held = Keeping(0, unix(self._clock.now()), actor, text)
        detail = {"tenant": tenant, "id": signature, "reason": text}
        try:
            await self._store.hold(tenant, signature, held, AuditEvent("signature.held", actor, detail))
        except ConflictError as error:
            raise NotFoundError("there is no such signature, or it is held already") from error

    async def release(self, tenant: str, actor: str, signature: str) -> None:
        """Lift a legal hold.

        Raises:
            NotFoundError: the tenant has no such signature, or it is not held.
        """
        record = AuditEvent("signature.released", actor, {"tenant": tenant, "id": signature})
        try:
            await self._store.release(tenant, signature, record)
        except ConflictError as error:
            raise NotFoundError("there is no such signature, or it is not held") from error

    async def run(self) -> None:
        """Enforce the rules, every hour, for ever."""
        while True:
            try:
                await self.enforce()
            except DatabaseError as error:
                _log.warning("retention not enforced", error=str(error))
            await asyncio.sleep(_EVERY_SECONDS)

    async def enforce(self) -> int:
        """Remove what is overdue now; answers how many signatures that were.

        Raises:
            DatabaseError: it cannot go on; what was removed stays removed.
        """
        return sum([await self._enforce(rule) for rule in self._rules.values()])

    async def _enforce(self, rule: RetentionRule) -> int:
        count, now = 0, unix(self._clock.now())
        newest = first_id(now - int(rule.days) * _DAY + _DAY)  # at most; each one's own date is looked at below
        while True:
            found = await self._store.overdue(rule.tenant, newest, now, _BATCH)
            due = [one for one in found if kept_until(one.created_at, rule.keep) <= now]
            removed = [await self._remove(rule, one.id, one.created_at, now) for one in due]
            count += sum(removed)
            if len(found) < _BATCH or not any(removed):
                return count

    async def _remove(self, rule: RetentionRule, signature: str, created_at: int, now: int) -> bool:
        until = kept_until(created_at, rule.keep)
        detail = {"tenant": rule.tenant, "id": signature, "rule": f"keep {rule.keep}", "kept_until": until}
        told = event("signature.removed", signature, rule.tenant, now, {"id": signature, "rule": detail["rule"]})
        record = AuditEvent("signature.removed", _ACTOR, {**detail, "created_at": created_at})
        try:
            await self._store.remove(rule.tenant, signature, now, record, [self._outbox.announcing(told)])
        except ConflictError:  # a hold or a promise came in between, or another process was quicker
            return False
        return True
