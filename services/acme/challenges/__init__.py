"""How control of an identifier is proven (RFC 8555 §8): a module per challenge type.

Everything fetched here is named by the applicant, so it is hostile: addresses are checked and dialled as checked
(`services.chassis.outbound`), every answer is bounded in bytes and time, and nothing fetched is repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from services.acme.identifiers import Identifier

CHALLENGE_TYPES: Final = ("http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01")
"""Every type there is, in the order in which clients are shown them."""

WITHOUT_TOKEN: Final = frozenset({"dns-persist-01"})
"""The types whose proof is about the account and not about one challenge."""

PROVEN_ANEW: Final = frozenset({"dns-persist-01"})
"""The types whose proof serves one order: it holds for the record's TTL (draft §7.8), and looking again is cheap."""

_FOR_ADDRESSES: Final = frozenset({"http-01", "tls-alpn-01"})  # RFC 8738 §7: no DNS challenge proves an address
_FOR_WILDCARDS: Final = frozenset({"dns-01", "dns-account-01", "dns-persist-01"})  # who runs one host runs no zone


def offered(identifier: Identifier, *, wildcard: bool, allowed: Collection[str]) -> tuple[str, ...]:
    """The challenge types that can prove control of an identifier; empty where none of the allowed ones can.

    Args:
        identifier: without the wildcard label.
        wildcard: whether the names below it are asked for.
        allowed: the types that deployment and profile let be used.
    """
    fitting = set(allowed)
    if identifier.type == "ip":
        fitting &= _FOR_ADDRESSES
    if wildcard:
        fitting &= _FOR_WILDCARDS
    return tuple(name for name in CHALLENGE_TYPES if name in fitting)


def members(challenge_type: str, *, token: str, account_url: str, issuers: Collection[str]) -> dict[str, Any]:
    """What a challenge object has beyond `type`, `url` and `status` while it is pending.

    Args:
        challenge_type: one of `CHALLENGE_TYPES`.
        token: the challenge's; not looked at for types in `WITHOUT_TOKEN`.
        account_url: of the account that the authorization belongs to.
        issuers: the CA's issuer domain names, as `caaIdentities` has them.
    """
    if challenge_type in WITHOUT_TOKEN:
        return {"issuer-domain-names": list(issuers), "accounturi": account_url}
    return {"token": token}
