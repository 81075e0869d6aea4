"""What callers may know of the service's state: their tenants' back ends and the key policy, from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.catalogue import Catalogue
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.places import misplaced
from services.signer_hsm.policy import Caller
from services.signer_hsm.wire import HealthAnswer, PolicyAnswer

_OF_ALL_TENANTS: Final = frozenset({"keys", "workers", "in_use", "stuck_workers"})
"""Counts that tell a caller how much the others have and do; the metrics have them for whoever runs the service."""


class Health:
    """Asks each back end once for all who ask within a second (`GuardedBackend.health`)."""

    def __init__(self, backends: Mapping[str, GuardedBackend], decisions: Decisions, catalogue: Catalogue) -> None:
        self._backends = backends
        self._decisions = decisions
        self._catalogue = catalogue

    async def seen_by(self, caller: Caller) -> HealthAnswer:
        """The back ends of the tenants in which a rule names the caller."""
        policy = self._decisions.policy
        names = {name for tenant in policy.tenants_of(caller) for name in policy.tenants[tenant].backends}
        seen = [self._backends[name] for name in sorted(names & self._backends.keys())]
        described = dict(
            zip([backend.name for backend in seen], await asyncio.gather(*map(self._described, seen)), strict=True)
        )
        ready = all(item["ready"] for item in described.values())
        return HealthAnswer("ok" if ready else "degraded", described, PolicyAnswer(policy.version, policy.sha256))

    async def _described(self, backend: GuardedBackend) -> Mapping[str, Any]:
        health = await backend.health()
        detail = {name: fact for name, fact in health.detail.items() if name not in _OF_ALL_TENANTS}
        elsewhere = misplaced(self._catalogue, backend.name, health.detail)
        if elsewhere is not None:
            detail["reason"] = elsewhere
        return {
            "type": backend.type,
            "ready": health.ready and elsewhere is None,
            "breaker": backend.breaker.state,
            "detail": detail,
        }
