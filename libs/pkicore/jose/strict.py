"""JSON and base64url that mean one thing only: no duplicate members, no surrogates, no NaN, bounded depth."""

from __future__ import annotations

import json
from typing import Any

import orjson

from pkicore.encoding import base64url_decode
from pkicore.errors import MalformedError


def strict_json(data: bytes, what: str) -> Any:  # noqa: ANN401 - JSON may be anything; the caller narrows it
    """Parse `data`; `what` names it in the error.

    orjson refuses lone surrogates, NaN and bad UTF-8 but keeps the last of two equal members, so a second parse looks
    for those: two parsers that disagree on a member are how signed documents get read in two ways (RFC 7515 §4).

    Raises:
        MalformedError: not JSON, or JSON with a member given twice.
    """
    try:
        value = orjson.loads(data)
        _look_for_duplicates(data.decode().lstrip(), 0)
    except _DuplicateMemberError as error:
        raise MalformedError(f"{what} has a member twice") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is not JSON") from error
    return value


def strict_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse `data`, which must be a JSON object.

    Raises:
        MalformedError: it is not, or has a member twice.
    """
    value = strict_json(data, what)
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def strict_base64url(text: str, what: str) -> bytes:
    """Decode `text`; `what` names it in the error.

    Raises:
        MalformedError: not base64url, or not in its one form.
    """
    try:
        return base64url_decode(text)
    except MalformedError as error:
        raise MalformedError(f"{what} is {error}") from error


class _DuplicateMemberError(Exception):
    """Two members of an object have the same name."""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _DuplicateMemberError


_look_for_duplicates = json.JSONDecoder(object_pairs_hook=_refuse_duplicates).scan_once  # type: ignore[attr-defined] # public, but not in typeshed
