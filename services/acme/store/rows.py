"""What the tables hold, as frozen values, and the way from rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from services.acme.identifiers import Identifier
from services.chassis.database import Row

AccountStatus = Literal["valid", "deactivated"]
OrderStatus = Literal["pending", "ready", "processing", "valid", "invalid"]
AuthorizationStatus = Literal["pending", "valid", "invalid", "deactivated", "expired"]
ChallengeStatus = Literal["pending", "processing", "valid", "invalid"]


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as stored; `contacts` are mailto URLs."""

    id: str
    status: AccountStatus
    thumbprint: str
    jwk: Mapping[str, Any]
    contacts: tuple[str, ...]
    terms_agreed_at: int | None
    created_at: int
    terms: str | None = None
    eab_kid: str | None = None


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order as stored; `status` does not know of expiry yet."""

    id: str
    account_id: str
    status: OrderStatus
    identifiers: tuple[Identifier, ...]
    expires: int
    created_at: int
    csr: bytes | None = None
    certificate_id: str | None = None
    error: Mapping[str, Any] | None = None
    profile: str = "server"
    not_before: int | None = None
    not_after: int | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class AuthorizationRow:
    """An authorization as stored; `identifier` is without the wildcard label."""

    id: str
    account_id: str
    identifier: Identifier
    wildcard: bool
    status: AuthorizationStatus
    expires: int

    @property
    def name(self) -> Identifier:
        """What it was made for, with the wildcard label."""
        return named(self.identifier, wildcard=self.wildcard)


@dataclass(frozen=True, slots=True)
class ChallengeRow:
    """A challenge as stored.

    Attributes:
        failures_full_at: Unix milliseconds at which the bucket of failed validations of its account and name is full
            again; 0 where none failed, or where the row was not read by its own id.
    """

    id: str
    authorization_id: str
    type: str
    token: str
    status: ChallengeStatus
    validated_at: int | None = None
    error: Mapping[str, Any] | None = None
    failures_full_at: int = 0


@dataclass(frozen=True, slots=True)
class ProofRow:
    """How a name was validated, when (Unix time), and what each remote perspective said of it."""

    method: str
    identifier: Identifier
    wildcard: bool
    validated_at: int
    perspectives: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> Identifier:
        """What was ordered, with the wildcard label."""
        return named(self.identifier, wildcard=self.wildcard)


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate as delivered: `chain` is PEM, leaf first; `identifiers` are those of its order."""

    id: str
    order_id: str
    account_id: str
    serial: str
    fingerprint: str
    chain: str
    not_after: int
    revoked_at: int | None
    identifiers: tuple[Identifier, ...] = ()
    cert_id: str | None = None
    not_before: int | None = None
    alternates: tuple[str, ...] = ()
    replaced_by: str | None = None
    issued_at: int | None = None


def to_json(value: object) -> str:
    """JSON text of a column."""
    return orjson.dumps(value).decode()


def identifiers_of(text: str) -> tuple[Identifier, ...]:
    """The identifiers in a column."""
    return tuple(Identifier(item["type"], item["value"]) for item in orjson.loads(text))


def named(identifier: Identifier, *, wildcard: bool) -> Identifier:
    """An identifier with the wildcard label that its authorization keeps apart."""
    return Identifier("dns", f"*.{identifier.value}") if wildcard else identifier


