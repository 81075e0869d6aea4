"""Who asks, and what the policy said: the decision and its record in the audit log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from pkicore.algorithms import Payload
from pkicore.clock import unix
from pkicore.identity import SpiffeId
from services.signer_hsm.errors import DeniedByPolicyError
from services.signer_hsm.policy.document import Act, ClaimValue, Tenant
from services.signer_hsm.policy.rules import Rule

Reason = Literal["allowed", "no-rule", "key", "claims", "kind", "scheme", "not-yet", "expired", "window", "token"]
"""Why: for the audit log. The caller learns of a refusal nothing but that it is one."""


@dataclass(frozen=True, slots=True)
class OidcSubject:
    """Whom an issuer vouches for; only `OidcVerifier` makes one outside tests.

    Attributes:
        issuer: the `iss` claim.
        subject: the `sub` claim.
        claims: the token's other claims that are text, whole numbers or truth values.
    """

    issuer: str
    subject: str
    claims: Mapping[str, ClaimValue] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the mTLS peer, and whom its bearer token names, if it carries one."""

    spiffe_id: SpiffeId
    subject: OidcSubject | None = None

    @property
    def principal(self) -> str | tuple[str, str]:
        """What rules and buckets know the caller by: the token's issuer and subject, without token the SPIFFE ID."""
        subject = self.subject
        return str(self.spiffe_id) if subject is None else (subject.issuer, subject.subject)


class PolicyStamp(Protocol):
    """What a decision keeps of the policy that made it."""

    @property
    def version(self) -> int:
        """As the policy's author counts."""
        ...

    @property
    def sha256(self) -> str:
        """The policy's hash, hexadecimal."""
        ...

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """Tenants by id."""
        ...

    @property
    def claim_names(self) -> frozenset[str]:
        """The claims that any rule asks for."""
        ...


class Decision(NamedTuple):
    """The policy's answer to one question.

    Attributes:
        allowed: whether a rule allows it; life-cycle acts may still need approvals.
        reason: "allowed", or how far the best rule got before it did not fit.
        matched: the rule that allows it; None with a refusal.
        policy: what decided.
        caller: who asked.
        act: for what.
        tenant: as it was asked for; with a refusal there may be no such tenant.
        key: name of the key in the tenant; None where the act is about none (list).
        at: when.
        kind: payload kind, with sign.
        scheme: signature scheme, with sign.
    """

    allowed: bool
    reason: Reason
    matched: Rule | None
    policy: PolicyStamp
    caller: Caller
    act: Act
    tenant: str
    key: str | None
    at: datetime
    kind: Payload | None = None
    scheme: str | None = None

    @property
    def rule(self) -> str | None:
        """The id of the rule that allows it."""
        return None if self.matched is None else self.matched.id

    @property
    def approvals_needed(self) -> int:
        """How many others must have approved; 0 with a refusal."""
        return 0 if self.matched is None else self.matched.approvals

    def require(self) -> "Decision":
        """The decision itself, if it allows.

        Raises:
            DeniedByPolicyError: it does not; the sentence is the same for every refusal.
        """
        if not self.allowed:
            raise DeniedByPolicyError("the key policy does not allow this caller to do this")
        return self

    def record(self, *, version: int | None = None, payload_sha256: Sequence[str] = ()) -> dict[str, Any]:
        """What the audit log keeps; the same inputs give the same members, so the same canonical bytes.

        Args:
            version: of the key, where it is known.
            payload_sha256: the hexadecimal SHA-256 of each payload, in order, with sign.
        """
        subject = self.caller.subject
        return {
            "policy": {"version": self.policy.version, "sha256": self.policy.sha256},
            "result": "allowed" if self.allowed else "refused",
            "reason": self.reason,
            "rule": self.rule,
            "caller": str(self.caller.spiffe_id),
            "subject": None if subject is None else {"issuer": subject.issuer, "subject": subject.subject},
            "act": self.act,
            "tenant": self.tenant,
            "key": self.key,
            "version": version,
            "kind": self.kind,
            "scheme": self.scheme,
            "payload_sha256": list(payload_sha256),
            "at": unix(self.at),
        }
