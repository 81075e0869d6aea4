"""The Cedar schema that policies are validated against: a claim that is misspelt is found when the policy is loaded.

A caller and a key are in their tenant, so `principal in Tenant::"acme"` holds. Names of repositories, projects and
people are no claims here: they can be registered anew by others. Policies have the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import cedarpy
from cedarpy.pst import GetAttr, HasAttr, Var

from services.signing.callers.claims import RULE_CLAIMS
from services.signing.callers.scopes import ACTIONS, Action

KEY_ACTIONS: Final[frozenset[Action]] = frozenset({"sign"})
"""Actions about a key; the others are about a tenant."""

SIGNING_ACTIONS: Final[frozenset[Action]] = frozenset({"sign", "sign_certificate"})
"""Actions whose context has what is to be signed."""

_HEAD: Final = """\
entity Tenant;
entity Caller in [Tenant] {{ kind: String }};
entity Key in [Tenant] {{ name: String }};
type Claims = {{
{claims}
}};
"""
_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "principal": frozenset({"kind"}),
    "resource": frozenset({"name"}),
    "context": frozenset({"tenant", "claims", "formats", "algorithms", "predicate_types", "subjects"}),
}
_CLAIM_AT: Final = 2  # context.claims.NAME
_PLAIN: Final = "{ tenant: String, claims: Claims }"
_SIGNING: Final = """{
    tenant: String,
    claims: Claims,
    formats: Set<String>,
    algorithms: Set<String>,
    predicate_types: Set<String>,
    subjects: Long,
  }"""


class PolicySchema:
    """The schema, parsed once.

    Args:
        more_claims: claims of generic issuers, as `SigningIssuerSettings.more_claims` names them.

    Attributes:
        text: in Cedar's syntax.
        handle: for the engine.
        claims: the claims that a policy can ask for.
    """

    def __init__(self, more_claims: Iterable[str] = ()) -> None:
        self.claims = RULE_CLAIMS | frozenset(more_claims)
        claims = ",\n".join(f"  {name}?: String" for name in sorted(self.claims))
        self.text = _HEAD.format(claims=claims) + "".join(_action(name) for name in ACTIONS)
        self.handle = cedarpy.Schema.from_str(self.text)

    def asks_in_vain(self, has: HasAttr) -> bool:
        """Whether a `has` asks for what can never be there.

        To the validator it is merely false: a misspelt claim would go unnoticed, and a policy that forbids would never
        do so.
        """
        path = (*_path_of(has.base), *has.attrs)
        if path[:2] == ("context", "claims") and len(path) > _CLAIM_AT:
            return path[_CLAIM_AT] not in self.claims
        return path[-1] not in _ATTRIBUTES.get(path[0], self.claims)


def _path_of(base: object) -> tuple[str, ...]:
    """The names of a chain of members that begins with a variable; of anything else, no variable's name."""
    if isinstance(base, Var):
        return (base.name,)
    return (*_path_of(base.base), base.attr) if isinstance(base, GetAttr) else ("",)


def _action(name: Action) -> str:
    resource = "Key" if name in KEY_ACTIONS else "Tenant"
    context = _SIGNING if name in SIGNING_ACTIONS else _PLAIN
    return f"action {name} appliesTo {{\n  principal: [Caller],\n  resource: [{resource}],\n  context: {context}\n}};\n"
