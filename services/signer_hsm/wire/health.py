"""`/health` and `/v1/policy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from services.chassis.fields import Fields
from services.signer_hsm.wire.members import read_object


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """`GET /v1/policy`: which key policy is in force."""

    version: int
    sha256: str

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> PolicyAnswer:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(body.time("version"), body.text("sha256"))


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """`GET /health`: the caller's back ends by name, each with type, ready, breaker and detail, and the policy."""

    status: str
    backends: Mapping[str, Mapping[str, Any]]
    policy: PolicyAnswer

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"status": self.status, "backends": dict(self.backends), "policy": self.policy})

    @classmethod
    def from_json(cls, data: bytes) -> HealthAnswer:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        policy = Fields.of(body.members.get("policy"))
        return cls(
            body.text("status"),
            read_object(body, "backends"),
            PolicyAnswer(policy.time("version"), policy.text("sha256")),
        )
