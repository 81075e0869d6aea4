"""Certificates by their certID: what renewalInfo says of them, and which order replaces them (RFC 9773)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BindParameter, and_, bindparam, case, exists, or_, select, update

from services.acme.identifiers import Identifier
from services.acme.schema import certificates, incident_certificates, incidents, orders
from services.acme.store.rows import identifiers_of
from services.chassis.database import Database, Row, Unit, Write

UNNAMED_BATCH: Final = 200  # certificates that get their certID in one commit

_NOW: Final[BindParameter[Any]] = bindparam("now")
_CERT_ID: Final = certificates.c.cert_id == bindparam("cert_id")
_OPEN: Final = and_(incidents.c.id == incident_certificates.c.incident_id, incidents.c.closed_at.is_(None))

_INFO: Final = (
    select(
        certificates.c.not_before,
        certificates.c.not_after,
        certificates.c.revoked_at,
        certificates.c.issued_at,
        incidents.c.window_start,
        incidents.c.window_end,
        incidents.c.explanation_url,
    )
    .select_from(
        certificates.outerjoin(
            incident_certificates, incident_certificates.c.certificate_id == certificates.c.id
        ).outerjoin(incidents, _OPEN)
    )
    .where(_CERT_ID)
    .order_by(case((incidents.c.id.is_(None), 1), else_=0), incidents.c.opened_at.desc())  # NULLs sort unlike
    .limit(1)
)

# An order that came to nothing leaves what it was to replace free for another (RFC 9773 §5).
_STANDS: Final = and_(
    orders.c.status != "invalid",
    or_(orders.c.status.not_in(("pending", "ready")), orders.c.expires > _NOW),
)
# What was read must hold still: of two orders at the same moment, neither need see the other's row.
_REPLACE: Final = (
    update(certificates)
    .where(
        certificates.c.id == bindparam("certificate"),
        certificates.c.replaced_by.is_not_distinct_from(bindparam("former")),
        ~exists().where(orders.c.id == certificates.c.replaced_by, _STANDS),
    )
    .values(replaced_by=bindparam("order"))
)


@dataclass(frozen=True, slots=True)
class RenewalRow:
    """What decides when a certificate should be renewed; `incident` is start, end and URL of an open one's window.

    `issued_at` is None of certificates from before it was stored.
    """

    not_before: int
    not_after: int
    revoked_at: int | None
    incident: tuple[int, int, str] | None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True)
class ReplaceableRow:
    """A certificate that an order wants to replace, with the names of its own order."""

    id: str
    account_id: str
    replaced_by: str | None
    identifiers: tuple[Identifier, ...]


class RenewalStore:
    """One indexed query each; all methods raise `services.chassis.errors.DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._info = database.prepare(_INFO)
        self._replaceable = database.prepare(
            select(certificates.c.id, certificates.c.account_id, certificates.c.replaced_by, orders.c.identifiers)
            .join_from(certificates, orders, certificates.c.order_id == orders.c.id)
            .where(_CERT_ID)
        )
        self._replace = database.prepare(_REPLACE)
        self._unnamed = database.prepare(
            select(certificates.c.id, certificates.c.chain).where(certificates.c.cert_id.is_(None)).limit(UNNAMED_BATCH)
        )
        self._name = database.prepare(
            update(certificates)
            .where(certificates.c.id == bindparam("certificate"), certificates.c.cert_id.is_(None))
            .values(cert_id=bindparam("new_cert_id"), not_before=bindparam("begin"))
        )

    async def info(self, cert_id: str) -> RenewalRow | None:
        """What is known of the certificate with this certID; of several open incidents, of the newest."""
        row = await self._database.fetch_one(self._info, cert_id=cert_id)
        return None if row is None else _renewal_of(row)

    async def replaceable(self, cert_id: str) -> ReplaceableRow | None:
        """The certificate with this certID, whoever ordered it."""
        row = await self._database.fetch_one(self._replaceable, cert_id=cert_id)
        if row is None:
            return None
        return ReplaceableRow(row["id"], row["account_id"], row["replaced_by"], identifiers_of(row["identifiers"]))

    def replace(self, certificate_id: str, former: str | None, order_id: str, now: int) -> Write:
        """Has an order replace a certificate in the place of a former one that stands no more; rides in its unit."""
        params = {"certificate": certificate_id, "former": former, "order": order_id, "now": now}
        return Write(self._replace, params, expect=1)

    async def unnamed(self) -> list[tuple[str, str]]:
        """Id and chain of some certificates without a certID: those from before there were any."""
        return [(row["id"], row["chain"]) for row in await self._database.fetch_all(self._unnamed)]

    async def name(self, named: Sequence[tuple[str, str, int]]) -> None:
        """Store certIDs and beginnings, each with the id of its certificate."""
        writes = [
            Write(self._name, {"certificate": certificate, "new_cert_id": cert_id, "begin": begin})
            for certificate, cert_id, begin in named
        ]
        await self._database.commit(Unit("certificates-named", writes))


def _renewal_of(row: Row) -> RenewalRow:
    window = row["window_start"], row["window_end"], row["explanation_url"]
    incident = None if row["window_start"] is None else window
    return RenewalRow(row["not_before"], row["not_after"], row["revoked_at"], incident, row["issued_at"])
