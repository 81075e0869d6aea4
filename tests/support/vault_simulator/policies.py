"""Policies of the simulator: the part of HCL and of the matching rules that the shipped policies use.

A path matches exactly, with `+` for one segment, or by a prefix before a final `*`; of several that match, an exact one
beats one with `+`, which beats a shorter or globbed one; capabilities of the same path in several policies add up, deny
wins; `allowed_parameters` of several policies add up too, and a policy without them allows all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.vault_simulator.errors import denied, invalid

_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_PATH = re.compile(r'\s*path\s+"([^"]+)"\s*\{(.*?)\n\}', re.DOTALL)
_CAPABILITIES = re.compile(r"capabilities\s*=\s*(\[[^\]]*\])")
_ALLOWED = re.compile(r"allowed_parameters\s*=\s*\{([^}]*)\}", re.DOTALL)
_PARAMETER = re.compile(r'"([^"]+)"\s*=\s*(\[[^\]]*\])')
_KNOWN = {"create", "read", "update", "delete", "list", "sudo", "deny", "patch"}


@dataclass(frozen=True)
class Rule:
    """One path of a policy; `allowed` None means any parameter."""

    path: str
    capabilities: frozenset[str]
    allowed: Mapping[str, list[Any]] | None

    def matches(self, path: str) -> bool:
        """Whether the path is meant."""
        glob = self.path.endswith("*")
        pattern = "/".join("[^/]+" if part == "+" else re.escape(part) for part in self.path.rstrip("*").split("/"))
        return re.fullmatch(pattern + (".*" if glob else ""), path) is not None

    @property
    def weight(self) -> tuple[bool, int, int]:
        """Greater is more specific: no glob, a late first wildcard, length."""
        first = min((self.path.index(sign) for sign in "+*" if sign in self.path), default=len(self.path) + 1)
        return (not self.path.endswith("*"), first, len(self.path))


def parse(text: str) -> list[Rule]:
    """The rules of a policy.

    Raises:
        RefusalError: it is not in the part of HCL that is understood here.
    """
    bare = _COMMENT.sub("", text)
    rules = [_rule(found[1], found[2]) for found in _PATH.finditer(bare)]
    if not rules or _PATH.sub("", bare).strip():
        raise invalid("failed to parse policy")
    return rules


def _rule(path: str, body: str) -> Rule:
    found = _CAPABILITIES.search(body)
    capabilities = frozenset(json.loads(found[1])) if found else frozenset()
    if not capabilities or not capabilities <= _KNOWN:
        raise invalid(f"failed to parse policy: path {path!r}: invalid capability")
    allowed = _ALLOWED.search(body)
    parameters = {each[1]: json.loads(each[2]) for each in _PARAMETER.finditer(allowed[1])} if allowed else None
    return Rule(path, capabilities, parameters)


def check(rules: list[Rule], path: str, capabilities: set[str], body: Mapping[str, Any]) -> None:
    """Refuse what the rules do not allow.

    Args:
        rules: of all policies of a token.
        path: below /v1/.
        capabilities: one of them must be granted.
        body: of the request.

    Raises:
        RefusalError: 403.
    """
    matching = [rule for rule in rules if rule.matches(path)]
    best = max((rule.weight for rule in matching), default=None)
    chosen = [rule for rule in matching if rule.weight == best]
    granted = frozenset().union(*(rule.capabilities for rule in chosen))
    if "deny" in granted or not granted & capabilities:
        raise denied()
    if "read" in capabilities or any(
        rule.allowed is None and rule.capabilities & {"create", "update"} for rule in chosen
    ):
        return
    allowed: dict[str, list[Any]] = {}
    for rule in chosen:
        allowed.update(rule.allowed or {})
    for name, value in body.items():
        if not allowed or name not in allowed or (allowed[name] and value not in allowed[name]):
            raise denied()
