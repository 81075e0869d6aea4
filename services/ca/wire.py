"""What travels between the CA and its callers: frozen messages, each with its strict JSON form.

Binary fields are standard base64 of DER, certificates that go out are PEM, times are Unix seconds, serials are
lower-case hex without leading zeros. Reading raises MalformedError with the name of the field; writing never fails.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields, checked_text

MAX_BODY: Final = 128 * 1024  # octets; a 64 KiB CSR in base64 and its names
MAX_IDENTIFIERS: Final = 200
MAX_KEY: Final = 200  # characters of an idempotency key
MAX_TEXT: Final = 1024  # characters of any other string
MAX_REQUESTER: Final = 16  # members
SHA256_SIZE: Final = 32
MAX_EXTENSIONS: Final = 16  # members
MAX_EXTENSION: Final = 2048  # characters of an extension's value
FEED_ENTRIES: Final = 1000  # revocations in one answer of the feed

IdentifierType = Literal["dns", "ip", "uri", "email"]
_REQUEST: Final = frozenset(
    {
        "csr",
        "profile",
        "identifiers",
        "idempotency_key",
        "not_before",
        "not_after",
        "requester",
        "extensions",
        "renews",
        "account_key",
    }
)
_IDENTIFIER_TYPES: Final = ("dns", "ip", "uri", "email")  # a tuple: what is looked up may be unhashable


@dataclass(frozen=True, slots=True)
class Identifier:
    """One name that the caller vouches for."""

    type: IdentifierType
    value: str


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """`POST /v1/certificates`: a CSR (DER), the names the caller has validated and who stands behind the request.

    `requester` goes to the audit log as it is. `extensions` are what an OIDC token says, OID to value, for profiles
    that take them (`pkicore.x509.fulcio`). `renews` is the serial of a certificate of the same profile, key and subject
    in whose place this one is asked for; some callers may ask for no other (`renewers` of a profile).

    `not_before` and `not_after` are a later beginning and an earlier end than the profile gives. `account_key` is the
    SHA-256 of the SubjectPublicKeyInfo of the key that the requester signed with: where it is blocked, no certificate.

    The same `idempotency_key` with the same CSR, profile, times and `extensions` yields the same certificate; with
    others it is refused.
    """

    csr: bytes
    profile: str
    identifiers: tuple[Identifier, ...]
    idempotency_key: str
    not_after: int | None = None
    requester: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)
    renews: str | None = None
    not_before: int | None = None
    account_key: bytes | None = None

    def to_json(self) -> bytes:
        """The request body."""
        body: dict[str, Any] = {
            "csr": base64.b64encode(self.csr).decode(),
            "profile": self.profile,
            "identifiers": [{"type": name.type, "value": name.value} for name in self.identifiers],
            "idempotency_key": self.idempotency_key,
            "requester": dict(self.requester),
        }
        if self.not_before is not None:
            body["not_before"] = self.not_before
        if self.not_after is not None:
            body["not_after"] = self.not_after
        if self.extensions:
            body["extensions"] = dict(self.extensions)
        if self.renews is not None:
            body["renews"] = self.renews
        if self.account_key is not None:
            body["account_key"] = base64.b64encode(self.account_key).decode()
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, data: bytes) -> "CertificateRequest":
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        body = Fields.parse(data, _REQUEST)
        return cls(
            csr=body.binary("csr"),
            profile=body.text("profile", MAX_KEY),
            identifiers=_identifiers(body.members.get("identifiers")),
            idempotency_key=body.text("idempotency_key", MAX_KEY),
            not_after=body.optional_time("not_after"),
            requester=_requester(body.members.get("requester", {})),
            extensions=_extensions(body.members.get("extensions", {})),
            renews=body.optional_text("renews", MAX_KEY),
            not_before=body.optional_time("not_before"),
            account_key=_key_hash(body),
        )


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """The answer to a request: `chain` is PEM, leaf first, without the root.

    `alternates` are chains of the same certificate to other roots, in the same form; older CAs say nothing of them.
    """

    serial: str
    certificate: str
    chain: str
    not_after: int
    alternates: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "IssuedCertificate":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(
            body.text("serial"),
            body.text("certificate", MAX_BODY),
            body.text("chain", MAX_BODY),
            body.time("not_after"),
            tuple(body.texts("alternates", MAX_BODY)) if "alternates" in body.members else (),
        )


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """`POST /v1/revocations`: a certificate, by serial (hex) or by its DER bytes, and the reason (RFC 5280 §5.3.1)."""

    reason: str | int
    serial: str | None = None
    certificate: bytes | None = None

    def to_json(self) -> bytes:
        """The request body."""
        body: dict[str, Any] = {"reason": self.reason}
        if self.serial is not None:
            body["serial"] = self.serial
        if self.certificate is not None:
            body["certificate"] = base64.b64encode(self.certificate).decode()
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, data: bytes) -> "RevocationRequest":
        """Read a request body.

        Raises:
            MalformedError: not the JSON of such a request, or both or neither of serial and certificate.
        """
        body = Fields.parse(data, {"serial", "certificate", "reason"})
        if ("serial" in body.members) == ("certificate" in body.members):
            raise MalformedError("give either serial or certificate, and only one of them")
        reason = body.members.get("reason", "unspecified")
        if isinstance(reason, bool) or not isinstance(reason, (str, int)):
            raise MalformedError("reason must be a name or a number of RFC 5280 §5.3.1")
        return cls(
            reason=reason,
            serial=body.text("serial") if "serial" in body.members else None,
            certificate=body.binary("certificate") if "certificate" in body.members else None,
        )


@dataclass(frozen=True, slots=True)
class RevocationAnswer:
    """A certificate is revoked since `revoked_at`, for `reason` (RFC 5280 name)."""

    serial: str
    revoked_at: int
    reason: str

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "RevocationAnswer":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(body.text("serial"), body.time("revoked_at"), body.text("reason"))


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """What the CA knows of one serial; `certificate` is PEM, and absent while an intent has not been completed."""

    serial: str
    status: Literal["good", "revoked", "expired", "pending"]
    issuer: str
    profile: str
    not_before: int
    not_after: int
    certificate: str | None = None
    revoked_at: int | None = None
    reason: str | None = None

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> "CertificateStatus":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        status = body.text("status")
        if status not in {"good", "revoked", "expired", "pending"}:
            raise MalformedError("status is none of good, revoked, expired, pending")
        return cls(
            serial=body.text("serial"),
            status=cast("Literal['good', 'revoked', 'expired', 'pending']", status),
            issuer=body.text("issuer"),
            profile=body.text("profile"),
            not_before=body.time("not_before"),
            not_after=body.time("not_after"),
            certificate=body.optional_text("certificate", MAX_BODY),
            revoked_at=body.optional_time("revoked_at"),
            reason=body.optional_text("reason"),
        )


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One revocation of the feed; sequences rise by time of revocation and are never used twice."""

    sequence: int
    serial: str
    issuer: str
    revoked_at: int
    reason: str