def _problem(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else orjson.loads(text)


def account_of(row: Row) -> AccountRow:
    """The account in a row."""
    return AccountRow(
        id=row["id"],
        status=row["status"],
        thumbprint=row["thumbprint"],
        jwk=orjson.loads(row["jwk"]),
        contacts=tuple(orjson.loads(row["contacts"])),
        terms_agreed_at=row["terms_agreed_at"],
        created_at=row["created_at"],
        terms=row["terms"],
        eab_kid=row["eab_kid"],
    )


def order_of(row: Row) -> OrderRow:
    """The order in a row."""
    return OrderRow(
        id=row["id"],
        account_id=row["account_id"],
        status=row["status"],
        identifiers=identifiers_of(row["identifiers"]),
        expires=row["expires"],
        created_at=row["created_at"],
        csr=None if row["csr"] is None else bytes(row["csr"]),
        certificate_id=row["certificate_id"],
        error=_problem(row["error"]),
        profile=row["profile"],
        not_before=row["not_before"],
        not_after=row["not_after"],
        replaces=row["replaces"],
    )


def order_values(order: OrderRow) -> dict[str, Any]:
    """The columns of a new order."""
    return {
        "id": order.id,
        "account_id": order.account_id,
        "status": order.status,
        "identifiers": to_json([identifier.document() for identifier in order.identifiers]),
        "expires": order.expires,
        "created_at": order.created_at,
        "csr": None,
        "certificate_id": None,
        "error": None,
        "profile": order.profile,
        "not_before": order.not_before,
        "not_after": order.not_after,
        "replaces": order.replaces,
    }


def authorization_of(row: Row) -> AuthorizationRow:
    """The authorization in a row."""
    return AuthorizationRow(
        id=row["id"],
        account_id=row["account_id"],
        identifier=Identifier(row["type"], row["value"]),
        wildcard=bool(row["wildcard"]),
        status=row["status"],
        expires=row["expires"],
    )


def joined_authorization_of(row: Row) -> AuthorizationRow:
    """The authorization in a row that is led by its challenge."""
    return AuthorizationRow(
        id=row["authorization_id"],
        account_id=row["account_id"],
        identifier=Identifier(row["identifier_type"], row["value"]),
        wildcard=bool(row["wildcard"]),
        status=row["authorization_status"],
        expires=row["expires"],
    )


def authorization_values(authorization: AuthorizationRow) -> dict[str, Any]:
    """The columns of a new authorization."""
    return {
        "id": authorization.id,
        "account_id": authorization.account_id,
        "type": authorization.identifier.type,
        "value": authorization.identifier.value,
        "wildcard": int(authorization.wildcard),
        "status": authorization.status,
        "expires": authorization.expires,
    }


def challenge_of(row: Row) -> ChallengeRow:
    """The challenge in a row."""
    return ChallengeRow(
        id=row["id"],
        authorization_id=row["authorization_id"],
        type=row["type"],
        token=row["token"],
        status=row["status"],
        validated_at=row["validated_at"],
        error=_problem(row["error"]),
        failures_full_at=row.get("failures_full_at") or 0,
    )


def proof_of(row: Row) -> ProofRow:
    """The proof in a row."""
    return ProofRow(
        method=row["method"],
        identifier=Identifier(row["type"], row["value"]),
        wildcard=bool(row["wildcard"]),
        validated_at=row["validated_at"] or 0,
        perspectives=tuple(orjson.loads(row["perspectives"] or "[]")),
    )


def challenge_values(challenge: ChallengeRow) -> dict[str, Any]:
    """The columns of a new challenge."""
    return {
        "id": challenge.id,
        "authorization_id": challenge.authorization_id,
        "type": challenge.type,
        "token": challenge.token,
        "status": challenge.status,
        "validated_at": None,
        "error": None,
        "perspectives": None,
    }


def certificate_values(certificate: CertificateRow) -> dict[str, Any]:
    """The columns of a new certificate."""
    return {
        "id": certificate.id,
        "order_id": certificate.order_id,
        "account_id": certificate.account_id,
        "serial": certificate.serial,
        "fingerprint": certificate.fingerprint,
        "chain": certificate.chain,
        "not_after": certificate.not_after,
        "revoked_at": None,
        "cert_id": certificate.cert_id,
        "not_before": certificate.not_before,
        "alternates": to_json(certificate.alternates) if certificate.alternates else None,
        "replaced_by": None,
        "issued_at": certificate.issued_at,
    }


def certificate_of(row: Row) -> CertificateRow:
    """The certificate in a row, with its order's names where the row has them."""
    return CertificateRow(
        id=row["id"],
        order_id=row["order_id"],
        account_id=row["account_id"],
        serial=row["serial"],
        fingerprint=row["fingerprint"],
        chain=row["chain"],
        not_after=row["not_after"],
        revoked_at=row["revoked_at"],
        identifiers=identifiers_of(row["identifiers"]) if "identifiers" in row else (),
        cert_id=row["cert_id"],
        not_before=row["not_before"],
        alternates=tuple(orjson.loads(row["alternates"] or "[]")),
        replaced_by=row["replaced_by"],
        issued_at=row["issued_at"],
    )
