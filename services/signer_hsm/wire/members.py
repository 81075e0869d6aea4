"""What the messages have in common: bounds, names that are checked, and how members are written and read."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_json
from services.chassis.fields import Fields

MAX_BODY: Final = 64 * 1024  # octets of any other request
MAX_VERSION: Final = 1_000_000
MAX_IDEMPOTENCY_KEY: Final = 200  # characters
MAX_SCHEME: Final = 32
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def read_request(data: bytes, allowed: Collection[str]) -> Fields:
    """A request's members, each named once: what one reader takes and another one overlooks is no request.

    Raises:
        MalformedError: no JSON object, an unknown member, or one that is given twice.
    """
    body = Fields.parse(data, allowed)
    if b"\\" in data or data.count(b'"') != 2 * _flat_strings(body.members):  # else each quote begins or ends one
        strict_json(data, "the body")
    return body


def _flat_strings(members: Mapping[str, Any]) -> int:
    """How many strings an object of strings, numbers and lists of these was written with."""
    count = len(members)
    for value in members.values():
        if isinstance(value, str):
            count += 1
        elif isinstance(value, list):
            count += sum([isinstance(item, str) for item in value])
    return count


def checked_tenant(text: object) -> str:
    """A tenant's name.

    Raises:
        MalformedError: it is none.
    """
    if not isinstance(text, str) or not _TENANT.fullmatch(text):
        raise MalformedError("tenant must be [a-z0-9][a-z0-9-]{0,31}")
    return text


def checked_name(text: object) -> str:
    """The name of a key within its tenant.

    Raises:
        MalformedError: it is none.
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise MalformedError("name must be [a-z0-9][a-z0-9-]{0,62}")
    return text


def split_key_id(key_id: object) -> tuple[str, str]:
    """Tenant and name of `TENANT.NAME`.

    Raises:
        MalformedError: it is no key id.
    """
    if not isinstance(key_id, str):
        raise MalformedError("key must be TENANT.NAME")
    tenant, _, name = key_id.partition(".")
    if not _TENANT.fullmatch(tenant) or not _NAME.fullmatch(name):
        raise MalformedError("key must be TENANT.NAME, each of a-z, 0-9 and -")
    return tenant, name


def checked_version(value: object) -> int | None:
    """The number of a key version; None where none is named.

    Raises:
        MalformedError: no number, or out of range.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VERSION:
        raise MalformedError(f"version must be a whole number from 1 to {MAX_VERSION}")
    return value


def read_version(body: Fields) -> int:
    """The version that a message must have.

    Raises:
        MalformedError: it has none, or no version.
    """
    version = checked_version(body.members.get("version"))
    if version is None:
        raise MalformedError("version is missing")
    return version


def read_object(body: Fields, name: str) -> Mapping[str, Any]:
    """A member that is an object.

    Raises:
        MalformedError: it is none, or missing.
    """
    value = body.members.get(name)
    if not isinstance(value, dict):
        raise MalformedError(f"{name} must be an object")
    return value


def base64_text(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode()


def given(message: object, *names: str) -> dict[str, Any]:
    """The members that have a value."""
    return {name: value for name in names if (value := getattr(message, name)) is not None}
