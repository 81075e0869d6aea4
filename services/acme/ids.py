"""Names of resources: unguessable, so that a URL tells nothing and cannot be enumerated."""

from __future__ import annotations

import re
import secrets
from typing import Final

_OCTETS: Final = 16
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")


def new_id() -> str:
    """128 random bits, base64url."""
    return secrets.token_urlsafe(_OCTETS)


def new_token() -> str:
    """A challenge token of 256 random bits, base64url; RFC 8555 §8.1 asks for 128."""
    return secrets.token_urlsafe(2 * _OCTETS)


def is_id(text: str) -> bool:
    """Whether a text has the form of an id, before anything is asked of the database."""
    return _ID.fullmatch(text) is not None
