"""Changes to the CA's settings file that keep its comments and order: text in, text out, checked by parsing it again.

A migration is one atomic replacement of this file: `key` names the key in force, `previous_key` the one before, so that
the way back is one replacement, too.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from services.ca.errors import CeremonyError
from services.ca.toml_text import lines, table

Members: TypeAlias = Mapping[str, str | int | list[str] | None]
"""Names and new values; None removes the member."""
Kind: TypeAlias = Literal["issuers", "roots"]

_TABLE: Final = re.compile(r"^\[\[?[^\]]+\]\]?\s*$", re.MULTILINE)


def in_state(state: str) -> Members:
    """What makes the state of an issuing CA this one; `retired = true` is how earlier versions said it."""
    return {"state": state, "retired": None}


def change_issuers(text: str, changes: Mapping[str, Members]) -> str:
    """The text with other values in its `[[issuers]]` tables; issuer id → member → new value, None removes it.

    Raises:
        CeremonyError: the file is written in a way that is not understood; nothing is changed then.
    """
    return _change(text, "issuers", changes)


def change_roots(text: str, changes: Mapping[str, Members]) -> str:
    """As `change_issuers`, in the `[[roots]]` tables.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    return _change(text, "roots", changes)


def add_issuer(text: str, after: str, members: Mapping[str, object]) -> str:
    """The text with another `[[issuers]]` table, behind that of `after`.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    return _add(text, "issuers", after, members)


def add_root(text: str, after: str, members: Mapping[str, object]) -> str:
    """The text with another `[[roots]]` table, behind that of `after`.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    return _add(text, "roots", after, members)


def remove_issuer(text: str, issuer: str) -> str:
    """The text without an `[[issuers]]` table.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    start, end = _span(text, "issuers", issuer)
    wanted = tomllib.loads(text)
    wanted["issuers"] = [item for item in wanted["issuers"] if item["id"] != issuer]
    return _understood(text[:start] + text[end:], wanted)


def set_top_level(text: str, name: str, value: str) -> str:
    """The text with this member, before its first table.

    Raises:
        CeremonyError: the text has no table.
    """
    first = _TABLE.search(text)
    if first is None:
        raise CeremonyError("the CA's settings file has no tables, and so no issuers")
    return _assign(text[: first.start()].rstrip("\n") + "\n", name, value) + "\n" + text[first.start() :]


def _change(text: str, kind: Kind, changes: Mapping[str, Members]) -> str:
    changed = text
    for name, members in changes.items():
        start, end = _span(changed, kind, name)
        part = changed[start:end]
        for member, value in members.items():
            part = _assign(part, member, value)
        changed = changed[:start] + part + changed[end:]
    wanted = tomllib.loads(text)
    for item in wanted.get(kind, ()):
        for member, value in changes.get(item["id"], {}).items():
            item.pop(member, None)
            item.update({} if value is None else {member: value})
    return _understood(changed, wanted)


def _add(text: str, kind: Kind, after: str, members: Mapping[str, object]) -> str:
    _, end = _span(text, kind, after)
    rest = f"\n{text[end:]}" if text[end:] else ""
    changed = text[:end].rstrip("\n") + "\n" + table(kind, members) + rest
    wanted = tomllib.loads(text)
    place = [item["id"] for item in wanted[kind]].index(after) + 1
    wanted[kind].insert(place, tomllib.loads(lines(members)))
    return _understood(changed, wanted)


def _span(text: str, kind: Kind, name: str) -> tuple[int, int]:
    for found in re.finditer(rf"^\[\[{kind}\]\]\s*$", text, re.MULTILINE):
        following = _TABLE.search(text, found.end())
        end = len(text) if following is None else following.start()
        if tomllib.loads(text[found.start() : end])[kind][0].get("id") == name:
            return found.start(), end
    raise CeremonyError(f"the CA's settings file has no [[{kind}]] table with the id {name}")


def _assign(text: str, name: str, value: str | int | list[str] | None) -> str:
    line = "" if value is None else f"{name} = {json.dumps(value)}\n"
    existing = re.compile(rf"^{re.escape(name)}\s*=.*\n?", re.MULTILINE)
    if existing.search(text):
        return existing.sub(lambda _: line, text, count=1)
    body = text.rstrip("\n")
    return f"{body}\n{line}" + text[len(body) + 1 :]


def _understood(after: str, wanted: Mapping[str, Any]) -> str:
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != wanted:
        raise CeremonyError("the CA's settings file is written in a way that cannot be changed here; change it by hand")
    return after
