"""Approvals of life-cycle acts: who must have agreed to what, before it is done. Pure; rows are the store's.

1. An approval is of one act with exactly these parameters: it has the act's binding, a hash. Another key, version or
   parameter is another act.
2. It is given by a caller whom the policy allows the act `approve` on that key, and who still may when it is used.
3. It is good for some hours, once: it is consumed in the transaction that records the act.
4. The requester's own does not count, and nobody counts twice: two are the same person if they have the same OIDC
   subject, or the same SPIFFE ID and one of them no subject.

A row of the store's table has the members of `Approval`, and `consumed_by` (the audit sequence of the act, or null).
`select` takes the rows with the act's binding that are not consumed; consuming is one conditional update per row whose
row count is checked, so that of two racing acts one fails.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from pkicore.encoding import canonical_json
from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId
from services.signer_hsm.errors import ApprovalsMissingError, BadPayloadError, DeniedByPolicyError
from services.signer_hsm.policy.decision import Caller, Decision, OidcSubject
from services.signer_hsm.policy.document import LIFE_CYCLE, Act
from services.signer_hsm.policy.policy import Policy

MAX_PARAMETERS: Final = 4096  # octets of canonical JSON
_CONTEXT: Final = b"pqcpki signer-hsm approval v1\0"


@dataclass(frozen=True, slots=True)
class BoundAct:
    """What is approved.

    Attributes:
        act: a life-cycle act.
        tenant: whose key.
        key: its name.
        version: of the key, where the act is about one; None: as the act says by itself.
        parameters: whatever else the act does differently by: for create and import `algorithm` and `backend`.
    """

    act: Act
    tenant: str
    key: str
    version: int | None
    parameters: Mapping[str, Any]

    def binding(self) -> str:
        """The hexadecimal SHA-256 that an approval carries.

        Raises:
            BadPayloadError: not a life-cycle act, or parameters that are too long or no JSON.
        """
        if self.act not in LIFE_CYCLE:
            raise BadPayloadError(f"the act {self.act!r} takes no approval")
        try:
            parameters = canonical_json(dict(self.parameters))
        except TypeError as error:
            raise BadPayloadError("the parameters of an approval must be JSON") from error
        if len(parameters) > MAX_PARAMETERS:
            raise BadPayloadError(f"the parameters of an approval have {MAX_PARAMETERS} octets at most")
        head = canonical_json({"act": self.act, "tenant": self.tenant, "key": self.key, "version": self.version})
        return hashlib.sha256(_CONTEXT + head + b"\0" + parameters).hexdigest()


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval, as a row.

    Attributes:
        id: unguessable, the store's.
        binding: of the act.
        approver: who, as `caller_text` writes it.
        approved_at: when.
        expires_at: the first second at which it is no longer good.
        policy_sha256: of the policy that let the approver approve.
        rule: of that policy.
    """

    id: str
    binding: str
    approver: str
    approved_at: datetime
    expires_at: datetime
    policy_sha256: str
    rule: str


def approve(decision: Decision, act: BoundAct, *, id: str, lifetime: timedelta) -> Approval:  # noqa: A002 - the row's word
    """The row of a new approval.

    Args:
        decision: the policy's, on the act `approve` for the key of `act`.
        act: what is approved.
        id: of the row.
        lifetime: how long it is good.

    Raises:
        DeniedByPolicyError: the decision refuses, or is about something else.
        BadPayloadError: what is approved takes no approval.
    """
    rule = decision.require().rule
    if rule is None or (decision.act, decision.tenant, decision.key) != ("approve", act.tenant, act.key):
        raise DeniedByPolicyError("the decision is not about approving for this key")
    return Approval(
        id=id,
        binding=act.binding(),
        approver=caller_text(decision.caller, decision.policy.claim_names),
        approved_at=decision.at,
        expires_at=decision.at + lifetime,
        policy_sha256=decision.policy.sha256,
        rule=rule,
    )


def select(decision: Decision, policy: Policy, act: BoundAct, rows: Sequence[Approval]) -> tuple[Approval, ...]:
    """The approvals that the act consumes; none where it needs none.

    Args:
        decision: the policy's, on the act itself: who requests it, when, and how many must have approved.
        policy: the present one.
        act: what is to be done.
        rows: approvals that are not consumed; those of other acts are passed over.

    Raises:
        DeniedByPolicyError: the decision refuses, or is about something else.
        ApprovalsMissingError: fewer good ones than needed; `.missing` says how many more.
        BadPayloadError: what is to be done takes no approval but a rule wants one.
    """
    if (decision.require().act, decision.tenant, decision.key) != (act.act, act.tenant, act.key):
        raise DeniedByPolicyError("the decision is not about this act")
    needed = decision.approvals_needed
    if not needed:
        return ()
    binding = act.binding()
    good = [
        (row, approver)
        for row in sorted(rows, key=lambda row: (row.approved_at, row.id))
        if row.binding == binding and row.approved_at <= decision.at < row.expires_at
        for approver in [caller_of(row.approver)]
        if policy.decide(approver, "approve", act.tenant, act.key, at=row.approved_at).allowed
    ]
    counted = _distinct(decision.caller, good)
    if len(counted) < needed:
        missing = needed - len(counted)
        raise ApprovalsMissingError(f"{missing} more must approve this act first", missing)
    return tuple(counted[:needed])


def caller_text(caller: Caller, claim_names: Collection[str]) -> str:
    """A caller as a row keeps it: canonical JSON; of the token's claims those that the policy will ask for again."""
    subject = caller.subject
    members: dict[str, Any] = {"spiffe_id": str(caller.spiffe_id)}
    if subject is not None:
        claims = {name: value for name, value in subject.claims.items() if name in claim_names}
        members |= {"issuer": subject.issuer, "subject": subject.subject, "claims": claims}
    return canonical_json(members).decode()


def caller_of(text: str) -> Caller:
    """The caller that `caller_text` wrote.

    Raises:
        DeniedByPolicyError: the row was changed.
    """
    try:
        members = orjson.loads(text)
        subject = OidcSubject(members["issuer"], members["subject"], members["claims"]) if "issuer" in members else None
        return Caller(SpiffeId.parse(members["spiffe_id"]), subject)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IdentityError) as error:
        raise DeniedByPolicyError("an approval's row does not say who approved") from error


def _distinct(requester: Caller, good: Sequence[tuple[Approval, Caller]]) -> list[Approval]:
    """Those with subjects first: one certificate may carry many people's tokens, and stands for itself but once."""
    counted: list[tuple[Approval, Caller]] = []
    for row, approver in sorted(good, key=lambda entry: entry[1].subject is None):
        if not any(_same_person(approver, other) for other in (requester, *(caller for _, caller in counted))):
            counted.append((row, approver))
    return [row for row, _ in counted]


def _same_person(one: Caller, other: Caller) -> bool:
    if one.subject is not None and other.subject is not None:
        return one.subject == other.subject
    return one.spiffe_id == other.spiffe_id
