"""Who calls: what every kind of credential is turned into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.signing.callers.scopes import UNNARROWED, Scopes

CallerKind = Literal["api-key", "mtls", "oidc"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose one credential was verified; outside tests only this package makes one.

    Attributes:
        kind: of the credential.
        id: unlike every other caller's: an API key's id, a SPIFFE ID, or an issuer with the id (never the name) of
            the repository, project or subject that it vouches for.
        tenant: on whose behalf; nothing of another tenant is ever in reach.
        claims: what the issuer says, checked and flat; names in it are for people, ids for rules.
        scopes: what is left of the policy's grants.
        ends_at: when an API key ends, Unix seconds; None for other credentials.
    """

    kind: CallerKind
    id: str
    tenant: str
    claims: Mapping[str, str] = field(default_factory=dict, hash=False)
    scopes: Scopes = UNNARROWED
    ends_at: int | None = None
