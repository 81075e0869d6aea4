"""What the policy is asked, and how Cedar is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from services.signing.callers import Action, Caller
from services.signing.policy.schema import KEY_ACTIONS, SIGNING_ACTIONS

_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """May this caller do this with that?

    Attributes:
        caller: who asks.
        action: for what.
        tenant: whose key or records it is about.
        key: name of the tenant's key; with `sign`, and with no other action.
        formats: the formats to be signed in.
        algorithms: of the signatures.
        predicate_types: of the attestations, as URIs.
        subjects: how many artefacts.
    """

    caller: Caller
    action: Action
    tenant: str
    key: str | None = None
    formats: frozenset[str] = _NONE
    algorithms: frozenset[str] = _NONE
    predicate_types: frozenset[str] = _NONE
    subjects: int = 0

    def __post_init__(self) -> None:
        if (self.key is not None) != (self.action in KEY_ACTIONS):
            raise ValueError(f"{self.action} is {'' if self.key is None else 'not '}about a key")

    def facts(self) -> tuple[object, ...]:
        """All that Cedar is told: where it is equal, so are the decisions."""
        return (
            self.caller.kind,
            self.caller.id,
            self.caller.tenant,
            tuple(self.caller.claims.items()),
            self.action,
            self.tenant,
            self.key,
            self.formats,
            self.algorithms,
            self.predicate_types,
            self.subjects,
        )


class CedarRequest(NamedTuple):
    """A request in Cedar's words."""

    request: dict[str, Any]
    entities: str


def cedar_request(asked: AccessRequest, claim_names: frozenset[str]) -> CedarRequest:
    """Write a request down for Cedar; names and ids are data in it, never syntax.

    Args:
        asked: the request.
        claim_names: the claims that the schema has.
    """
    caller = asked.caller
    key_id = f"{asked.tenant}.{asked.key}"
    resource = _uid("Tenant", asked.tenant) if asked.key is None else _uid("Key", key_id)
    principal = _uid("Caller", caller.id)
    entities = [_entity(principal, caller.tenant, kind=caller.kind), {"uid": _uid("Tenant", asked.tenant), **_BARE}]
    if asked.key is not None:
        entities.append(_entity(resource, asked.tenant, name=asked.key))
    request = {
        "principal": principal,
        "action": _uid("Action", asked.action),
        "resource": resource,
        "context": orjson.dumps(_context(asked, claim_names)).decode(),
    }
    return CedarRequest(request, orjson.dumps(entities).decode())


_BARE: Final[Mapping[str, Any]] = {"attrs": {}, "parents": []}


def _context(asked: AccessRequest, claim_names: frozenset[str]) -> dict[str, Any]:
    claims = {name: value for name, value in asked.caller.claims.items() if name in claim_names}
    context: dict[str, Any] = {"tenant": asked.tenant, "claims": claims}
    if asked.action in SIGNING_ACTIONS:
        context["formats"] = sorted(asked.formats)
        context["algorithms"] = sorted(asked.algorithms)
        context["predicate_types"] = sorted(asked.predicate_types)
        context["subjects"] = asked.subjects
    return context


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _entity(uid: dict[str, str], tenant: str, **attributes: str) -> dict[str, Any]:
    return {"uid": uid, "attrs": attributes, "parents": [_uid("Tenant", tenant)]}
