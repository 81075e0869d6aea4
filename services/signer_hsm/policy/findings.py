"""What is allowed in a policy and still no good idea: rules that never match, approvals that nobody can give."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from services.signer_hsm.policy.document import WILDCARD, PolicyDocument, RuleDocument, moment
from services.signer_hsm.schemes import SCHEMES, Scheme


def findings(document: PolicyDocument, at: datetime) -> tuple[str, ...]:
    """One sentence each, in the order of the file."""
    return (*_tenants(document), *(finding for rule in document.rules for finding in _rule(document, rule, at)))


def _tenants(document: PolicyDocument) -> Iterator[str]:
    ruled = {rule.tenant for rule in document.rules}
    for tenant in document.tenants:
        if tenant.id not in ruled:
            yield f"tenant {tenant.id}: no rule is about it, so nobody can use it"
        if len(set(tenant.backends)) < len(tenant.backends):
            yield f"tenant {tenant.id}: a back end stands twice in backends"


def _rule(document: PolicyDocument, rule: RuleDocument, at: datetime) -> Iterator[str]:
    if rule.valid_until is not None and moment(rule.valid_until) <= at:
        yield f"rule {rule.id}: never matches any more, it ended {rule.valid_until}"
    for kind in rule.kinds or ():
        if rule.schemes is not None and not any(_takes(SCHEMES[name], kind) for name in rule.schemes):
            yield f"rule {rule.id}: none of its schemes signs the kind {kind}"
    if rule.approvals:
        approvers = _approvers(document, rule)
        if approvers is not None and approvers < rule.approvals:
            yield f"rule {rule.id}: wants {rule.approvals} approvals, but only {approvers} may approve in {rule.tenant}"
    if rule.subjects and not rule.callers:
        yield f"rule {rule.id}: any peer may show these subjects' tokens; callers would name the peers that should"


_MESSAGE_FAMILIES: Final = frozenset({"eddsa", "mldsa"})


def _takes(scheme: Scheme, kind: str) -> bool:
    if kind == "digest":
        return scheme.hash is not None
    return scheme.family == "mldsa" if kind == "mu" else scheme.family in _MESSAGE_FAMILIES


def _approvers(document: PolicyDocument, wanting: RuleDocument) -> int | None:
    """How many principals may approve in the rule's tenant at most; None: any number."""
    principals: set[object] = set()
    for rule in document.rules:
        if rule.tenant != wanting.tenant or "approve" not in rule.acts:
            continue
        if not rule.subjects and any(caller.endswith(WILDCARD) for caller in rule.callers):
            return None
        principals |= {(subject.issuer, subject.subject) for subject in rule.subjects} or set(rule.callers)
    return len(principals)
