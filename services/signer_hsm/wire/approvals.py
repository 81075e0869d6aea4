"""`/v1/approvals`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields, checked_text
from services.signer_hsm.wire.members import (
    MAX_BODY,
    MAX_IDEMPOTENCY_KEY,
    MAX_SCHEME,
    checked_version,
    given,
    read_object,
    read_request,
    split_key_id,
)

_MAX_PARAMETERS: Final = 10


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """`POST /v1/approvals`: agree to a life-cycle act on a key; `parameters` as the act's request will have them."""

    act: str
    key: str
    version: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(given(self, "act", "key", "version") | {"parameters": dict(self.parameters)})

    @classmethod
    def from_json(cls, data: bytes) -> ApprovalRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = read_request(data, {"act", "key", "version", "parameters"})
        parameters = read_object(body, "parameters") if "parameters" in body.members else {}
        if len(parameters) > _MAX_PARAMETERS:
            raise MalformedError(f"parameters must have at most {_MAX_PARAMETERS} members")
        split_key_id(body.members.get("key"))
        return cls(
            act=body.text("act", MAX_SCHEME),
            key=body.text("key"),
            version=checked_version(body.members.get("version")),
            parameters={
                checked_text(name, "parameters", MAX_SCHEME): checked_text(value, "parameters", MAX_IDEMPOTENCY_KEY)
                for name, value in parameters.items()
            },
        )


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """An approval on record, good once and until `expires_at`; `binding` is the hash of the act with its parameters."""

    id: str
    act: str
    key: str
    version: int | None
    binding: str
    approver: str
    approved_at: int
    expires_at: int

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> ApprovalAnswer:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))

    @classmethod
    def read(cls, body: Fields) -> ApprovalAnswer:
        """Read one.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(
            id=body.text("id"),
            act=body.text("act"),
            key=body.text("key"),
            version=checked_version(body.members.get("version")),
            binding=body.text("binding"),
            approver=body.text("approver", MAX_BODY),
            approved_at=body.time("approved_at"),
            expires_at=body.time("expires_at"),
        )


@dataclass(frozen=True, slots=True)
class ApprovalList:
    """`GET /v1/approvals?tenant=`: approvals that have not expired."""

    approvals: tuple[ApprovalAnswer, ...]

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"approvals": list(self.approvals)})

    @classmethod
    def from_json(cls, data: bytes) -> ApprovalList:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(tuple(ApprovalAnswer.read(Fields(item)) for item in body.objects("approvals")))
