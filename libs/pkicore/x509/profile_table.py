"""The fields of a profile as TOML has them; every reader raises ProfileError with the name of the profile and field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from cryptography import x509

from pkicore.errors import ProfileError
from pkicore.x509.name_constraints import parse_name_constraints

NameRule: TypeAlias = Literal["forbidden", "allowed", "required", "one"]

NAME_TYPES = ("dns", "ip", "uri", "email")
_FAMILIES = ("ecdsa", "rsa", "eddsa", "mldsa")
_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class ProfileTable:
    """One profile of the TOML text."""

    def __init__(self, name: str, table: object) -> None:
        self.name = name
        self._fields: dict[str, Any] = table if isinstance(table, dict) else {}
        self._read: set[str] = set()
        if not self._fields or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
            raise ProfileError(f"profile {name}: must be a table, its name lower-case letters, digits and hyphens")

    def __contains__(self, field: str) -> bool:
        return field in self._fields

    def error(self, field: str, rule: str) -> ProfileError:
        """The sentence of what is wrong with a field."""
        return ProfileError(f"profile {self.name}: {field} {rule}")

    def _value(self, field: str, kind: type, default: object = None) -> Any:  # noqa: ANN401 - TOML values; `kind` checks
        self._read.add(field)
        value = self._fields.get(field, default)
        if type(value) is not kind:
            raise self.error(field, f"must be a {kind.__name__}" if field in self else "is missing")
        return value

    def text(self, field: str) -> str:
        """A string."""
        return str(self._value(field, str))

    def flag(self, field: str, *, default: bool | None = None) -> bool:
        """True or false."""
        return bool(self._value(field, bool, default))

    def number(self, field: str, low: int, high: int) -> int:
        """A whole number within bounds, both included."""
        value = int(self._value(field, int))
        if not low <= value <= high:
            raise self.error(field, f"must be {low} to {high}")
        return value

    def choice(self, field: str, offered: tuple[Any, ...]) -> Any:  # noqa: ANN401 - one of `offered`, typed by the field
        """One of the strings that are offered."""
        value = self._value(field, str)
        if value not in offered:
            raise self.error(field, f"must be one of {', '.join(offered)}")
        return value

    def texts(self, field: str, offered: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings, of those that are offered where it says so."""
        values = self._value(field, list)
        for value in values:
            if not isinstance(value, str) or (offered is not None and value not in offered):
                raise self.error(field, f"may hold {', '.join(offered)}" if offered else "must hold strings")
        return tuple(values)

    def duration(self, field: str, longest: timedelta) -> timedelta:
        """A number of minutes, hours or days."""
        match = _DURATION.fullmatch(self.text(field))
        if match is None:
            raise self.error(field, 'must be a number of days, hours or minutes, as in "90d", "12h" or "5m"')
        value = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if value > longest:
            raise self.error(field, f"must be at most {longest.days}d")
        return value

    def name_rules(self) -> Mapping[str, NameRule]:
        """How many names of each type there may be."""
        rules = self._value("names", dict, {})
        for kind, rule in rules.items():
            if kind not in NAME_TYPES or rule not in get_args(NameRule):
                raise self.error("names", f"maps {', '.join(NAME_TYPES)} to one of {', '.join(get_args(NameRule))}")
        return MappingProxyType({kind: rules.get(kind, "forbidden") for kind in NAME_TYPES})

    def families(self) -> Mapping[str, tuple[str, ...]]:
        """Which families issue for the keys of a family; `ecdsa = "ecdsa"` is short for a list of one."""
        families = self._value("families", dict)
        found: dict[str, tuple[str, ...]] = {}
        for key, issuing in families.items():
            names = (issuing,) if isinstance(issuing, str) else issuing
            if key not in _FAMILIES or not isinstance(names, list | tuple) or not names:
                raise self.error("families", f"maps {', '.join(_FAMILIES)} to one of them, or to a list of them")
            if not all(name in _FAMILIES for name in names):
                raise self.error("families", f"may hold {', '.join(_FAMILIES)}")
            found[key] = tuple(names)
        return MappingProxyType(found)

    def identifiers(self, field: str) -> tuple[str, ...]:
        """A list of object identifiers; none where there is no such field."""
        values = self.texts(field) if field in self else ()
        if not all(map(_is_identifier, values)) or len(set(values)) != len(values):
            raise self.error(field, 'must hold object identifiers, as in "1.3.6.1.4.1.99999.1", each once')
        return values

    def name_constraints(self) -> x509.NameConstraints | None:
        """The names that a CA may certify."""
        field = "name_constraints"
        if field not in self:
            return None
        lists = self._value(field, dict)
        if unknown := set(lists) - {"permitted", "excluded"}:
            raise self.error(field, f"has permitted and excluded, not {min(unknown)}")
        permitted, excluded = lists.get("permitted", []), lists.get("excluded", [])
        for entries in (permitted, excluded):
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise self.error(field, "must hold lists of strings")
        try:
            return parse_name_constraints(permitted, excluded)
        except ProfileError as error:
            raise self.error(field, str(error)) from error

    def refuse_unknown(self) -> None:
        """Every field of the table must have been read by now."""
        if unknown := sorted(set(self._fields) - self._read):
            raise self.error(unknown[0], "is no field of a profile")


def _is_identifier(text: str) -> bool:
    try:
        return x509.ObjectIdentifier(text).dotted_string == text
    except ValueError:
        return False
