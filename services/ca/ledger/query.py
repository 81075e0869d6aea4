"""What the ledger is asked for, and where a page ends.

One filter leads: it alone chooses the rows that are read, in the order of its index, so that a page costs the same
however large the ledger is. The other filters only leave rows out; after some `CANDIDATES` rows a page ends, even if it
is short, and its cursor says where the next one begins.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args
from urllib.parse import parse_qsl

import orjson

from pkicore.errors import MalformedError
from services.ca.ledger.names import MAX_PATH, NamePattern
from services.ca.wire import MAX_TEXT, format_serial, parse_serial
from services.chassis.fields import MAX_TIME, checked_text

Status: TypeAlias = Literal["good", "expired", "revoked", "pending"]
Way: TypeAlias = Literal[
    "serial", "name", "below", "key", "account", "ends", "revoked", "pending", "profile", "issuer", "recorded"
]
"""The filter that leads; `recorded` is the whole ledger, the newest first."""
Key: TypeAlias = tuple[Any, ...]
"""The values by which rows of a way are ordered; `KEYS` has their types."""

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
CANDIDATES: Final = 2000  # rows that are looked at for a page that the first rows do not fill
_KEY_HASH: Final = 32  # octets of SHA-256
_MAX_CURSOR: Final = 4 * MAX_PATH
_BY_TIME: Final = (int, str)
KEYS: Final[Mapping[Way, tuple[type, ...]]] = {
    "serial": (str,),
    "name": _BY_TIME,
    "below": (bytes, int, str),
    "key": _BY_TIME,
    "account": _BY_TIME,
    "ends": _BY_TIME,
    "revoked": (int,),
    "pending": _BY_TIME,
    "profile": _BY_TIME,
    "issuer": _BY_TIME,
    "recorded": _BY_TIME,
}
"""The types of each way's key; `_BY_TIME` is a time and a serial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerQuery:
    """Filters, all of which a row must meet, and which page of the answer.

    Attributes:
        name: a name of the certificate, or what it is below.
        common_name: of the subject.
        account: of the requester, such as an ACME account's URL.
        key: SHA-256 of the SubjectPublicKeyInfo.
        serial: lower-case hex.
        issuer: id of the issuing CA.
        profile: by name.
        status: now.
        ends_after: Unix time, included.
        ends_before: Unix time, not included.
        limit: rows of a page at most.
        after: the key of the last row of the page before.
    """

    name: NamePattern | None = None
    common_name: str | None = None
    account: str | None = None
    key: bytes | None = None
    serial: str | None = None
    issuer: str | None = None
    profile: str | None = None
    status: Status | None = None
    ends_after: int | None = None
    ends_before: int | None = None
    limit: int = DEFAULT_PAGE
    after: Key | None = None

    @classmethod
    def parse(cls, query: bytes) -> "LedgerQuery":
        """Read the query of a URL.

        Raises:
            MalformedError: an unknown, repeated or empty parameter, or one that makes no sense; the sentence names it.
        """
        given = parameters(query, _PARAMETERS)
        status, name, key = given.get("status"), given.get("name"), given.get("key")
        serial, cursor = given.get("serial"), given.get("cursor")
        found = cls(
            name=None if name is None else NamePattern.parse(name),
            common_name=given.get("common_name"),
            account=given.get("account"),
            key=None if key is None else _key_hash(key),
            serial=None if serial is None else format_serial(parse_serial(serial)),
            issuer=given.get("issuer"),
            profile=given.get("profile"),
            status=None if status is None else _status(status),
            ends_after=optional_number(given, "ends_after"),
            ends_before=optional_number(given, "ends_before"),
            limit=page_limit(given),
        )
        return found if cursor is None else found.following(cursor)

    def following(self, cursor: str) -> "LedgerQuery":
        """The same query, from where a page of it has ended.

        Raises:
            MalformedError: the cursor is not of such a query.
        """
        members = {name: getattr(self, name) for name in self.__slots__}
        return LedgerQuery(**members | {"after": parse_cursor(self.way, cursor)})

    @property
    def way(self) -> Way:
        """The filter that leads: the one that leaves the fewest rows, as far as can be said without looking."""
        if self.serial is not None:
            return "serial"
        if self.name is not None and not self.name.below:
            return "name"
        if self.common_name is not None and self.name is None:
            return "name"
        return "key" if self.key is not None else self._wide_way

    @property
    def _wide_way(self) -> Way:
        led: tuple[tuple[Way, bool], ...] = (
            ("account", self.account is not None),
            ("below", self.name is not None),
            ("pending", self.status == "pending"),
            ("revoked", self.status == "revoked"),
            ("ends", self.ends_after is not None or self.ends_before is not None or self.status is not None),
            ("profile", self.profile is not None),
            ("issuer", self.issuer is not None),
        )
        return next((way for way, leads in led if leads), "recorded")


