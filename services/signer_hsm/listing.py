"""Keys as callers may see them: one by one, and by tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from services.signer_hsm.catalogue import Key
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.policy import Caller
from services.signer_hsm.store import SignerStore

_STEP: Final = 500  # keys looked at in one go


class Page(NamedTuple):
    """Keys by id, and the `after` of the next page."""

    keys: Sequence[Key]
    next: str | None


class Listing:
    """Looks keys up after the decision."""

    def __init__(self, store: SignerStore, decisions: Decisions) -> None:
        self._catalogue = store.catalogue
        self._decisions = decisions

    async def show(self, caller: Caller, tenant: str, name: str) -> Key:
        """A key.

        Raises:
            DecisionError: the policy refuses.
            KeyNotFoundError: there is none.
        """
        decision = await self._decisions.decide(caller, "show", tenant, name)
        await self._decisions.record(decision)
        return self._catalogue.key(f"{tenant}.{name}")

    async def page(self, caller: Caller, tenant: str, after: str | None, limit: int) -> Page:
        """The keys of a tenant that the caller may list, `limit` at most.

        Raises:
            DecisionError: the caller may list none of the tenant's keys.
        """
        decision = await self._decisions.decide(caller, "list", tenant, None)
        await self._decisions.record(decision)
        seen: list[Key] = []
        while len(seen) <= limit:
            found = self._catalogue.page(tenant, after, _STEP)
            seen += [key for key in found if self._decisions.allows(caller, "list", tenant, key.name)]
            if len(found) < _STEP:
                break
            after = found[-1].id
        more = len(seen) > limit
        return Page(seen[:limit], seen[limit - 1].id if more else None)
