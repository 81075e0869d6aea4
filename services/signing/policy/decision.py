"""The policy's answer, and its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from services.signing.policy.errors import DeniedError

Reason = Literal["allowed", "tenant", "scopes", "no-policy", "forbidden", "error"]
"""Why: for the audit log. The caller learns of a refusal nothing but that it is one."""

_MAX_ERRORS: Final = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one question.

    Attributes:
        allowed: default deny.
        reason: "allowed", or why not: another tenant's, narrowed by the credential, permitted by no policy, forbidden
            by one, or a policy could not be evaluated.
        policy_hash: SHA-256 of the policies that decided, hexadecimal.
        policy_version: how many sets have been in force so far, this one included; 0: it never was.
        determining: `@id` of the policies that permit it, or of those that forbid it, sorted.
        errors: of the evaluation; any error denies.
    """

    allowed: bool
    reason: Reason
    policy_hash: str
    policy_version: int
    determining: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def require(self) -> Decision:
        """The decision itself, if it allows.

        Raises:
            DeniedError: it does not.
        """
        if not self.allowed:
            raise DeniedError(self)
        return self

    def record(self) -> dict[str, Any]:
        """What the audit log keeps; the same decision gives the same members."""
        return {
            "policy": {"version": self.policy_version, "sha256": self.policy_hash},
            "result": "allowed" if self.allowed else "refused",
            "reason": self.reason,
            "policies": list(self.determining),
            "errors": list(self.errors[:_MAX_ERRORS]),
        }
