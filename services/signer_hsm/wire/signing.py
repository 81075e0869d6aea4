"""`POST /v1/keys/{id}/sign` and its short form `POST /sign`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from pkicore.algorithms import Payload
from pkicore.errors import MalformedError
from services.chassis.fields import Fields, checked_base64, checked_text
from services.chassis.problems import INTERNAL_PREFIX
from services.signer_hsm.wire.members import (
    MAX_IDEMPOTENCY_KEY,
    MAX_SCHEME,
    base64_text,
    checked_version,
    given,
    read_request,
    read_version,
)

MAX_PAYLOADS: Final = 64
MAX_SIGN_BODY: Final = 1024 * 1024  # octets; a batch of messages shares it
_MAX_PAYLOAD_TEXT: Final = 4 * 64 * 1024 // 3 + 4  # characters of base64 of the longest message
_KINDS: Final = ("digest", "mu", "message")  # a tuple: what is looked up may be unhashable


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
        encoded = [base64_text(payload) for payload in self.payloads]
        body |= {"payloads": encoded} if self.batch else {"payload": encoded[0]}
        return orjson.dumps(body | given(self, "scheme", "version", "idempotency_key", "key"))

    @classmethod
    def from_json(cls, data: bytes, *, short: bool = False) -> SignRequest:
        """Read a request body; with `short` it names the key.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        members = read_request(data, _SHORT_SIGN_FIELDS if short else _SIGN_FIELDS).members
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
            return orjson.dumps(body | {"signature": base64_text(first)})
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
        return cls(body.text("key"), read_version(body), body.text("scheme"), items)


def _signature_json(item: bytes | SignatureProblem) -> dict[str, Any]:
    if isinstance(item, bytes):
        return {"signature": base64_text(item)}
    return {"problem": {"type": INTERNAL_PREFIX + item.kind, "detail": item.detail}}


def _read_signature(item: Fields) -> bytes | SignatureProblem:
    if "signature" in item.members:
        return item.binary("signature")
    problem = Fields.of(item.members.get("problem"))
    return SignatureProblem(problem.text("type").removeprefix(INTERNAL_PREFIX), problem.text("detail"))
