"""The key policy: what no rule allows is refused.

1. A caller without token is looked for among `callers`, a caller with one among `subjects`; a rule that has both wants
   both. So a token never adds to what its bearer's certificate may do: it replaces it.
2. The rules of this principal for this tenant and act are found by one look-up each; the index is made at load.
3. A rule allows when key, claims, kind, scheme, validity and windows fit. Rules only allow; none takes away.
4. Where several allow, the one with the fewest approvals counts, then the one that stands first in the file.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self

from pkicore.algorithms import Payload
from services.signer_hsm.policy.decision import Caller, Decision, Reason
from services.signer_hsm.policy.document import WILDCARD, Act, PolicyDocument, Tenant
from services.signer_hsm.policy.loading import Format, read_document
from services.signer_hsm.policy.rules import Rule, SubjectName
from services.signer_hsm.policy.windows import inside

_Index = dict[tuple[str | SubjectName, str, Act], list[Rule]]
_STAGES: Final[tuple[Reason, ...]] = (
    "no-rule",
    "key",
    "claims",
    "kind",
    "scheme",
    "not-yet",
    "expired",
    "window",
    "allowed",
)
_KEYLESS: Final[frozenset[Act]] = frozenset({"list", "approve"})
"""Acts that may be about no single key: what is listed is then decided key by key."""


class Policy:
    """One loaded policy; `load` makes it, nothing changes it.

    Attributes:
        version: as its author counts.
        sha256: hexadecimal SHA-256 of the document's canonical JSON; `loading` says of what exactly.
        tenants: by id.
        rules: by id, in the order in which they count.
        claim_names: the claims that any rule asks for.
    """

    def __init__(self, document: PolicyDocument, canonical: bytes) -> None:
        ordered = sorted(enumerate(document.rules), key=lambda entry: (entry[1].approvals, entry[0]))
        rules = [Rule.compile(rule, rank) for rank, (_, rule) in enumerate(ordered)]
        self.version = document.version
        self.sha256 = hashlib.sha256(canonical).hexdigest()
        self.tenants: Mapping[str, Tenant] = MappingProxyType({tenant.id: tenant for tenant in document.tenants})
        self.rules: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in rules})
        self.claim_names = frozenset(
            name for rule in document.rules for subject in rule.subjects for name in subject.claims
        )
        self._index: _Index = {}
        self._by_principal: dict[str | SubjectName, list[Rule]] = {}
        for rule, (_, entry) in zip(rules, ordered, strict=True):
            for principal in rule.subjects or rule.callers:
                self._by_principal.setdefault(principal, []).append(rule)
                for act in set(entry.acts):
                    self._index.setdefault((principal, rule.tenant, act), []).append(rule)

    @classmethod
    def load(cls, text: str, format: Format = "toml") -> Self:  # noqa: A002 - the word of every format argument
        """Read a policy.

        Raises:
            KeyPolicyError: it makes no sense; the sentence names the places.
        """
        return cls(*read_document(text, format))

    def decide(
        self,
        caller: Caller,
        act: Act,
        tenant: str,
        key_name: str | None,
        *,
        at: datetime,
        kind: Payload | None = None,
        scheme: str | None = None,
    ) -> Decision:
        """Whether the caller may do this now.

        Costs the same whether or not tenant and key exist: the policy does not know keys.

        Args:
            caller: who asks.
            act: what for.
            tenant: whose keys, as the caller said.
            key_name: which one; None, with list and approve only, for no single one, which rules for any key allow.
            at: when, aware UTC.
            kind: payload kind; needed with sign.
            scheme: signature scheme; with sign and None only rules that allow every scheme fit.
        """
        best: Rule | None = None
        reason: Reason = "no-rule"
        for rule in self._candidates(caller, tenant, act):
            if best is not None and best.rank < rule.rank:
                continue
            found = _fit(rule, caller, act, key_name, at, kind, scheme)
            if found == "allowed":
                best = rule
            elif best is None and _STAGES.index(found) > _STAGES.index(reason):
                reason = found
        if best is not None:
            reason = "allowed"
        return Decision(best is not None, reason, best, self, caller, act, tenant, key_name, at, kind, scheme)

    def refuse(
        self, caller: Caller, act: Act, tenant: str, key_name: str | None, reason: Reason, *, at: datetime
    ) -> Decision:
        """A refusal that is none of the rules': a bad token. It is recorded like any other."""
        return Decision(False, reason, None, self, caller, act, tenant, key_name, at)

    def tenants_of(self, caller: Caller) -> frozenset[str]:
        """The tenants in which a rule names this caller, whatever for and whenever."""
        return frozenset(
            rule.tenant
            for principal in _principals(caller)
            for rule in self._by_principal.get(principal, ())
            if _names(rule, caller)
        )

    def _candidates(self, caller: Caller, tenant: str, act: Act) -> Iterable[Rule]:
        found: list[Rule] = []
        for principal in _principals(caller):
            found += self._index.get((principal, tenant, act), ())
        return found


def _principals(caller: Caller) -> tuple[str | SubjectName, ...]:
    principal = caller.principal
    if isinstance(principal, tuple):
        return (principal,)
    return principal, principal[: principal.rindex("/")] + WILDCARD


def _names(rule: Rule, caller: Caller) -> bool:
    """Whether the rule's callers and subjects name this caller, the principal it was found by apart."""
    if caller.subject is None:
        return True
    if rule.callers:
        spiffe_id = str(caller.spiffe_id)
        if spiffe_id not in rule.callers and spiffe_id[: spiffe_id.rindex("/")] + WILDCARD not in rule.callers:
            return False
    has = caller.subject.claims
    return any(
        all(type(has.get(name)) is type(value) and has[name] == value for name, value in wanted.items())
        for wanted in rule.subjects[caller.subject.issuer, caller.subject.subject]
    )


def _fit(
    rule: Rule, caller: Caller, act: Act, key: str | None, at: datetime, kind: str | None, scheme: str | None
) -> Reason:
    """How far the rule fits."""
    if key is None:
        if act not in _KEYLESS:
            return "key"
    elif key not in rule.keys and not key.startswith(rule.key_prefixes):
        return "key"
    if rule.subjects and not _names(rule, caller):
        return "claims"
    if act == "sign":
        if kind not in rule.kinds:
            return "kind"
        if rule.schemes is not None and scheme not in rule.schemes:
            return "scheme"
    return _time_fits(rule, at)


def _time_fits(rule: Rule, at: datetime) -> Reason:
    if rule.valid_from is not None and at < rule.valid_from:
        return "not-yet"
    if rule.valid_until is not None and at >= rule.valid_until:
        return "expired"
    if rule.windows is not None and not inside(rule.windows, at):
        return "window"
    return "allowed"
