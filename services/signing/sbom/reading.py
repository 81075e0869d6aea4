"""An SBOM's file → one JSON object that every parser reads alike.

Python's own parser and not orjson: it runs under a memory limit, and CPython survives a failed allocation. Refused:
a byte order mark, bad UTF-8, a member given twice, NaN and infinities (also by overflow), lone surrogates, integers
of more than 4300 digits, nesting that no validator's recursion would survive (RFC 8259 §4, §8, §9; RFC 7493).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any, Final

from services.signing.sbom.errors import BadSbomError, bounded

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 128  # objects and lists within each other; a library recurses some six frames for each
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be one half of a pair


def read_document(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read the object in `path`.

    Raises:
        BadSbomError: too long, not UTF-8, not JSON with one meaning, or no object.
        OSError: the file cannot be read.
    """
    document = _parse(_text(path, max_bytes))
    if not isinstance(document, dict):
        raise BadSbomError.of("$", "is not a JSON object")
    return document


def _text(path: Path, max_bytes: int) -> str:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise BadSbomError.of("$", f"the SBOM is longer than {max_bytes} bytes")
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)):
        raise BadSbomError.of("$", "starts with a byte order mark; JSON is UTF-8 without one (RFC 8259 §8.1)")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadSbomError.of("$", f"is not UTF-8 at byte {error.start}") from None


def _parse(text: str) -> object:
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadSbomError.of("$", f"is not JSON: {error.msg.lower()} ({where})") from None
    except RecursionError:
        raise BadSbomError.of("$", "is nested too deeply") from None
    except ValueError:  # int() of more digits than the interpreter converts
        raise BadSbomError.of("$", "has a number that is too long") from None
    _refuse_depth(document)
    if _SURROGATE.search(text):
        _refuse_surrogates(document)
    return document


def _refuse_depth(document: object) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        inner = [
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        ]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise BadSbomError.of("$", f"is nested too deeply: more than {MAX_DEPTH} objects and lists within each other")


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # None is false: the idiom for the first repetition
        raise BadSbomError.of("$", f"the member {bounded(name, 60)!r} is given twice in one object")
    return members


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadSbomError.of("$", "has a number that is too large")
    return value


def _refuse_constant(name: str) -> object:
    raise BadSbomError.of("$", f"{name} is not JSON")


def _refuse_surrogates(document: object) -> None:
    rest = [document]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += value.keys()
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadSbomError.of("$", "a string has half of a surrogate pair") from None


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_one_of_each, parse_float=_finite, parse_constant=_refuse_constant)
