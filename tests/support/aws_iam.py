"""As much of IAM as signer-hsm's own policy needs, simulated: who may call what, by resource and by tags.

Default deny; Action and Resource with wildcards; the conditions StringEquals and StringLike on tags. Anything else in a
policy is refused, so that a policy is never thought to be stricter or weaker than it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

_STATEMENT = {"Sid", "Effect", "Action", "Resource", "Condition"}


class IamPolicy:
    """An identity policy.

    Args:
        document: as JSON has it.

    Raises:
        ValueError: it has something that is not simulated.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._statements: list[Mapping[str, Any]] = document["Statement"]
        for statement in self._statements:
            if not set(statement) <= _STATEMENT or statement["Effect"] not in {"Allow", "Deny"}:
                raise ValueError(f"not simulated: {statement}")
            for operator, conditions in statement.get("Condition", {}).items():
                if operator not in {"StringEquals", "StringLike"}:
                    raise ValueError(f"not simulated: {operator}")
                for name in conditions:
                    _tag_name(name)

    def allows(
        self, action: str, resource: str, *, resource_tags: Mapping[str, str], request_tags: Mapping[str, str]
    ) -> bool:
        """Whether some statement allows it and none denies it."""
        tags = {"aws:ResourceTag": resource_tags, "aws:RequestTag": request_tags}
        effects = {
            statement["Effect"]
            for statement in self._statements
            if _any(statement["Action"], action)
            and _any(statement["Resource"], resource)
            and all(
                _holds(operator, name, wanted, tags)
                for operator, conditions in statement.get("Condition", {}).items()
                for name, wanted in conditions.items()
            )
        }
        return effects == {"Allow"}


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _any(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in _list(patterns))


def _tag_name(name: str) -> tuple[str, str]:
    source, _, tag = name.partition("/")
    if source not in {"aws:ResourceTag", "aws:RequestTag"} or not tag:
        raise ValueError(f"not simulated: {name}")
    return source, tag


def _holds(operator: str, name: str, wanted: str | list[str], tags: Mapping[str, Mapping[str, str]]) -> bool:
    source, tag = _tag_name(name)
    found = tags[source].get(tag)
    if found is None:
        return False
    return _any(wanted, found) if operator == "StringLike" else found in _list(wanted)
