"""Approvals on record: given, listed, and found again when the act is done. What counts is the policy's to say."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from pkicore.clock import Clock, unix
from services.signer_hsm.decisions import Decisions, event_of
from services.signer_hsm.errors import BadPayloadError, SignerError
from services.signer_hsm.policy import LIFE_CYCLE, Act, Approval, BoundAct, Caller, Decision
from services.signer_hsm.policy import approvals as rules
from services.signer_hsm.store import SignerStore, StoredApproval
from services.signer_hsm.wire import ApprovalRequest, split_key_id

_ID_BYTES = 16
_OF_A_CREATION: Final = frozenset({"algorithm", "backend"})
_PARAMETERS: Final[Mapping[Act, frozenset[str]]] = {
    "create": _OF_A_CREATION,
    "import": _OF_A_CREATION | {"public_key_sha256"},
}
"""What an approval must name besides act, key and version; of other acts nothing. Any other would never be used."""


class Approvals:
    """Who has agreed to what.

    Args:
        store: the rows.
        decisions: who may approve.
        clock: the time.
        lifetime: how long an approval is good.
    """

    def __init__(self, store: SignerStore, decisions: Decisions, clock: Clock, lifetime: timedelta) -> None:
        self._store = store
        self._decisions = decisions
        self._clock = clock
        self._lifetime = lifetime

    async def approve(self, caller: Caller, request: ApprovalRequest) -> StoredApproval:
        """Agree to an act on a key; one on a version is bound to that version, the current one if none is named.

        Raises:
            DecisionError: the caller may not approve.
            BadPayloadError: the act takes no approval, or other parameters.
            KeyNotFoundError: the act is on a version that is not there.
        """
        tenant, name = split_key_id(request.key)
        decision = await self._decisions.decide(caller, "approve", tenant, name)
        try:
            given = self._given(decision, tenant, name, request)
        except SignerError:
            await self._decisions.record(decision)
            raise
        await self._store.approve(given, event_of(decision, given.version))
        return given

    def _given(self, decision: Decision, tenant: str, name: str, request: ApprovalRequest) -> StoredApproval:
        act = _life_cycle_act(request.act)
        expected = _PARAMETERS.get(act, frozenset())
        if request.parameters.keys() != expected:
            raise BadPayloadError(f"the parameters of {act} are: {', '.join(sorted(expected)) or 'none'}")
        version = None
        if act not in {"create", "import"}:
            version = self._store.catalogue.key(request.key).version(request.version).number
        bound = BoundAct(act, tenant, name, version, request.parameters)
        row = rules.approve(decision, bound, id=secrets.token_urlsafe(_ID_BYTES), lifetime=self._lifetime)
        return StoredApproval(row, act, tenant, name, version)

    async def listed(self, caller: Caller, tenant: str) -> Sequence[StoredApproval]:
        """The approvals of a tenant that are still good.

        Raises:
            DecisionError: the caller may not approve for any of its keys.
        """
        decision = await self._decisions.decide(caller, "approve", tenant, None)
        await self._decisions.record(decision)
        found = await self._store.approvals(tenant, unix(self._clock.now()))
        return [item for item in found if self._decisions.allows(caller, "approve", tenant, item.key)]

    async def used_by(self, decision: Decision, act: BoundAct) -> Sequence[Approval]:
        """The approvals that an act uses up; none where it needs none.

        Raises:
            ApprovalsMissingError: there are too few.
        """
        if not decision.approvals_needed:
            return ()
        held = await self._store.approvals(decision.tenant, unix(self._clock.now()))
        return rules.select(decision, self._decisions.policy, act, [item.approval for item in held])


def _life_cycle_act(text: str) -> Act:
    for act in LIFE_CYCLE:
        if act == text:
            return act
    raise BadPayloadError(f"act must be one of {', '.join(sorted(LIFE_CYCLE))}")
