"""Where the policy is asked, and its answer put on record before anything is done.

One request may need several keys: each is asked for, all must be allowed, and one record has the answers. Refusals
are recorded one by one, so a caller has only so many of them in a second; those beyond are not even decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from services.chassis.database import AuditEvent
from services.chassis.refusal_budget import RefusalBudget
from services.signing.callers import UNNARROWED, Action, Caller
from services.signing.errors import RateLimitedError
from services.signing.metrics import SigningMetrics
from services.signing.policy import AccessRequest, Decision, PolicySet

REFUSALS_PER_SECOND: Final = 20  # of one caller; each is a durable record


class Policies(Protocol):
    """Where the policies in force are: `PolicyDirectory` is one."""

    @property
    def policies(self) -> PolicySet:
        """The set in force."""
        ...


class Recorder(Protocol):
    """Where decisions are put on record: `SigningStore` is one."""

    async def record(self, event: AuditEvent) -> None:
        """Commit it; DatabaseError where it is not on record."""
        ...


class Decisions:
    """The policies in force, and the record of what they say.

    Args:
        policies: in force.
        recorder: keeps decisions.
        metrics: counts them.
        monotonic: seconds that never go back.
    """

    def __init__(
        self, policies: Policies, recorder: Recorder, metrics: SigningMetrics, monotonic: Callable[[], float]
    ) -> None:
        self._policies = policies
        self._recorder = recorder
        self._metrics = metrics
        self._refusals = RefusalBudget(monotonic, REFUSALS_PER_SECOND)

    @property
    def policies(self) -> PolicySet:
        """The set in force."""
        return self._policies.policies

    async def allow(self, asked: Sequence[AccessRequest], about: Mapping[str, Any] | None = None) -> Sequence[Decision]:
        """The decisions, all of which allow, and are on record.

        Args:
            asked: by one caller, for one action.
            about: what the record says besides.

        Raises:
            DeniedError: one of them does not; that is on record.
            RateLimitedError: the caller has had too many refusals in this second.
            DatabaseError: they are not on record, so nothing may be done.
        """
        decisions = await self._decided(asked, about)
        await self._recorder.record(_event(asked, decisions, about, allowed=True))
        return decisions

    async def permit(self, asked: AccessRequest, about: Mapping[str, Any] | None = None) -> Decision:
        """Likewise for what changes nothing: only a refusal is put on record.

        Raises:
            DeniedError, RateLimitedError: as `allow`.
            DatabaseError: a refusal is not on record.
        """
        return (await self._decided([asked], about))[0]

    async def _decided(self, asked: Sequence[AccessRequest], about: Mapping[str, Any] | None) -> Sequence[Decision]:
        first = asked[0]
        caller = caller_name(first.caller)
        self._check_budget(caller)
        policies = self._policies.policies
        decisions = [policies.decide(one) for one in asked]
        refused = next((decision for decision in decisions if not decision.allowed), None)
        self._metrics.decision(first.action, "allowed" if refused is None else "refused")
        if refused is not None:
            self._refusals.spend(caller)
            await self._recorder.record(_event(asked, decisions, about, allowed=False))
            refused.require()
        return decisions

    def refused_credential(self, client: str) -> None:
        """Count a credential that was no good.

        Raises:
            RateLimitedError: this client has shown too many in this second.
        """
        self._check_budget(client)
        self._refusals.spend(client)

    def _check_budget(self, caller: str) -> None:
        if self._refusals.is_spent(caller):
            raise RateLimitedError("too many refused requests", 1.0)


def access(caller: Caller, action: Action) -> AccessRequest:
    """May this caller do this with what is its tenant's?"""
    return AccessRequest(caller, action, caller.tenant)


def access_to_own(caller: Caller, action: Action) -> AccessRequest:
    """Likewise with what this very caller has made: its credential was made for that, and policies alone decide.

    So a key with the scope `sign` fetches what it signed, and nothing of others; policies may still forbid it.
    """
    return access(replace(caller, scopes=UNNARROWED), action)


def caller_name(caller: Caller) -> str:
    """A caller in one text, unlike every other caller's."""
    return f"{caller.kind} {caller.id}"


def _event(
    asked: Sequence[AccessRequest], decisions: Sequence[Decision], about: Mapping[str, Any] | None, *, allowed: bool
) -> AuditEvent:
    first = asked[0]
    answers = [decision.record() | {"key": one.key} for one, decision in zip(asked, decisions, strict=True)]
    detail = {"action": first.action, "tenant": first.tenant, "answers": answers, **(about or {})}
    return AuditEvent(f"{first.action}.decision", caller_name(first.caller), detail, logged=not allowed)
