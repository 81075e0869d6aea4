"""What a credential is narrowed to. Scopes never grant anything: the policy must allow the act as well."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pkicore.errors import MalformedError

Action = Literal[
    "sign",
    "sign_certificate",
    "read",
    "search",
    "export_evidence",
    "hold_signatures",
    "manage_api_keys",
    "manage_webhooks",
]
"""What a caller may be allowed to do; Cedar's `Action::"..."` has the same words."""

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
_MEMBERS: Final = frozenset({"actions", "keys", "formats"})
_MAX_ENTRIES: Final = 64
_KEY: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\*?", re.ASCII)
_FORMAT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_ACTION: Final = re.compile("|".join(ACTIONS))


@dataclass(frozen=True, slots=True)
class Scopes:
    """What is left of the policy's grants; None: that part is not narrowed.

    Attributes:
        actions: the actions.
        keys: names of the tenant's keys, or beginnings of such names followed by `*`; acts about no key do not pass.
        formats: the formats that may be signed in.
    """

    actions: frozenset[str] | None = None
    keys: frozenset[str] | None = None
    formats: frozenset[str] | None = None

    @classmethod
    def of(cls, members: object) -> Scopes:
        """From what `members` made of them, or a request has.

        Raises:
            MalformedError: no such object; the sentence names the member.
        """
        if not isinstance(members, dict) or members.keys() - _MEMBERS:
            raise MalformedError("scopes must be an object of actions, keys and formats")
        return cls(
            _entries(members, "actions", _ACTION),
            _entries(members, "keys", _KEY),
            _entries(members, "formats", _FORMAT),
        )

    def members(self) -> dict[str, list[str]]:
        """As JSON has them; what is not narrowed is left out."""
        parts = {"actions": self.actions, "keys": self.keys, "formats": self.formats}
        return {name: sorted(entries) for name, entries in parts.items() if entries is not None}

    def allow(self, action: str, key: str | None, formats: Iterable[str]) -> bool:
        """Whether they leave this act."""
        return (
            (self.actions is None or action in self.actions)
            and (self.keys is None or (key is not None and _covers(self.keys, key)))
            and (self.formats is None or self.formats.issuperset(formats))
        )

    def within(self, wider: Scopes) -> bool:
        """Whether whoever has these can do nothing that `wider` does not leave."""
        return (
            _is_part(self.actions, wider.actions)
            and _is_part(self.formats, wider.formats)
            and (wider.keys is None or (self.keys is not None and all(_covers(wider.keys, key) for key in self.keys)))
        )


UNNARROWED: Final = Scopes()


def _entries(members: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> frozenset[str] | None:
    if name not in members:
        return None
    entries = members[name]
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_ENTRIES:
        raise MalformedError(f"{name} must be a list of 1 to {_MAX_ENTRIES} entries")
    for entry in entries:
        if not isinstance(entry, str) or not pattern.fullmatch(entry):
            raise MalformedError(f"{name} has an entry that is none: {str(entry)[:64]!a}")
    return frozenset(entries)


def _covers(patterns: Collection[str], key: str) -> bool:
    """Whether a key's name, or every name that a pattern stands for, is among what `patterns` stand for."""
    return key in patterns or any(
        pattern.endswith("*") and key.removesuffix("*").startswith(pattern[:-1]) for pattern in patterns
    )


def _is_part(some: frozenset[str] | None, all_of: frozenset[str] | None) -> bool:
    return all_of is None or (some is not None and some <= all_of)
