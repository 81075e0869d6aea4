"""API keys: `pqcsign_ID_SECRETCHECKSUM`, made once, shown once, kept as a hash.

1. The prefix and the checksum (CRC-32) let a secret scanner find a key in a repository, and drop what only looks like
   one, without asking anybody. They protect nothing.
2. The secret has 256 random bits. What is kept is SHA-256 of the whole key: nobody guesses 256 bits, however quick a
   guess is, so scrypt or Argon2, which slow down guesses at passwords that people chose, would protect nothing more
   and cost tens of milliseconds and megabytes with each request, for anybody who sends one.
3. An unknown id and a wrong secret take the same steps and get the same answer.
4. Only whoever has shown the secret learns that the key is revoked or has expired.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pkicore.clock import Clock, unix
from services.signing.callers.caller import Caller
from services.signing.callers.errors import ApiKeyRuleError, CredentialError
from services.signing.callers.scopes import Scopes

PREFIX: Final = "pqcsign_"
SCANNER_PATTERN: Final = r"pqcsign_[0-9A-Za-z]{16}_[0-9A-Za-z]{49}"
"""What a secret scanner looks for; `is_well_formed` tells a real key from a look-alike."""

MAX_LIFE_SECONDS: Final = 366 * 86_400
_USE_STEP: Final = 3600  # how coarsely the last use is kept, seconds
_MAX_REMEMBERED: Final = 10_000
_SECRET_OCTETS: Final = 32
_ID_DIGITS: Final = 16
_SECRET_DIGITS: Final = 43  # 62**43 > 2**256
_CHECK_DIGITS: Final = 6  # 62**6 > 2**32
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE: Final = re.compile(SCANNER_PATTERN, re.ASCII)
_NOBODYS_HASH: Final = hashlib.sha256(b"no API key has this hash").digest()


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """What is kept of an API key.

    Attributes:
        id: public; in logs and audit records.
        tenant: on whose behalf its bearer acts.
        key_sha256: of the whole key, 32 octets.
        scopes: what its bearer is narrowed to.
        created_at: Unix seconds.
        expires_at: Unix seconds; every key has an end.
        revoked_at: Unix seconds; None: it is not.
        last_used_at: Unix seconds, to the hour; None: never.
        made_by: id of the API key that it was made with, and ends with; None: with another credential.
    """

    id: str
    tenant: str
    key_sha256: bytes = field(repr=False)
    scopes: Scopes
    created_at: int
    expires_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None
    made_by: str | None = None


class NewApiKey(NamedTuple):
    """A key that was just made.

    Attributes:
        text: the key itself, to be shown once and kept nowhere.
        record: to be stored.
    """

    text: str
    record: ApiKeyRecord

    def __repr__(self) -> str:
        return f"NewApiKey({self.record!r})"


class ApiKeyStore(Protocol):
    """Where records of API keys are."""

    async def find_api_key(self, key_id: str) -> ApiKeyRecord | None:
        """The record of that very id (case matters), None where there is none; revoked and expired ones too."""
        ...

    async def api_key_used(self, key_id: str, at: int) -> None:
        """Keep that a key was used in the hour that begins at `at`; asked at most once an hour per key and process."""
        ...


class ApiKeys:
    """Turns an API key into a caller."""

    def __init__(self, store: ApiKeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._used: dict[str, int] = {}

    async def caller(self, text: str) -> Caller:
        """Whose key it is.

        Raises:
            CredentialError: it is not a key, not one of ours, revoked, or expired.
            DatabaseError: the store cannot tell.
        """
        if not is_well_formed(text):
            raise CredentialError("malformed", "the API key is not well-formed: it was cut, or mistyped")
        record = await self._store.find_api_key(_id_of(text))
        expected = _NOBODYS_HASH if record is None else record.key_sha256
        if not hmac.compare_digest(expected, _hash(text)) or record is None:
            raise CredentialError("unknown", "there is no such API key")
        now = unix(self._clock.now())
        if record.revoked_at is not None:
            raise CredentialError("revoked", "the API key is revoked")
        if now >= record.expires_at:
            raise CredentialError("expired", "the API key has expired")
        await self._keep_use(record, now)
        return Caller("api-key", record.id, record.tenant, scopes=record.scopes, ends_at=record.expires_at)

    async def _keep_use(self, record: ApiKeyRecord, now: int) -> None:
        hour = now - now % _USE_STEP
        if max(self._used.get(record.id, -1), record.last_used_at or -1) >= hour:
            return
        if len(self._used) >= _MAX_REMEMBERED:
            self._used.clear()
        self._used[record.id] = hour
        await self._store.api_key_used(record.id, hour)


def new_api_key(
    maker: Caller, scopes: Scopes, life_seconds: int, at: int, random: Callable[[int], bytes] = secrets.token_bytes
) -> NewApiKey:
    """Make a key for the maker's own tenant.

    Args:
        maker: who asked for it; the policy has allowed that.
        scopes: what the key is narrowed to; the actions must be named, so that none comes by accident.
        life_seconds: from now to its end.
        at: now, Unix seconds.
        random: that many random octets.

    Raises:
        ApiKeyRuleError: no end within 366 days, no actions, more than the maker's own credential leaves, or, made with
            a key, an end after that one's.
    """
    if not 0 < life_seconds <= MAX_LIFE_SECONDS:
        raise ApiKeyRuleError(f"an API key lives for 1 to {MAX_LIFE_SECONDS} seconds")
    if scopes.actions is None:
        raise ApiKeyRuleError("an API key must name the actions that it is for")
    if not scopes.within(maker.scopes):
        raise ApiKeyRuleError("an API key cannot do more than the credential that it is made with")
    if maker.ends_at is not None and at + life_seconds > maker.ends_at:
        raise ApiKeyRuleError(
            "the API key that it is made with ends before: ask for a life of at most "
            f"{maker.ends_at - at} seconds, or make it with another credential"
        )
    key_id = _digits(int.from_bytes(random(_SECRET_OCTETS)), _ID_DIGITS)
    head = f"{PREFIX}{key_id}_{_digits(int.from_bytes(random(_SECRET_OCTETS)), _SECRET_DIGITS)}"
    text = head + _checksum(head)
    made_by = maker.id if maker.kind == "api-key" else None
    record = ApiKeyRecord(key_id, maker.tenant, _hash(text), scopes, at, at + life_seconds, made_by=made_by)
    return NewApiKey(text, record)


def is_well_formed(text: str) -> bool:
    """Whether a text has a key's shape and checksum; that says nothing about whether it is good."""
    return _SHAPE.fullmatch(text) is not None and text[-_CHECK_DIGITS:] == _checksum(text[:-_CHECK_DIGITS])


def _id_of(text: str) -> str:
    return text[len(PREFIX) : len(PREFIX) + _ID_DIGITS]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _checksum(head: str) -> str:
    return _digits(zlib.crc32(head.encode()), _CHECK_DIGITS)


def _digits(number: int, count: int) -> str:
    """The last so many digits of a number in base 62."""
    digits = []
    for _ in range(count):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
