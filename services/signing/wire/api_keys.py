"""`/v1/api-keys`: made, listed, revoked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.chassis.fields import Fields


@dataclass(frozen=True, slots=True)
class NewApiKeyRequest:
    """`POST /v1/api-keys`: for the caller's own tenant; `scopes` as `services.signing.callers.Scopes` reads them."""

    scopes: Mapping[str, Any]
    life_seconds: int

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps({"scopes": dict(self.scopes), "life_seconds": self.life_seconds})

    @classmethod
    def from_json(cls, data: bytes) -> NewApiKeyRequest:
        """Read a request body; MalformedError where it is none, the sentence names the field."""
        body = Fields.of(strict_object(data, "the request"), {"scopes", "life_seconds"})
        scopes = body.members.get("scopes")
        if not isinstance(scopes, dict):
            raise MalformedError("scopes must be an object")
        return cls(scopes, body.time("life_seconds"))


@dataclass(frozen=True, slots=True)
class ApiKeyAnswer:
    """An API key without its secret; times in Unix seconds; `made_by` is the API key that it was made with."""

    id: str
    tenant: str
    scopes: Mapping[str, Any]
    created_at: int
    expires_at: int
    revoked_at: int | None
    last_used_at: int | None
    made_by: str | None = None

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return {name: getattr(self, name) for name in self.__slots__}

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self.members())

    @classmethod
    def from_json(cls, data: bytes) -> ApiKeyAnswer:
        """Read an answer body; MalformedError where it is none."""
        return cls.of(Fields.parse(data).members)

    @classmethod
    def of(cls, members: object) -> ApiKeyAnswer:
        """Read one out of a list; MalformedError where it is none."""
        body = Fields.of(members)
        scopes = body.members.get("scopes")
        if not isinstance(scopes, dict):
            raise MalformedError("scopes must be an object")
        return cls(
            body.text("id"),
            body.text("tenant"),
            scopes,
            body.time("created_at"),
            body.time("expires_at"),
            body.optional_time("revoked_at"),
            body.optional_time("last_used_at"),
            body.optional_text("made_by"),
        )


@dataclass(frozen=True, slots=True)
class NewApiKeyAnswer:
    """What was just made; `key` is shown this once."""

    key: str
    described: ApiKeyAnswer

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"key": self.key, **self.described.members()})

    @classmethod
    def from_json(cls, data: bytes) -> NewApiKeyAnswer:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(body.text("key"), ApiKeyAnswer.of(body.members))

    def __repr__(self) -> str:
        return f"NewApiKeyAnswer({self.described!r})"


@dataclass(frozen=True, slots=True)
class ApiKeyList:
    """`GET /v1/api-keys`: those of the caller's tenant, the newest first."""

    keys: tuple[ApiKeyAnswer, ...]

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"keys": [key.members() for key in self.keys]})

    @classmethod
    def from_json(cls, data: bytes) -> ApiKeyList:
        """Read an answer body; MalformedError where it is none."""
        return cls(tuple(map(ApiKeyAnswer.of, Fields.parse(data).objects("keys"))))
