"""Rules as they are decided by: sets and prefixes instead of patterns, minutes instead of times of day."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from services.signer_hsm.policy.document import ClaimValue, RuleDocument, Tenant, moment
from services.signer_hsm.policy.windows import Spans, spans_of

SubjectName = tuple[str, str]
"""Issuer and subject."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket's measures."""

    per_second: float
    burst: int

    @classmethod
    def of_tenant(cls, tenant: Tenant) -> Self:
        """What all callers of a tenant may take together."""
        return cls(tenant.rate_per_second, tenant.burst)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready for use.

    Attributes:
        id: its name in audit records.
        rank: which rule counts where several allow the same: the lowest.
        tenant: whose keys it is about.
        callers: SPIFFE IDs, or ones that end in `/*`; empty with subjects: any peer.
        subjects: the claims that each OIDC subject must have; empty: the rule is for callers without token.
        keys: exact key names.
        key_prefixes: what key names may begin with; the empty one stands for `*`.
        kinds: payload kinds.
        schemes: signature schemes; None: all.
        limit: per caller; None: the tenant's alone.
        windows: when; None: always.
        approvals: how many others must approve.
        valid_from: first moment; None: since ever.
        valid_until: first moment at which it is over; None: never.
    """

    id: str
    rank: int
    tenant: str
    callers: frozenset[str]
    subjects: Mapping[SubjectName, tuple[Mapping[str, ClaimValue], ...]]
    keys: frozenset[str]
    key_prefixes: tuple[str, ...]
    kinds: frozenset[str]
    schemes: frozenset[str] | None
    limit: RateLimit | None
    windows: Spans | None
    approvals: int
    valid_from: datetime | None
    valid_until: datetime | None

    @classmethod
    def compile(cls, document: RuleDocument, rank: int) -> Self:
        """The rule that a document's entry means."""
        subjects: dict[SubjectName, tuple[Mapping[str, ClaimValue], ...]] = {}
        for subject in document.subjects:
            name = (subject.issuer, subject.subject)
            subjects[name] = (*subjects.get(name, ()), subject.claims)
        rate, burst = document.rate_per_second, document.burst
        return cls(
            id=document.id,
            rank=rank,
            tenant=document.tenant,
            callers=frozenset(document.callers),
            subjects=subjects,
            keys=frozenset(glob for glob in document.keys if not glob.endswith("*")),
            key_prefixes=tuple(sorted(glob[:-1] for glob in document.keys if glob.endswith("*"))),
            kinds=frozenset(document.kinds or ()),
            schemes=None if document.schemes is None else frozenset(document.schemes),
            limit=None if rate is None or burst is None else RateLimit(rate, burst),
            windows=None if document.windows is None else spans_of(document.windows),
            approvals=document.approvals,
            valid_from=None if document.valid_from is None else moment(document.valid_from),
            valid_until=None if document.valid_until is None else moment(document.valid_until),
        )
