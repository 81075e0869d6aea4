"""`GET /v1/policy[/{sha256}]`: a set of policies that is, or was, in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pkicore.errors import MalformedError
from services.chassis.fields import Fields


@dataclass(frozen=True, slots=True)
class PoliciesAnswer:
    """A set of policies: `at` is when it came into force, Unix seconds; `files` are its texts by name."""

    version: int
    sha256: str
    at: int
    files: Mapping[str, str]

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> PoliciesAnswer:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        files = body.members.get("files")
        if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
            raise MalformedError("files must be an object of strings")
        return cls(body.time("version"), body.text("sha256"), body.time("at"), files)