def format_cursor(way: Way, key: Key) -> str:
    """Where a page has ended, as text for a URL."""
    parts = [part.hex() if isinstance(part, bytes) else part for part in key]
    return base64.urlsafe_b64encode(orjson.dumps([way, *parts])).decode().rstrip("=")


def parse_cursor(way: Way, cursor: str) -> Key:
    """The key in a cursor. It tells nothing that the query does not give anyway, so it is checked and not sealed.

    Raises:
        MalformedError: made up, or of another query.
    """
    if len(cursor) > _MAX_CURSOR or not cursor.isascii():
        raise MalformedError("cursor is none that this server gave")
    try:
        found = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, orjson.JSONDecodeError) as error:
        raise MalformedError("cursor is none that this server gave") from error
    kinds = KEYS[way]
    if not isinstance(found, list) or not found or found[0] != way or len(found) != len(kinds) + 1:
        raise MalformedError("cursor is of another query: ask with the filters that it was given for")
    return tuple(_part(value, kind) for value, kind in zip(found[1:], kinds, strict=True))


def _part(value: object, kind: type) -> int | str | bytes:
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TIME:
        return value
    if kind is str and isinstance(value, str):
        return format_serial(parse_serial(value))
    if kind is bytes and isinstance(value, str) and len(value) <= 2 * MAX_PATH:
        try:
            return bytes.fromhex(value)
        except ValueError as error:
            raise MalformedError("cursor is none that this server gave") from error
    raise MalformedError("cursor is none that this server gave")


_PARAMETERS: Final = frozenset(
    {
        *("name", "common_name", "account", "key", "serial", "issuer", "profile", "status"),
        *("ends_after", "ends_before", "limit", "cursor"),
    }
)


def parameters(query: bytes, known: frozenset[str]) -> dict[str, str]:
    """The parameters of a URL's query, each once.

    Raises:
        MalformedError: an unknown, repeated or empty one, or one with control characters.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=len(known),
        )
    except ValueError as error:
        raise MalformedError("the query of the URL cannot be read") from error
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise MalformedError(f"unknown parameter {name[:40]!a}; there are: {', '.join(sorted(known))}")
        if name in given:
            raise MalformedError(f"{name} is given twice")
        given[name] = checked_text(value, name, _MAX_CURSOR if name == "cursor" else MAX_TEXT)
    return given


def optional_number(given: Mapping[str, str], name: str) -> int | None:
    """A whole number up to the last time that a certificate can have.

    Raises:
        MalformedError: another value.
    """
    value = given.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_TIME)) and int(value) <= MAX_TIME):
        raise MalformedError(f"{name} must be a whole number from 0 to {MAX_TIME}")
    return int(value)


def page_limit(given: Mapping[str, str]) -> int:
    """The rows of a page.

    Raises:
        MalformedError: none, or more than a page may have.
    """
    limit = optional_number(given, "limit")
    if limit is None:
        return DEFAULT_PAGE
    if not 0 < limit <= MAX_PAGE:
        raise MalformedError(f"limit must be from 1 to {MAX_PAGE}: ask for the next page with its cursor")
    return limit


def _key_hash(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != _KEY_HASH:
        raise MalformedError("key must be the SHA-256 of a SubjectPublicKeyInfo: 64 hex digits")
    return digest


def _status(text: str) -> Status:
    for status in get_args(Status):
        if text == status:
            return cast("Status", status)
    raise MalformedError(f"status is none of {', '.join(get_args(Status))}")
