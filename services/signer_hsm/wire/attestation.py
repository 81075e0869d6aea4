"""`/v1/keys/{id}/attestation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields, checked_base64
from services.signer_hsm.wire.members import (
    MAX_BODY,
    MAX_SCHEME,
    base64_text,
    checked_version,
    given,
    read_object,
    read_request,
    read_version,
)

MAX_CHAIN: Final = 10  # certificates
_MAX_DOCUMENT: Final = 256 * 1024  # characters of a statement or key in base64


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
                "statement": None if self.statement is None else base64_text(self.statement),
                "chain": [base64_text(item) for item in self.chain],
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
            version=read_version(body),
            format=body.text("format"),
            verified=body.flag("verified"),
            by=body.text("by"),
            claims=read_object(body, "claims"),
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
        return orjson.dumps(given(self, "format", "version") | {"chain": [base64_text(item) for item in self.chain]})

    @classmethod
    def from_json(cls, data: bytes) -> AttestationUpload:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = read_request(data, {"format", "chain", "version"})
        chain = tuple(checked_base64(item, "chain") for item in body.texts("chain", MAX_BODY))
        if not 1 <= len(chain) <= MAX_CHAIN:
            raise MalformedError(f"chain must be a list of 1 to {MAX_CHAIN} certificates")
        return cls(body.text("format", MAX_SCHEME), chain, checked_version(body.members.get("version")))
