"""What the block list's endpoints take and answer. Times are Unix seconds; a key's hash is hex."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields

MAX_REASON: Final = 200  # characters
COMPROMISED: Final = "keyCompromise"
_DIGEST: Final = 32
_MAX_HEX: Final = 100  # characters of a hash, with colons


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """`POST /v1/blocked-keys`: never certify this key again, and revoke what it has. `reason` is for people."""

    key_hash: bytes
    reason: str = COMPROMISED

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps({"key_hash": self.key_hash.hex(), "reason": self.reason})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, {"key_hash", "reason"})
        return cls(
            parse_key_hash(body.text("key_hash", _MAX_HEX)), body.optional_text("reason", MAX_REASON) or COMPROMISED
        )


@dataclass(frozen=True, slots=True)
class IssuedByRoot:
    """The serial of a CA's certificate, and the id of the root that issued it."""

    serial: str
    root: str


@dataclass(frozen=True, slots=True)
class BlockAnswer:
    """A key is blocked.

    Attributes:
        key_hash: the key.
        is_new: unless it was blocked before.
        serials: the certificates that were revoked now.
        unrevoked: those that are as they were: a root issued them, and its key is offline.
    """

    key_hash: str
    is_new: bool
    serials: Sequence[str]
    unrevoked: Sequence[IssuedByRoot]

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        unrevoked = [Fields(item) for item in body.objects("unrevoked")]
        return cls(
            body.text("key_hash"),
            body.flag("is_new"),
            body.texts("serials"),
            [IssuedByRoot(item.text("serial"), item.text("root")) for item in unrevoked],
        )


@dataclass(frozen=True, slots=True)
class BlockedKey:
    """An entry: since when, why, and by whom."""

    key_hash: str
    blocked_at: int
    reason: str
    blocked_by: str


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """`GET /v1/blocked-keys/{key_hash}`: no more than a service needs to know of a key.

    Attributes:
        key_hash: the key.
        is_blocked: whether it is blocked now.
        is_certified: whether a certificate has it that is neither revoked nor expired.
    """

    key_hash: str
    is_blocked: bool
    is_certified: bool

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(body.text("key_hash"), body.flag("is_blocked"), body.flag("is_certified"))


@dataclass(frozen=True, slots=True)
class BlockedKeyPage:
    """`GET /v1/blocked-keys?after=HASH`: entries in the order of their hashes; `after` begins the next page, if any."""

    keys: Sequence[BlockedKey]
    after: str | None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls([_entry(Fields(item)) for item in body.objects("keys")], body.optional_text("after"))


def _entry(item: Fields) -> BlockedKey:
    by = item.members.get("blocked_by")
    if not isinstance(by, str):
        raise MalformedError("blocked_by must be a string")
    return BlockedKey(item.text("key_hash"), item.time("blocked_at"), item.text("reason"), by)


def parse_key_hash(text: str) -> bytes:
    """The SHA-256 of a SubjectPublicKeyInfo as people write it: hex in either case, colons allowed.

    Raises:
        MalformedError: anything else.
    """
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST:
        raise MalformedError("key_hash must be the SHA-256 of a SubjectPublicKeyInfo, 64 hex digits")
    return digest
