"""What the ledger's endpoints answer. Times are Unix seconds, serials lower-case hex, key hashes hex."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.ca.wire import MAX_BODY
from services.chassis.fields import Fields

MAX_CURSOR: Final = 8192  # characters


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An issuance: what, for whom, who asked, how it was validated (`requester`), and what became of it.

    Attributes:
        serial: hex.
        status: good, expired, revoked or pending (recorded, and not signed yet).
        issuer: id of the issuing CA.
        profile: by name.
        caller: SPIFFE ID of the service or operator that asked.
        account: on whose behalf, as the caller says.
        names: kind (dns, ip, uri, email, common_name) to names.
        algorithm: of the certified key.
        key_hash: SHA-256 of its SubjectPublicKeyInfo.
        not_before: Unix time.
        not_after: Unix time.
        recorded_at: when it was decided.
        requester: what the caller says of the requester and of the validation.
        validated: who vouches for the names, as the CA saw it; empty where it was not recorded then.
        decision: the profile, and what of it let the caller have the certificate; likewise.
        revoked_at: where it is revoked.
        reason: RFC 5280 name.
        revoked_by: SPIFFE ID.
        certificate: PEM; only where one certificate is asked for.
    """

    serial: str
    status: str
    issuer: str
    profile: str
    caller: str
    account: str
    names: Mapping[str, Sequence[str]]
    algorithm: str
    key_hash: str
    not_before: int
    not_after: int
    recorded_at: int
    requester: Mapping[str, str] = field(default_factory=dict)
    validated: str = ""
    decision: str = ""
    revoked_at: int | None = None
    reason: str | None = None
    revoked_by: str | None = None
    certificate: str | None = None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "LedgerEntry":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        return cls.read(Fields.parse(data))

    @classmethod
    def read(cls, body: Fields) -> "LedgerEntry":
        """Likewise, of what has been parsed."""
        return cls(
            serial=body.text("serial"),
            status=body.text("status"),
            issuer=body.text("issuer"),
            profile=body.text("profile"),
            caller=body.text("caller"),
            account=_text(body, "account"),
            names={kind: [str(name) for name in names] for kind, names in _object(body, "names").items()},
            algorithm=_text(body, "algorithm"),
            key_hash=body.text("key_hash"),
            not_before=body.time("not_before"),
            not_after=body.time("not_after"),
            recorded_at=body.time("recorded_at"),
            requester={name: str(value) for name, value in _object(body, "requester").items()},
            validated=_text(body, "validated"),
            decision=_text(body, "decision"),
            revoked_at=body.optional_time("revoked_at"),
            reason=body.optional_text("reason"),
            revoked_by=body.optional_text("revoked_by"),
            certificate=body.optional_text("certificate", MAX_BODY),
        )


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """`GET /v1/ledger/certificates`: rows, and the cursor of the next page; None at the end.

    A page may be short, even empty, and not be the last: its rows were chosen from a bounded number.
    """

    certificates: tuple[LedgerEntry, ...]
    next: str | None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "LedgerPage":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        rows = tuple(LedgerEntry.read(Fields(item)) for item in body.objects("certificates"))
        return cls(rows, body.optional_text("next", MAX_CURSOR))


@dataclass(frozen=True, slots=True)
class RefusalEntry:
    """A request that was not granted.

    Attributes:
        id: orders refusals by time.
        at: Unix time.
        caller: who asked; empty where its certificate has no SPIFFE ID.
        account: on whose behalf, as the caller says.
        profile: that was asked for.
        names: that were asked for, the first few; of a revocation the serial or the selection, of the block list the
            key, of a call that the policy does not allow the endpoint.
        problem: type of the problem document that was answered, without its prefix.
        rule: of authorisation that refused; empty where it was another step.
        detail: the sentence that was answered.
        act: what was refused: issue, revoke, block, unblock, or call (an endpoint of any kind).
    """

    id: str
    at: int
    caller: str
    account: str
    profile: str
    names: Sequence[str]
    problem: str
    rule: str
    detail: str
    act: str = "issue"

    @classmethod
    def read(cls, body: Fields) -> "RefusalEntry":
        """Read a member of an answer.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        texts = {name: _text(body, name) for name in ("account", "profile", "rule", "detail")}
        return cls(
            id=body.text("id"),
            at=body.time("at"),
            caller=body.text("caller"),
            names=body.texts("names"),
            problem=body.text("problem"),
            act=body.optional_text("act") or "issue",
            **texts,
        )


@dataclass(frozen=True, slots=True)
class RefusalPage:
    """`GET /v1/ledger/refusals`: rows, the newest first, and the cursor of the next page; None at the end."""

    refusals: tuple[RefusalEntry, ...]
    next: str | None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "RefusalPage":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        rows = tuple(RefusalEntry.read(Fields(item)) for item in body.objects("refusals"))
        return cls(rows, body.optional_text("next", MAX_CURSOR))


@dataclass(frozen=True, slots=True)
class InventoryIssuer:
    """A CA: its role (root, issuing, prepared, retired), its key's algorithm, and what kind of place holds that key."""

    id: str
    role: str
    algorithm: str
    place: str


@dataclass(frozen=True, slots=True)
class LiveCertificates:
    """Live certificates of an algorithm (empty: recorded before that was) and a profile; the oldest's Unix time."""

    algorithm: str
    profile: str
    count: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """`GET /v1/ledger/inventory`: by algorithm, what the CA signs with and what it has certified, as of `at`."""

    at: int
    issuers: tuple[InventoryIssuer, ...]
    certificates: tuple[LiveCertificates, ...]

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Inventory":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        issuers = [Fields(item) for item in body.objects("issuers")]
        counts = [Fields(item) for item in body.objects("certificates")]
        return cls(
            body.time("at"),
            tuple(InventoryIssuer(*(item.text(name) for name in InventoryIssuer.__slots__)) for item in issuers),
            tuple(
                LiveCertificates(
                    _text(item, "algorithm"), item.text("profile"), item.time("count"), item.time("oldest")
                )
                for item in counts
            ),
        )


def _text(body: Fields, name: str) -> str:
    """A string, perhaps an empty one."""
    value = body.members.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be a string")
    return value


def _object(body: Fields, name: str) -> Mapping[str, Any]:
    value = body.members.get(name)
    if not isinstance(value, dict):
        raise MalformedError(f"{name} must be an object")
    return value