@dataclass(frozen=True, slots=True)
class RevocationFeed:
    """`GET /v1/revocations?after=N`: what was revoked after sequence N, and the N to ask with next."""

    entries: tuple[FeedEntry, ...]
    next: int

    def to_json(self) -> bytes:
        """The answer body."""
        return orjson.dumps({"revocations": list(self.entries), "next": self.next})

    @classmethod
    def from_json(cls, data: bytes) -> "RevocationFeed":
        """Read an answer body.

        Raises:
            MalformedError: a field is missing or of another kind.
        """
        body = Fields.parse(data)
        return cls(
            tuple(
                FeedEntry(
                    entry.time("sequence"),
                    entry.text("serial"),
                    entry.text("issuer"),
                    entry.time("revoked_at"),
                    entry.text("reason"),
                )
                for entry in map(Fields, body.objects("revocations"))
            ),
            body.time("next"),
        )


def parse_serial(text: str) -> int:
    """The number behind a serial as people write it: hex in either case, colons and leading zeros allowed.

    Raises:
        MalformedError: not hex, zero, or longer than the 20 octets of RFC 5280 §4.1.2.2.
    """
    digits = text.replace(":", "")
    if not digits or len(digits) > 2 * MAX_KEY or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise MalformedError("serial must be hex digits, optionally separated by colons")
    serial = int(digits, 16)
    if not 0 < serial < 1 << 160:
        raise MalformedError("serial must be a positive number of at most 20 octets")
    return serial


def format_serial(serial: int) -> str:
    """The one written form of a serial: lower-case hex without leading zeros."""
    return f"{serial:x}"


def _identifiers(value: object) -> tuple[Identifier, ...]:
    if not isinstance(value, list) or len(value) > MAX_IDENTIFIERS:
        raise MalformedError(f"identifiers must be a list of at most {MAX_IDENTIFIERS}")
    found = []
    for item in value:
        if not isinstance(item, dict) or item.keys() != {"type", "value"} or item["type"] not in _IDENTIFIER_TYPES:
            raise MalformedError('each of identifiers must be {"type": "dns"|"ip"|"uri"|"email", "value": …}')
        found.append(Identifier(item["type"], checked_text(item["value"], "identifiers.value", MAX_TEXT)))
    return tuple(found)


def _key_hash(body: Fields) -> bytes | None:
    if body.members.get("account_key") is None:
        return None
    digest = body.binary("account_key")
    if len(digest) != SHA256_SIZE:
        raise MalformedError("account_key must be a SHA-256")
    return digest


def _requester(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_REQUESTER:
        raise MalformedError(f"requester must be an object of at most {MAX_REQUESTER} members")
    return {
        checked_text(name, "requester", MAX_KEY): checked_text(content, "requester value", MAX_TEXT)
        for name, content in value.items()
    }


def _extensions(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_EXTENSIONS:
        raise MalformedError(f"extensions must be an object of at most {MAX_EXTENSIONS} members")
    return {
        checked_text(oid, "extensions", MAX_KEY): checked_text(content, "extensions value", MAX_EXTENSION)
        for oid, content in value.items()
    }
