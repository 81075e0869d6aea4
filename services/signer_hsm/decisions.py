"""Where every act is decided: the policy's answer, its record, and how much of it a caller may have.

A refusal costs a caller the same whether or not the tenant or the key exists: one decision, one record, one sentence.
Refusals are recorded one by one, so a caller has only so many of them in a second; those beyond are not even decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from pkicore.algorithms import Payload
from pkicore.clock import Clock
from services.chassis.database import AuditEvent
from services.chassis.refusal_budget import RefusalBudget
from services.signer_hsm.errors import BusyError, RateLimitedError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy import Act, Caller, Decision, Place, Policy, RateLimits
from services.signer_hsm.store import SignerStore

REFUSALS_PER_SECOND: Final = 50  # of one caller; each is a durable record
_EVENT: Final = "key.decision"

Limited = Literal["rate-limited", "busy"]
"""Why what the policy allows was refused all the same."""


class Decisions:
    """The policy in force and what is taken of its limits.

    Args:
        policy: the first one; `policy` is replaced when the file changes.
        limits: what tenants and callers have taken; it outlives policies.
        store: where decisions are recorded.
        clock: the time of a decision.
        metrics: counts them.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        policy: Policy,
        limits: RateLimits,
        *,
        store: SignerStore,
        clock: Clock,
        metrics: SignerMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.limits = limits
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._refusals = RefusalBudget(monotonic, REFUSALS_PER_SECOND)
        self._limited = RefusalBudget(monotonic, REFUSALS_PER_SECOND)

    async def decide(
        self,
        caller: Caller,
        act: Act,
        tenant: str,
        key: str | None,
        *,
        kind: Payload | None = None,
        scheme: str | None = None,
        payload_sha256: Sequence[str] = (),
    ) -> Decision:
        """A decision that allows, not recorded yet: whoever asked records it before anything is done.

        Raises:
            DeniedByPolicyError: the policy refuses; that is on record.
            RateLimitedError: the limits do; the first of a second is on record.
        """
        self.check_budget(caller)
        decision = self.policy.decide(caller, act, tenant, key, at=self._clock.now(), kind=kind, scheme=scheme)
        if not decision.allowed:
            self._refusals.spend(caller)
            self._metrics.decision(act, "refused")
            await self._store.record(event_of(decision, payload_sha256=payload_sha256))
            decision.require()
        try:
            self.limits.take(decision, len(payload_sha256) or 1)
        except RateLimitedError:
            await self._limit(decision, None, payload_sha256, "rate-limited")
            raise
        self._metrics.decision(act, "allowed")
        return decision

    async def place(
        self, decision: Decision, version: int | None = None, *, payload_sha256: Sequence[str] = ()
    ) -> Place:
        """One of the tenant's places, to be held while a request is under way: `with await decisions.place(...):`.

        Raises:
            BusyError: all are taken; the first of a second is on record.
        """
        try:
            return self.limits.place(decision)
        except BusyError:
            await self._limit(decision, version, payload_sha256, "busy")
            raise

    async def _limit(
        self, decision: Decision, version: int | None, payload_sha256: Sequence[str], limited: Limited
    ) -> None:
        self._metrics.decision(decision.act, limited)
        if self._limited.spend(decision.caller) == 1:
            event = event_of(decision, version, payload_sha256=payload_sha256, limited=limited)
            await self._store.record(event)

    def check_budget(self, caller: Caller) -> None:
        """Let the caller ask.

        Raises:
            RateLimitedError: it has had all its refusals of this second.
        """
        if self._refusals.is_spent(caller):
            raise RateLimitedError("too many refused requests", 1.0)

    async def refuse_token(self, caller: Caller, act: Act, tenant: str, key: str | None) -> None:
        """Put on record that a caller showed a bearer token that is not good.

        Raises:
            DatabaseError: it is not on record.
        """
        self._refusals.spend(caller)
        self._metrics.decision(act, "refused")
        await self._store.record(event_of(self.policy.refuse(caller, act, tenant, key, "token", at=self._clock.now())))

    async def record(self, decision: Decision, version: int | None = None) -> None:
        """Commit a decision about an act that needs no more than that.

        Raises:
            DatabaseError: it is not on record.
        """
        await self._store.record(event_of(decision, version))

    def allows(self, caller: Caller, act: Act, tenant: str, key: str) -> bool:
        """Whether the policy would allow it: to choose what is listed, under a decision that is recorded."""
        return self.policy.decide(caller, act, tenant, key, at=self._clock.now()).allowed


def event_of(
    decision: Decision,
    version: int | None = None,
    *,
    payload_sha256: Sequence[str] = (),
    limited: Limited | None = None,
) -> AuditEvent:
    """The record of a decision; the same decision is always recorded by the same bytes."""
    detail: dict[str, Any] = decision.record(version=version, payload_sha256=payload_sha256)
    if limited is not None:
        detail |= {"result": "refused", "reason": limited}
    usual = decision.act == "sign" and detail["result"] == "allowed"
    return AuditEvent(_EVENT, str(decision.caller.spiffe_id), detail, logged=not usual)


def caller_name(caller: Caller) -> str:
    """A caller in one text, unlike every other caller's; idempotency keys belong to it."""
    subject = caller.subject
    if subject is None:
        return str(caller.spiffe_id)
    return f"{caller.spiffe_id} {subject.issuer} {subject.subject}"
