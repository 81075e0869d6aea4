"""Strict reading of JSON objects, as the services' messages have it: every member is of its kind, none is unknown."""

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError

MAX_TEXT: Final = 1024  # characters of a string, where nothing else is said
MAX_BINARY: Final = 128 * 1024  # characters of base64, where nothing else is said
MAX_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last time of RFC 5280 §4.1.2.5


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to the members of a JSON object; whatever does not fit raises MalformedError with its name."""

    members: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes, allowed: Collection[str] | None = None) -> "Fields":
        """Read an object; with `allowed`, any other member is refused.

        Raises:
            MalformedError: no JSON, no object, or an unknown member.
        """
        try:
            members = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise MalformedError("the body is not JSON") from error
        return cls.of(members, allowed)

    @classmethod
    def of(cls, members: object, allowed: Collection[str] | None = None) -> "Fields":
        """As `parse`, of what has been parsed already."""
        if not isinstance(members, dict):
            raise MalformedError("the body must be a JSON object")
        unknown = members.keys() - allowed if allowed is not None else None
        if unknown:
            raise MalformedError(f"unknown field {min(unknown)[:40]!a}")
        return cls(members)

    def text(self, name: str, limit: int = MAX_TEXT) -> str:
        """A non-empty string without control characters other than line ends."""
        return checked_text(self.members.get(name), name, limit)

    def optional_text(self, name: str, limit: int = MAX_TEXT) -> str | None:
        """Likewise; None where it is missing or null."""
        return None if self.members.get(name) is None else self.text(name, limit)

    def time(self, name: str) -> int:
        """Unix seconds up to the end of the year 9999."""
        value = self.members.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TIME:
            raise MalformedError(f"{name} must be a whole number from 0 to {MAX_TIME}")
        return value

    def line(self, name: str, limit: int = MAX_TEXT) -> str:
        """A non-empty string that is one line: what is shown among others must not look like two of them."""
        value = self.text(name, limit)
        if "\n" in value:
            raise MalformedError(f"{name} must be one line")
        return value

    def optional_time(self, name: str) -> int | None:
        """Likewise; None where it is missing or null."""
        return None if self.members.get(name) is None else self.time(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.members.get(name)
        if not isinstance(value, bool):
            raise MalformedError(f"{name} must be true or false")
        return value

    def binary(self, name: str, limit: int = MAX_BINARY) -> bytes:
        """Standard base64 (RFC 4648 §4) of at most so many characters."""
        return checked_base64(self.text(name, limit), name)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects."""
        values = self.members.get(name)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise MalformedError(f"{name} must be a list of objects")
        return values

    def texts(self, name: str, limit: int = MAX_TEXT) -> list[str]:
        """A list of strings."""
        values = self.members.get(name)
        if not isinstance(values, list):
            raise MalformedError(f"{name} must be a list of strings")
        return [checked_text(value, name, limit) for value in values]


def checked_text(value: object, name: str, limit: int = MAX_TEXT) -> str:
    """A non-empty string without control characters other than line ends.

    Raises:
        MalformedError: anything else.
    """
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise MalformedError(f"{name} must be a string of 1 to {limit} characters")
    if not value.replace("\n", "").isprintable():
        raise MalformedError(f"{name} has a control character")
    return value


def checked_base64(text: str, name: str) -> bytes:
    """The octets behind standard base64 in its one form: no octets have two texts (RFC 4648 §3.5).

    Raises:
        MalformedError: it is none, or bits are set in its padding.
    """
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{name} must be standard base64") from error
    if text.endswith("=") and base64.b64encode(octets[-(len(octets) % 3) :]).decode() != text[-4:]:
        raise MalformedError(f"{name} is base64 with bits set in its padding")
    return octets
