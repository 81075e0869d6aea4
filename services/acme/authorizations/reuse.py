"""Valid authorizations that serve further orders of their account, so that a name is proven once for several of them.

A server that gives a classical and a post-quantum certificate to one host orders twice and proves once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.acme.challenges import PROVEN_ANEW
from services.acme.identifiers import Identifier
from services.acme.profiles.profiles import Profile, Profiles
from services.acme.store import AuthorizationRow, Store

_LASTING: Final = 10  # what is taken up lasts for this share of an order's life


@dataclass(frozen=True)
class Reuse:
    """Finds them.

    Attributes:
        store: where they are.
        profiles: by which types a name may be proven.
        seconds: how long after its proof an authorization is taken up; 0: never.
        lifetime: seconds that an order may be used.
    """

    store: Store
    profiles: Profiles
    seconds: int
    lifetime: int

    async def find(
        self, account_id: str, names: Sequence[Identifier], profile: Profile | None, now: int
    ) -> dict[Identifier, AuthorizationRow]:
        """By name, the youngest proof that is recent, lasts, and is of a type that the profile takes."""
        if not self.seconds:
            return {}
        until, since = now + self.lifetime // _LASTING, now - self.seconds
        found: dict[Identifier, AuthorizationRow] = {}
        for authorization, method in await self.store.reusable_authorizations(account_id, names, until, since):
            name = authorization.name
            if name in names and method in set(self.profiles.methods(profile, name)) - PROVEN_ANEW:
                found.setdefault(name, authorization)
        return found
