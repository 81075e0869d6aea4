"""From a policy file's text to its document and hash: bounded, strict, each fault with its place.

What is hashed is the document as parsed: no member added, none left out, the order of arrays kept. Two things are
made alike, since TOML and JSON write them differently: a number without fraction is an integer (5.0 is 5), and a
TOML date-time is the text that JSON has for it (2027-01-31T00:00:00Z). The result as canonical JSON (members sorted,
no spaces, UTF-8) goes through SHA-256. docs/custody/README.md has ten lines that recompute it.
"""

import tomllib
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from pkicore.encoding import canonical_json
from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.policy.document import PolicyDocument

Format = Literal["toml", "json"]

MAX_POLICY: Final = 1 << 20  # characters; a rule of usual length has about 300
_SHOWN_FAULTS: Final = 5
_MAX_DEPTH: Final = 8  # the document's own depth is 5


def format_of(path: Path) -> Format:
    """What a file's name says: JSON for `.json`, else TOML."""
    return "json" if path.suffix == ".json" else "toml"


def read_document(text: str, form: Format) -> tuple[PolicyDocument, bytes]:
    """The document and the canonical bytes that its hash is taken of.

    Raises:
        KeyPolicyError: too long, not that format, or a member that makes no sense; the sentence names the places.
    """
    if len(text) > MAX_POLICY:
        raise KeyPolicyError(f"the key policy has {len(text)} characters; {MAX_POLICY} are read at most")
    canonical = _canonical(_parse(text, form))
    try:
        return PolicyDocument.model_validate_json(canonical), canonical
    except ValidationError as error:
        raise KeyPolicyError(_sentence(error)) from error


def _parse(text: str, form: Format) -> dict[str, Any]:
    try:
        if form == "toml":
            return tomllib.loads(text)
        return strict_object(text.encode(), "the key policy")
    except tomllib.TOMLDecodeError as error:
        raise KeyPolicyError(f"the key policy is not TOML: {error}") from error
    except (MalformedError, RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise KeyPolicyError(f"the key policy cannot be read: {error}") from error


def _canonical(document: dict[str, Any]) -> bytes:
    try:
        return canonical_json(_alike(document, _MAX_DEPTH))
    except (TypeError, ValueError, OverflowError) as error:  # OverflowError: a time that is before year 1 in UTC
        raise KeyPolicyError(f"the key policy holds a value that JSON does not have: {error}") from error


def _alike(value: Any, depth: int) -> Any:  # noqa: ANN401 - any value of TOML or JSON
    if depth < 0:
        raise KeyPolicyError("the key policy is nested too deep")
    if isinstance(value, dict):
        return {name: _alike(member, depth - 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_alike(member, depth - 1) for member in value]
    return value if value is None or isinstance(value, str | int) else _alike_scalar(value)


def _alike_scalar(value: object) -> str | int | float:
    if isinstance(value, float) and isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, datetime) and value.tzinfo is not None and not value.microsecond:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise KeyPolicyError(f"the key policy holds {value}; numbers must be finite, times whole seconds with their offset")


def _sentence(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{_place(fault['loc'])}{_reason(fault['type'], fault['msg'])}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        shown.append(f"and {len(faults) - _SHOWN_FAULTS} more")
    return f"the key policy makes no sense: {'; '.join(shown)}"


def _place(location: tuple[int | str, ...]) -> str:
    """As in `rules[2].acts[0]: `, counted from 0 as JSON does."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{place.removeprefix('.')}: " if place else ""


def _reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "no such member"
    return message.removeprefix("Value error, ")
