"""What travels between signer-hsm and its callers: frozen messages, each with its strict JSON form.

Binary fields are standard base64 (RFC 4648 §4), public keys are SubjectPublicKeyInfo in DER, times are Unix seconds.
Reading raises MalformedError with the name of the field; writing never fails.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from pkicore.algorithms import Payload
from pkicore.errors import MalformedError
from services.chassis.fields import Fields, checked_base64, checked_text

MAX_PAYLOADS: Final = 64
MAX_SIGN_BODY: Final = 1024 * 1024  # octets; a batch of messages shares it
MAX_BODY: Final = 64 * 1024  # octets of any other request
MAX_KEYS: Final = 500  # in one page of a list
MAX_VERSION: Final = 1_000_000
MAX_IDEMPOTENCY_KEY: Final = 200  # characters
MAX_SCHEME: Final = 32
MAX_CHAIN: Final = 10  # certificates
_MAX_PAYLOAD_TEXT: Final = 4 * 64 * 1024 // 3 + 4  # characters of base64 of the longest message
_MAX_DOCUMENT: Final = 256 * 1024  # characters of a statement or key in base64
_KINDS: Final = ("digest", "mu", "message")  # a tuple: what is looked up may be unhashable
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_STATES: Final = ("creating", "enabled", "disabled", "destroying", "destroyed", "failed")


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


@dataclass(frozen=True, slots=True)
class SignRequest:
    """`POST /v1/keys/{id}/sign`: payloads of one kind, signed by one key version; `key` stands in the short form only.

    `batch` says whether the answer has a list. With the same `idempotency_key` the same request has the same answer.
    """

    kind: Payload
    payloads: tuple[bytes, ...]
    batch: bool = False
    scheme: str | None = None
    version: int | None = None
    idempotency_key: str | None = None
    key: str | None = None

    def to_json(self) -> bytes:
        """The request body."""
        body: dict[str, Any] = {"kind": self.kind}
        encoded = [_base64(payload) for payload in self.payloads]
        body |= {"payloads": encoded} if self.batch else {"payload": encoded[0]}
        return orjson.dumps(body | _given(self, "scheme", "version", "idempotency_key", "key"))

    @classmethod
    def from_json(cls, data: bytes, *, short: bool = False) -> SignRequest:
        """Read a request body; with `short` it names the key.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        members = Fields.parse(data, _SHORT_SIGN_FIELDS if short else _SIGN_FIELDS).members
        kind = members.get("kind")
        if kind not in _KINDS:
            raise MalformedError("kind must be digest, mu or message")
        batch = "payloads" in members
        if batch == ("payload" in members):
            raise MalformedError("give either payload or payloads, and only one of them")
        payloads = _batch(members["payloads"]) if batch else (_payload(members["payload"]),)
        scheme, key = members.get("scheme"), members.get("idempotency_key")
        return cls(
            cast("Payload", kind),
            payloads,
            batch,
            None if scheme is None else checked_text(scheme, "scheme", MAX_SCHEME),
            checked_version(members.get("version")),
            None if key is None else checked_text(key, "idempotency_key", MAX_IDEMPOTENCY_KEY),
            members.get("key") if short else None,
        )


_SIGN_FIELDS: Final = frozenset({"kind", "payload", "payloads", "scheme", "version", "idempotency_key"})
_SHORT_SIGN_FIELDS: Final = _SIGN_FIELDS | {"key"}


def _payload(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > _MAX_PAYLOAD_TEXT:
        raise MalformedError(f"payload must be base64 of at most {_MAX_PAYLOAD_TEXT} characters")
    return checked_base64(value, "payload")


def _batch(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PAYLOADS:
        raise MalformedError(f"payloads must be a list of 1 to {MAX_PAYLOADS}")
    return tuple([_payload(item) for item in value])


@dataclass(frozen=True, slots=True)
class SignatureProblem:
    """Why one payload of a batch has no signature; `kind` is the problem's type without the urn prefix."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class SignAnswer:
    """Signatures in the order of the payloads: ECDSA as DER, the others raw."""

    key: str
    version: int
    scheme: str
    signatures: tuple[bytes | SignatureProblem, ...]

    def to_json(self, *, batch: bool) -> bytes:
        """The answer body; without `batch` of the one signature."""
        body: dict[str, Any] = {"key": self.key, "version": self.version, "scheme": self.scheme}
        if not batch and isinstance(first := self.signatures[0], bytes):
            return orjson.dumps(body | {"signature": _base64(first)})
        return orjson.dumps(body | {"signatures": [_signature_json(item) for item in self.signatures]})

    @classmethod
    def from_json(cls, data: bytes) -> SignAnswer:
        """Read an answer body of either form.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        items: tuple[bytes | SignatureProblem, ...]
        if "signature" in body.members:
            items = (body.binary("signature"),)
        else:
            items = tuple(_read_signature(item) for item in map(Fields, body.objects("signatures")))
        return cls(body.text("key"), _version(body), body.text("scheme"), items)


def _signature_json(item: bytes | SignatureProblem) -> dict[str, Any]:
    if isinstance(item, bytes):
        return {"signature": _base64(item)}
    return {"problem": {"type": PROBLEM + item.kind, "detail": item.detail}}


def _read_signature(item: Fields) -> bytes | SignatureProblem:
    if "signature" in item.members:
        return item.binary("signature")
    problem = Fields.of(item.members.get("problem"))
    return SignatureProblem(problem.text("type").removeprefix(PROBLEM), problem.text("detail"))


PROBLEM: Final = "urn:pqcpki:problem:"


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
        body = _given(self, "tenant", "name", "algorithm", "idempotency_key", "backend")
        if self.private_key is not None:
            body["private_key"] = _base64(self.private_key)
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, data: bytes) -> NewKeyRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"tenant", "name", "algorithm", "backend", "idempotency_key", "private_key"})
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
        return orjson.dumps(_given(self, "idempotency_key", "version"))

    @classmethod
    def from_json(cls, data: bytes) -> LifeCycleRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"version", "idempotency_key"})
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
            "public_key": None if self.public_key is None else _base64(self.public_key),
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
            version=_version(body),
            state=_state(body),
            public_key=body.binary("public_key") if known else None,
            kinds=tuple(body.texts("kinds")),
            created_at=body.time("created_at"),
            evidence=_object(body, "evidence"),
            destruction=None if destruction is None else _read_destruction(Fields.of(destruction)),
        )


