"""The Cedar schema that policies are validated against: a claim that is misspelt is found when the policy is loaded.

A caller and a key are in their tenant, so `principal in Tenant::"acme"` holds. Names of repositories, projects and
people are no claims here: they can be registered anew by others. Policies have the ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import cedarpy

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
    """

    def __init__(self, more_claims: Iterable[str] = ()) -> None:
        self.claims = RULE_CLAIMS | frozenset(more_claims)
        claims = ",\n".join(f"  {name}?: String" for name in sorted(self.claims))
        self.text = _HEAD.format(claims=claims) + "".join(_action(name) for name in ACTIONS)
        self.handle = cedarpy.Schema.from_str(self.text)


def _action(name: Action) -> str:
    resource = "Key" if name in KEY_ACTIONS else "Tenant"
    context = _SIGNING if name in SIGNING_ACTIONS else _PLAIN
    return f"action {name} appliesTo {{\n  principal: [Caller],\n  resource: [{resource}],\n  context: {context}\n}};\n"
