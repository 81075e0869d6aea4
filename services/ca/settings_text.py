"""Changes to the CA's settings file that keep its comments and order: text in, text out, checked by parsing it again.

A migration is one atomic replacement of this file: `key` names the key in force, `previous_key` the one before, so that
the way back is one replacement, too.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from services.ca.errors import CeremonyError
from services.ca.toml_text import lines, table

Members: TypeAlias = Mapping[str, str | int | None]
"""Names and new values; None removes the member."""

_TABLE: Final = re.compile(r"^\[\[?[^\]]+\]\]?\s*$", re.MULTILINE)
_ISSUERS: Final = re.compile(r"^\[\[issuers\]\]\s*$", re.MULTILINE)


def change_issuers(text: str, changes: Mapping[str, Members]) -> str:
    """The text with other values in its `[[issuers]]` tables; issuer id → member → new value, None removes it.

    Raises:
        CeremonyError: the file is written in a way that is not understood; nothing is changed then.
    """
    changed = text
    for issuer, members in changes.items():
        start, end = _issuer_span(changed, issuer)
        table = changed[start:end]
        for name, value in members.items():
            table = _assign(table, name, value)
        changed = changed[:start] + table + changed[end:]
    return _check(text, changed, changes)


def add_issuer(text: str, after: str, members: Mapping[str, object]) -> str:
    """The text with another `[[issuers]]` table, behind that of `after`.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    _, end = _issuer_span(text, after)
    rest = f"\n{text[end:]}" if text[end:] else ""
    changed = text[:end].rstrip("\n") + "\n" + table("issuers", members) + rest
    wanted = tomllib.loads(text)
    place = [item["id"] for item in wanted["issuers"]].index(after) + 1
    wanted["issuers"].insert(place, tomllib.loads(lines(members)))
    return _understood(changed, wanted)


def remove_issuer(text: str, issuer: str) -> str:
    """The text without an `[[issuers]]` table.

    Raises:
        CeremonyError: as `change_issuers`.
    """
    start, end = _issuer_span(text, issuer)
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


def _issuer_span(text: str, issuer: str) -> tuple[int, int]:
    for found in _ISSUERS.finditer(text):
        following = _TABLE.search(text, found.end())
        end = len(text) if following is None else following.start()
        if tomllib.loads(text[found.start() : end])["issuers"][0].get("id") == issuer:
            return found.start(), end
    raise CeremonyError(f"the CA's settings file has no [[issuers]] table with the id {issuer}")


def _assign(text: str, name: str, value: str | int | None) -> str:
    line = "" if value is None else f"{name} = {json.dumps(value)}\n"
    existing = re.compile(rf"^{re.escape(name)}\s*=.*\n?", re.MULTILINE)
    if existing.search(text):
        return existing.sub(lambda _: line, text, count=1)
    body = text.rstrip("\n")
    return f"{body}\n{line}" + text[len(body) + 1 :]


def _check(before: str, after: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Nothing but what was asked for has changed."""
    wanted = tomllib.loads(before)
    for item in wanted.get("issuers", ()):
        for name, value in changes.get(item["id"], {}).items():
            item.pop(name, None)
            item.update({} if value is None else {name: value})
    return _understood(after, wanted)


def _understood(after: str, wanted: Mapping[str, Any]) -> str:
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != wanted:
        raise CeremonyError("the CA's settings file is written in a way that cannot be changed here; change it by hand")
    return after
