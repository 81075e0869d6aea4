"""Which certificates an operator's revocation, hold or release is about, as it travels: many at once, in pieces.

A piece is one request: it names a position in the order of recording, and is answered with the next one. Whoever
repeats a piece changes nothing twice, so that an interrupted run is simply begun again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import orjson

from pkicore.errors import IdentityError, MalformedError
from pkicore.identity import SpiffeId
from services.ca.wire import MAX_KEY, MAX_TEXT, format_serial, parse_serial
from services.chassis.fields import Fields

Act = Literal["revoke", "hold", "release"]

PIECE: Final = 1000
"""Certificates in one piece at most."""
_DIGEST: Final = 32
_POSITION: Final = re.compile(r"([0-9]{1,18})-([0-9a-f]{0,40})", re.ASCII)
_MEMBERS: Final = frozenset({"key_hash", "spiffe_id", "account", "issued_from", "issued_to", "issuer", "profile"})


@dataclass(frozen=True, slots=True)
class Position:
    """After which certificate a piece begins: when that was recorded, and its serial."""

    recorded_at: int = 0
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.recorded_at}-{self.serial}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its text.

        Raises:
            MalformedError: it is none that this CA gave out.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise MalformedError("after must be the position that the piece before was answered with")
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Selector:
    """Certificates that have not expired: of a key, of a SPIFFE ID, of an account, or issued in a period.

    Exactly one of `key_hash` (SHA-256 of the SubjectPublicKeyInfo), `spiffe_id`, `account` and the pair `issued_from`,
    `issued_to` (Unix time, both included) is given; `issuer` and `profile` narrow it down.
    """

    key_hash: bytes | None = None
    spiffe_id: str | None = None
    account: str | None = None
    issued_from: int | None = None
    issued_to: int | None = None
    issuer: str | None = None
    profile: str | None = None

    @property
    def given(self) -> Mapping[str, Any]:
        """The members that are there, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """As the audit log has it."""
        return ", ".join(f"{name} {_text(value)}" for name, value in self.given.items())

    @classmethod
    def of(cls, body: Fields) -> Self:
        """From its JSON form.

        Raises:
            MalformedError: not exactly one kind of selector, or a member that makes no sense.
        """
        selector = cls(
            key_hash=_digest(body.optional_text("key_hash", MAX_KEY)),
            spiffe_id=body.optional_text("spiffe_id", MAX_TEXT),
            account=body.optional_text("account", MAX_TEXT),
            issued_from=body.optional_time("issued_from"),
            issued_to=body.optional_time("issued_to"),
            issuer=body.optional_text("issuer", MAX_KEY),
            profile=body.optional_text("profile", MAX_KEY),
        )
        selector.check()
        return selector

    def check(self) -> None:
        """It is one selection.

        Raises:
            MalformedError: it is none, or several, or of nobody.
        """
        kinds = [name for name in ("key_hash", "spiffe_id", "account") if getattr(self, name) is not None]
        if (self.issued_from is None) != (self.issued_to is None):
            raise MalformedError("a period needs both issued_from and issued_to")
        if len(kinds) + (self.issued_from is not None) != 1:
            raise MalformedError("select by exactly one of key_hash, spiffe_id, account, issued_from with issued_to")
        if self.issued_from is not None and self.issued_to is not None and self.issued_from > self.issued_to:
            raise MalformedError("issued_from is after issued_to")
        if self.spiffe_id is not None:
            try:
                SpiffeId.parse(self.spiffe_id)
            except IdentityError as error:
                raise MalformedError(f"spiffe_id is no SPIFFE ID: {error}") from error

    def to_fields(self) -> dict[str, Any]:
        """Its JSON form."""
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in self.given.items()}


@dataclass(frozen=True, slots=True)
class SelectionRequest:
    """`POST /v1/revocations` with a selector: one piece of what is to happen to many certificates.

    The reason certificateHold holds, removeFromCRL releases, any other revokes. With `dry_run` nothing changes.
    """

    selector: Selector
    reason: str | int
    after: Position = Position()
    dry_run: bool = False

    def to_json(self) -> bytes:
        """The request body."""
        body = {"reason": self.reason, "after": str(self.after), "dry_run": self.dry_run}
        return orjson.dumps({"selector": self.selector.to_fields(), **body})

    @classmethod
    def of(cls, body: Fields) -> Self:
        """From its JSON form.

        Raises:
            MalformedError: a member is missing, of another kind, or makes no sense.
        """
        selector = Selector.of(Fields.of(body.members["selector"], _MEMBERS))
        reason = body.members.get("reason", "unspecified")
        if isinstance(reason, bool) or not isinstance(reason, (str, int)):
            raise MalformedError("reason must be a name or a number of RFC 5280 §5.3.1")
        after = body.optional_text("after", MAX_KEY)
        dry_run = "dry_run" in body.members and body.flag("dry_run")
        return cls(selector, reason, Position() if after is None else Position.parse(after), dry_run)


@dataclass(frozen=True, slots=True)
class SelectionAnswer:
    """What a piece was about: the serials that were changed, or would be; `after` begins the next piece, if any."""

    serials: tuple[int, ...]
    after: Position | None

    def to_json(self) -> bytes:
        """The answer body."""
        after = None if self.after is None else str(self.after)
        return orjson.dumps({"serials": [format_serial(serial) for serial in self.serials], "after": after})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        serials, after = body.texts("serials"), body.optional_text("after", MAX_KEY)
        return cls(tuple(map(parse_serial, serials)), None if after is None else Position.parse(after))


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST:
        raise MalformedError("key_hash must be the SHA-256 of a SubjectPublicKeyInfo in hex")
    return digest


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
