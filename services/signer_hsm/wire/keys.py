"""`/v1/keys`, `/v1/keys/{id}`, its life cycle and its public key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields
from services.signer_hsm.wire.members import (
    MAX_BODY,
    MAX_IDEMPOTENCY_KEY,
    MAX_SCHEME,
    base64_text,
    checked_name,
    checked_tenant,
    checked_version,
    given,
    read_object,
    read_request,
    read_version,
)

MAX_KEYS: Final = 500  # in one page of a list
MAX_AT_ONCE: Final = 64  # workers of a back end
_STATES: Final = ("creating", "enabled", "disabled", "destroying", "destroyed", "failed")


@dataclass(frozen=True, slots=True)
class NewKeyRequest:
    """`POST /v1/keys`: make a key, or, with `private_key` (PKCS#8 DER), bring one in."""

    tenant: str
    name: str
    algorithm: str
    idempotency_key: str
    backend: str | None = None
    private_key: bytes | None = field(default=None, repr=False)

    def to_json(self) -> bytes:
        """The request body."""
        body = given(self, "tenant", "name", "algorithm", "idempotency_key", "backend")
        if self.private_key is not None:
            body["private_key"] = base64_text(self.private_key)
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, data: bytes) -> NewKeyRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = read_request(data, {"tenant", "name", "algorithm", "backend", "idempotency_key", "private_key"})
        return cls(
            tenant=checked_tenant(body.members.get("tenant")),
            name=checked_name(body.members.get("name")),
            algorithm=body.text("algorithm", MAX_SCHEME),
            idempotency_key=body.text("idempotency_key", MAX_IDEMPOTENCY_KEY),
            backend=body.optional_text("backend", MAX_SCHEME),
            private_key=body.binary("private_key", MAX_BODY) if "private_key" in body.members else None,
        )


@dataclass(frozen=True, slots=True)
class LifeCycleRequest:
    """`POST /v1/keys/{id}/rotate|disable|enable|destroy`; without `version` of the current one."""

    idempotency_key: str
    version: int | None = None

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(given(self, "idempotency_key", "version"))

    @classmethod
    def from_json(cls, data: bytes) -> LifeCycleRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = read_request(data, {"version", "idempotency_key"})
        return cls(
            body.text("idempotency_key", MAX_IDEMPOTENCY_KEY),
            checked_version(body.members.get("version")),
        )


@dataclass(frozen=True, slots=True)
class DestructionRecord:
    """How far a destruction is: `final`, or undoable by the back end until `at`."""

    at: int
    final: bool
    proof: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """One version of a key; `public_key` (DER) is None while it is being made, or was not."""

    version: int
    state: str
    public_key: bytes | None
    kinds: tuple[str, ...]
    created_at: int
    evidence: Mapping[str, Any]
    destruction: DestructionRecord | None = None

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        body: dict[str, Any] = {
            "version": self.version,
            "state": self.state,
            "public_key": None if self.public_key is None else base64_text(self.public_key),
            "kinds": list(self.kinds),
            "created_at": self.created_at,
            "evidence": dict(self.evidence),
        }
        if self.destruction is not None:
            destruction = self.destruction
            body["destruction"] = {
                "at": destruction.at,
                "final": destruction.final,
                "proof": dict(destruction.proof),
            }
        return body

    @classmethod
    def read(cls, body: Fields) -> VersionDescription:
        """Read one.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        known = body.members.get("public_key") is not None
        destruction = body.members.get("destruction")
        return cls(
            version=read_version(body),
            state=_state(body),
            public_key=body.binary("public_key") if known else None,
            kinds=tuple(body.texts("kinds")),
            created_at=body.time("created_at"),
            evidence=read_object(body, "evidence"),
            destruction=None if destruction is None else _read_destruction(Fields.of(destruction)),
        )


def _read_destruction(body: Fields) -> DestructionRecord:
    return DestructionRecord(body.time("at"), body.flag("final"), read_object(body, "proof"))


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key: `state` and `version` are those of the current version, `versions` holds them all, the first one first."""

    id: str
    backend: str
    algorithm: str
    state: str
    version: int
    created_at: int
    versions: tuple[VersionDescription, ...]

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        tenant, _, name = self.id.partition(".")
        return {
            "id": self.id,
            "tenant": tenant,
            "name": name,
            "backend": self.backend,
            "algorithm": self.algorithm,
            "state": self.state,
            "version": self.version,
            "created_at": self.created_at,
            "versions": [version.members() for version in self.versions],
        }

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self.members())

    @classmethod
    def from_json(cls, data: bytes) -> KeyDescription:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))

    @classmethod
    def read(cls, body: Fields) -> KeyDescription:
        """Read one.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls(
            id=body.text("id"),
            backend=body.text("backend"),
            algorithm=body.text("algorithm"),
            state=_state(body),
            version=read_version(body),
            created_at=body.time("created_at"),
            versions=tuple(VersionDescription.read(Fields(item)) for item in body.objects("versions")),
        )


@dataclass(frozen=True, slots=True)
class KeyPage:
    """`GET /v1/keys`: keys by id, and the `after` of the next page, None at the end."""

    keys: tuple[KeyDescription, ...]
    next: str | None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"keys": [key.members() for key in self.keys], "next": self.next})

    @classmethod
    def from_json(cls, data: bytes) -> KeyPage:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        keys = tuple(KeyDescription.read(Fields(item)) for item in body.objects("keys"))
        return cls(keys, body.optional_text("next"))


@dataclass(frozen=True, slots=True)
class PublicKeyAnswer:
    """`GET /v1/keys/{id}/pubkey`: the public key (DER) of a version, and how it can be used.

    `at_once` is how many requests its back end works on at the same time; more of them wait for their turn.
    """

    key: str
    version: int
    algorithm: str
    public_key: bytes
    kinds: tuple[str, ...]
    schemes: tuple[str, ...]
    at_once: int = 1

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(
            {
                "key": self.key,
                "version": self.version,
                "algorithm": self.algorithm,
                "public_key": base64_text(self.public_key),
                "kinds": list(self.kinds),
                "schemes": list(self.schemes),
                "at_once": self.at_once,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> PublicKeyAnswer:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(
            key=body.text("key"),
            version=read_version(body),
            algorithm=body.text("algorithm"),
            public_key=body.binary("public_key"),
            kinds=tuple(body.texts("kinds")),
            schemes=tuple(body.texts("schemes")),
            at_once=_at_once(body),
        )


def _at_once(body: Fields) -> int:
    found = body.members.get("at_once", 1)
    if type(found) is not int or not 1 <= found <= MAX_AT_ONCE:
        raise MalformedError(f"at_once is not a number from 1 to {MAX_AT_ONCE}")
    return found


def _state(body: Fields) -> str:
    state = body.text("state")
    if state not in _STATES:
        raise MalformedError(f"state is none of {', '.join(_STATES)}")
    return state
