"""What the store takes and gives: frozen records, and how rows become them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import from_unix
from services.chassis.database import Row
from services.signer_hsm.catalogue import Key, KeyVersion
from services.signer_hsm.policy import Approval
from services.signer_hsm.wire import DestructionRecord

ClaimState = Literal["pending", "done", "unknown"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key in use: whose, for what, and for which key version."""

    caller: str
    tenant: str
    idempotency_key: str
    request_hash: bytes
    key: str
    version: int
    at: int
    state: ClaimState = "pending"
    answer: bytes | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """What it is found by."""
        return self.caller, self.tenant, self.idempotency_key


@dataclass(frozen=True, slots=True)
class StoredApproval:
    """An approval, and the act that it is of, for people; its binding alone decides."""

    approval: Approval
    act: str
    tenant: str
    key: str
    version: int | None


@dataclass(frozen=True, slots=True)
class SeenPolicy:
    """A key policy that was in force."""

    version: int
    sha256: str
    at: int


@dataclass(frozen=True, slots=True)
class VersionIntent:
    """A version that is about to be made.

    Attributes:
        key: whose; one without versions is made with it.
        number: of the version.
        imported_key: SHA-256 of the public key of one that is brought in.
        at: Unix seconds.
        max_keys: of the tenant, if the key is new.
        max_versions: of the key.
    """

    key: Key
    number: int
    imported_key: bytes | None
    at: int
    max_keys: int
    max_versions: int


def to_json(value: Mapping[str, Any]) -> str:
    """JSON as a column keeps it."""
    return orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS).decode()


def read_key(row: Row, versions: Mapping[int, KeyVersion]) -> Key:
    """A key and its versions."""
    fields = {name: row[name] for name in ("id", "tenant", "name", "backend", "current", "created_at", "changed")}
    return Key(**fields, algorithm=ALGORITHMS[row["algorithm"]], versions=versions)


def read_approval(row: Row) -> StoredApproval:
    """An approval."""
    approval = Approval(
        id=row["id"],
        binding=row["binding"],
        approver=row["approver"],
        approved_at=from_unix(row["approved_at"]),
        expires_at=from_unix(row["expires_at"]),
        policy_sha256=row["policy_sha256"],
        rule=row["rule"],
    )
    return StoredApproval(approval, row["act"], row["tenant"], row["key"], row["version"])


def read_version(row: Row) -> KeyVersion:
    """A version of a key."""
    destruction, attestation = row["destruction"], row["attestation"]
    return KeyVersion(
        number=row["version"],
        state=row["state"],
        created_at=row["created_at"],
        handle=row["handle"],
        public_key=row["public_key"],
        imported_key=row["imported_key"],
        kinds=frozenset(kind for kind in row["kinds"].split(",") if kind),
        schemes=tuple(scheme for scheme in row["schemes"].split(",") if scheme),
        evidence=orjson.loads(row["evidence"]),
        destruction=None if destruction is None else DestructionRecord(**orjson.loads(destruction)),
        attestation=None if attestation is None else orjson.loads(attestation),
    )
