"""What the store takes and gives: frozen records, and how rows become them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from services.chassis.database import Row
from services.signing.callers import ApiKeyRecord, Scopes

INLINE_OCTETS: Final = 64 * 1024
"""What is longer is a file (`services.signing.objects`), not a column."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something that is served below a signature.

    Attributes:
        name: unique in the signature.
        media_type: what it is served as.
        size: octets.
        sha256: of the octets, lower-case hexadecimal; the name of the file where there is one.
        content: the octets; None where they are a file.
    """

    name: str
    media_type: str
    size: int
    sha256: str
    content: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """One request that was signed; `record` is the JSON that its caller was answered."""

    id: str
    tenant: str
    created_at: int
    record: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewSignature:
    """What one commit keeps of a request that was signed.

    Attributes:
        signature: the record.
        found_by: digests ("sha256:HEX") and predicate types.
        artefacts: what is served below it; those without content are files already.
        log_entries: how many entries of the transparency log are its.
    """

    signature: StoredSignature
    found_by: Sequence[str]
    artefacts: Sequence[Artefact]
    log_entries: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that was signed under an idempotency key of its caller."""

    tenant: str
    caller: str
    idempotency_key: str
    request_hash: bytes
    signature: str
    at: int


@dataclass(frozen=True, slots=True)
class StoredPolicies:
    """A set of policies that was in force."""

    version: int
    sha256: str
    files: Mapping[str, str]
    at: int


def read_artefact(row: Row) -> Artefact:
    """An artefact."""
    return Artefact(**{name: row[name] for name in Artefact.__slots__})


def read_signature(row: Row) -> StoredSignature:
    """A signature's record."""
    return StoredSignature(**{name: row[name] for name in StoredSignature.__slots__})


def read_claim(row: Row) -> Claim:
    """What an idempotency key stands for."""
    return Claim(**{name: row[name] for name in Claim.__slots__})


def read_api_key(row: Row) -> ApiKeyRecord:
    """An API key."""
    names = ("id", "tenant", "key_sha256", "created_at", "expires_at", "revoked_at", "last_used_at", "made_by")
    return ApiKeyRecord(**{name: row[name] for name in names}, scopes=Scopes.of(orjson.loads(row["scopes"])))


def read_policies(row: Row) -> StoredPolicies:
    """A set of policies."""
    return StoredPolicies(row["version"], row["sha256"], orjson.loads(row["files"]), row["at"])
