"""What decides whether an order is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.acme.accounts.terms import Terms
from services.acme.external_accounts.accounts import ExternalAccounts
from services.acme.profiles.profiles import BUILT_IN, DEFAULT, Profile, Profiles
from services.acme.rate_limits.rate_limits import RateLimits
from services.acme.renewals.replacement import Renewals


@dataclass(frozen=True)
class OrderRules:
    """What the operator allows.

    Attributes:
        lifetime: seconds that an order and its authorizations may be used.
        max_identifiers: names in one order.
        max_pending: unfinished orders of one account; likewise its pending authorizations without an order.
        reuse_seconds: how long after its proof an authorization serves new orders of its account; 0: never.
        challenges: the types that prove control.
        profiles: by name.
        default_profile: of orders that name none.
        page: orders in one page of an account's list.
    """

    lifetime: int
    max_identifiers: int
    max_pending: int
    reuse_seconds: int = 8 * 3600
    challenges: tuple[str, ...] = ("http-01", "dns-01")
    profiles: Mapping[str, Profile] = field(default_factory=lambda: BUILT_IN)
    default_profile: str = DEFAULT
    page: int = 500


@dataclass(frozen=True)
class Admission:
    """Whoever has a say in it, in the order in which they are asked."""

    terms: Terms
    profiles: Profiles
    external: ExternalAccounts
    renewals: Renewals
    limits: RateLimits