def _read_destruction(body: Fields) -> DestructionRecord:
    return DestructionRecord(body.time("at"), body.flag("final"), _object(body, "proof"))


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
            version=_version(body),
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
    """`GET /v1/keys/{id}/pubkey`: the public key (DER) of a version, and how it can be used."""

    key: str
    version: int
    algorithm: str
    public_key: bytes
    kinds: tuple[str, ...]
    schemes: tuple[str, ...]

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(
            {
                "key": self.key,
                "version": self.version,
                "algorithm": self.algorithm,
                "public_key": _base64(self.public_key),
                "kinds": list(self.kinds),
                "schemes": list(self.schemes),
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
            version=_version(body),
            algorithm=body.text("algorithm"),
            public_key=body.binary("public_key"),
            kinds=tuple(body.texts("kinds")),
            schemes=tuple(body.texts("schemes")),
        )


@dataclass(frozen=True, slots=True)
class AttestationAnswer:
    """`GET /v1/keys/{id}/attestation`: what vouches for how a key version is held; `chain` is DER, leaf first."""

    key: str
    version: int
    format: str
    verified: bool
    by: str
    claims: Mapping[str, Any]
    statement: bytes | None = None
    chain: tuple[bytes, ...] = ()

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(
            {
                "key": self.key,
                "version": self.version,
                "format": self.format,
                "verified": self.verified,
                "by": self.by,
                "claims": dict(self.claims),
                "statement": None if self.statement is None else _base64(self.statement),
                "chain": [_base64(item) for item in self.chain],
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> AttestationAnswer:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        stated = body.members.get("statement") is not None
        return cls(
            key=body.text("key"),
            version=_version(body),
            format=body.text("format"),
            verified=body.flag("verified"),
            by=body.text("by"),
            claims=_object(body, "claims"),
            statement=body.binary("statement", _MAX_DOCUMENT) if stated else None,
            chain=tuple(checked_base64(item, "chain") for item in body.texts("chain", _MAX_DOCUMENT)),
        )


@dataclass(frozen=True, slots=True)
class AttestationUpload:
    """`POST /v1/keys/{id}/attestation`: a device's certificate chain (DER, leaf first) for a key version."""

    format: str
    chain: tuple[bytes, ...]
    version: int | None = None

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(_given(self, "format", "version") | {"chain": [_base64(item) for item in self.chain]})

    @classmethod
    def from_json(cls, data: bytes) -> AttestationUpload:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"format", "chain", "version"})
        chain = tuple(checked_base64(item, "chain") for item in body.texts("chain", MAX_BODY))
        if not 1 <= len(chain) <= MAX_CHAIN:
            raise MalformedError(f"chain must be a list of 1 to {MAX_CHAIN} certificates")
        return cls(body.text("format", MAX_SCHEME), chain, checked_version(body.members.get("version")))


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
class ApprovalRequest:
    """`POST /v1/approvals`: agree to a life-cycle act on a key; `parameters` as the act's request will have them."""

    act: str
    key: str
    version: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps(_given(self, "act", "key", "version") | {"parameters": dict(self.parameters)})

    @classmethod
    def from_json(cls, data: bytes) -> ApprovalRequest:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"act", "key", "version", "parameters"})
        parameters = _object(body, "parameters") if "parameters" in body.members else {}
        if len(parameters) > MAX_CHAIN:
            raise MalformedError(f"parameters must have at most {MAX_CHAIN} members")
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
            _object(body, "backends"),
            PolicyAnswer(policy.time("version"), policy.text("sha256")),
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _given(message: object, *names: str) -> dict[str, Any]:
    """The members that have a value."""
    return {name: value for name in names if (value := getattr(message, name)) is not None}


def _version(body: Fields) -> int:
    version = checked_version(body.members.get("version"))
    if version is None:
        raise MalformedError("version is missing")
    return version


def _state(body: Fields) -> str:
    state = body.text("state")
    if state not in _STATES:
        raise MalformedError(f"state is none of {', '.join(_STATES)}")
    return state


def _object(body: Fields, name: str) -> Mapping[str, Any]:
    value = body.members.get(name)
    if not isinstance(value, dict):
        raise MalformedError(f"{name} must be an object")
    return value
