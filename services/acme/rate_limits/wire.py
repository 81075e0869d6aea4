"""What the endpoints of rate limits take and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from services.chassis.fields import Fields

USUAL = "usual"


@dataclass(frozen=True, slots=True)
class LimitEntry:
    """A limit as settings have it (`300/3h` or `off`); of everybody where `subject` is empty."""

    name: str
    limit: str
    subject: str = ""

    @classmethod
    def read(cls, item: Fields) -> LimitEntry:
        """From parsed JSON.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(item.text("name"), item.text("limit"), item.text("subject") if item.members.get("subject") else "")

    def to_json(self) -> bytes:
        """As a request body."""
        return orjson.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class LimitList:
    """The usual limits, then those of accounts and external accounts."""

    limits: Sequence[LimitEntry]

    @classmethod
    def from_json(cls, data: bytes) -> LimitList:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls([LimitEntry.read(Fields.of(item)) for item in Fields.parse(data).objects("limits")])
