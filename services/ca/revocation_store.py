"""The SQL of revocation: what last happened to each serial, the feed, what a selector selects, and the newest CRLs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from services.ca.ledger.names import path_of
from services.ca.schema import blocked_keys, certificate_names, certificates, crls, revocations
from services.ca.selection import Act, Position, Selector
from services.ca.wire import format_serial
from services.chassis.database import AuditEvent, Database, Prepared, Row, Unit, Write

HELD: Final = "certificateHold"
RELEASED: Final = "removeFromCRL"
IN_FORCE: Final = revocations.c.reason != RELEASED
"""Joins those revocations that hold now: a hold that was released says nothing of its certificate any more."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A row of the feed; `entry` is the DER of the CRL entry."""

    sequence: int
    serial: int
    issuer: str
    revoked_at: int
    reason: str
    not_after: int
    entry: bytes
    shard: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A certificate, or an intent, as revocation needs it.

    `sequence` is that of the last thing that happened to it, `revoked_at` and `reason` what that was; 0 and None where
    nothing did.
    """

    serial: int
    issuer: str
    profile: str
    caller: str
    key_hash: bytes
    not_after: int
    recorded_at: int
    shard: int
    sequence: int
    revoked_at: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class StoredCrl:
    """The newest CRL of a list; `issuer` is its path below /crl.

    `sequence` is how far in the feed it goes. Of a delta, `base_number`, `base_sequence` and `base_update` are the
    number, `sequence` and `this_update` of the list that it builds on.
    """

    issuer: str
    number: int
    this_update: int
    next_update: int
    der: bytes
    base_number: int = 0
    sequence: int = 0
    base_sequence: int = 0
    base_update: int = 0


@dataclass(frozen=True, slots=True)
class SerialStatus:
    """What OCSP needs to know of a serial; `issued` is False for an intent that was not completed."""

    issued: bool
    revoked_at: int | None
    reason: str | None


class RevocationStore:
    """Every statement is compiled once, here; those of selectors when they are first used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        prepare = database.prepare
        self._selections: dict[tuple[object, ...], Prepared] = {}
        self._candidate = prepare(_candidates().where(certificates.c.serial == sa.bindparam("serial")))
        self._status = prepare(_serial_status())
        self._first_event = prepare(_insert_revocation())
        self._next_event = prepare(_move_revocation())
        self._block_key = prepare(_insert_once(blocked_keys))
        self._revocations_after = prepare(
            sa.select(revocations)
            .where(revocations.c.sequence > sa.bindparam("after"))
            .order_by(revocations.c.sequence)
            .limit(sa.bindparam("most"))
        )
        self._crl = prepare(sa.select(crls).where(crls.c.issuer == sa.bindparam("issuer")))
        self._lists = prepare(sa.select(crls.c.issuer).order_by(crls.c.issuer))
        self._first_crl = prepare(sa.insert(crls).values({name: sa.bindparam(name) for name in _CRL}))
        self._next_crl = prepare(_replace_crl())
        self._no_crl = prepare(sa.delete(crls).where(crls.c.issuer == sa.bindparam("of")))

    async def candidate(self, serial: int) -> Candidate | None:
        """What revocation needs to know of a serial; None where this CA never used it."""
        row = await self._database.fetch_one(self._candidate, serial=format_serial(serial))
        return None if row is None else _candidate(row)

    async def selected(
        self, selector: Selector, act: Act, *, after: Position, most: int, now: int
    ) -> Sequence[Candidate]:
        """Certificates that have not expired, are selected, and to which the act would change something.

        They come in the order in which they were recorded, those after a position, at most so many.
        """
        given = selector.given
        shape = (act, tuple(sorted(given)))
        if shape not in self._selections:
            self._selections[shape] = self._database.prepare(_selection(act, given))
        params = {**given, "at": after.recorded_at, "of": after.serial, "now": now, "most": most}
        if "spiffe_id" in params:
            params["spiffe_id"] = path_of("uri", str(params["spiffe_id"]))
        return [_candidate(row) async for row in self._database.scan(self._selections[shape], **params)]

    async def record(
        self, candidate: Candidate, happened: Revoked, event: AuditEvent, *, block_key: bool = False
    ) -> None:
        """Commit what happened to a certificate; the database gives it the feed's next sequence.

        Raises:
            ConflictError, DuplicateError: something else happened since the candidate was read; nothing changed.
        """
        params = {name: getattr(happened, name) for name in happened.__slots__ if name != "sequence"}
        params |= {"serial": format_serial(happened.serial), "revoked_by": event.actor}
        if candidate.sequence:
            writes = [Write(self._next_event, params | {"of": params.pop("serial"), "was": candidate.sequence}, 1)]
        else:
            writes = [Write(self._first_event, params, 1)]
        if block_key:
            writes.append(self._blocking(candidate.key_hash, happened.revoked_at, event.actor))
        await self._database.commit(Unit("revocation", writes, [event]))

    async def block_key(self, key_hash: bytes, at: int, event: AuditEvent) -> None:
        """Never certify this key (SHA-256 of its SubjectPublicKeyInfo) again; does nothing twice."""
        await self._database.commit(Unit("blocked key", [self._blocking(key_hash, at, event.actor)], [event]))

    def _blocking(self, key_hash: bytes, at: int, by: str) -> Write:
        params = {"key_hash": key_hash, "blocked_at": at, "reason": "keyCompromise", "blocked_by": by}
        return Write(self._block_key, params, None)

    async def status(self, issuer: str, serial: int) -> SerialStatus | None:
        """The status of a serial under an issuer; None where that issuer never used it."""
        row = await self._database.fetch_one(self._status, issuer=issuer, serial=format_serial(serial))
        return None if row is None else SerialStatus(bool(row["issued"]), row["revoked_at"], row["reason"])

    async def revocations_after(self, sequence: int, most: int) -> list[Revoked]:
        """What happened with a higher sequence, in order, at most so many."""
        rows = await self._database.fetch_all(self._revocations_after, after=sequence, most=most)
        return [_revoked(row) for row in rows]

    async def lists(self) -> list[str]:
        """The path of every list there is, below /crl."""
        return [row["issuer"] for row in await self._database.fetch_all(self._lists)]

    async def crl(self, issuer: str) -> StoredCrl | None:
        """The newest CRL of a list."""
        row = await self._database.fetch_one(self._crl, issuer=issuer)
        return None if row is None else StoredCrl(**{name: row[name] for name in _CRL})

    async def store_crl(self, crl: StoredCrl, event: AuditEvent, delta: StoredCrl | None = None) -> None:
        """Make this the newest CRL of its list, and `delta` the delta to it, before anybody sees them.

        Raises:
            ConflictError: the newest is not the one before it (somebody else published).
            DuplicateError: likewise, for the first one.
        """
        params = {name: getattr(crl, name) for name in _CRL}
        write = Write(self._first_crl, params, 1)
        if crl.number > 1:
            renamed = {"of": params.pop("issuer"), "previous": crl.number - 1, "before": crl.this_update}
            write = Write(self._next_crl, params | renamed, 1)
        writes = [write]
        if delta is not None:
            writes.append(Write(self._no_crl, {"of": delta.issuer}))
            writes.append(Write(self._first_crl, {name: getattr(delta, name) for name in _CRL}, 1))
        await self._database.commit(Unit("crl", writes, [event]))


_CRL: Final = StoredCrl.__slots__


def in_force(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """A column of the revocation that holds now; NULL where none does."""
    return sa.case((IN_FORCE, column)).label(column.name)


def _insert_once(table: sa.Table) -> sa.Insert:
    """Insert unless the primary key is there already; both engines count the rows alike."""
    key = next(iter(table.primary_key.columns))
    present = sa.exists().where(key == sa.bindparam(key.name, type_=key.type))
    values = [sa.bindparam(column.name, type_=column.type) for column in table.c]
    return sa.insert(table).from_select(list(table.c), sa.select(*values).where(~present))


def _following() -> sa.ScalarSelect[Any]:
    """The feed's next sequence, read in the statement that uses it: who commits second gets a conflict, never a gap."""
    latest = revocations.alias("latest")
    return sa.select(sa.func.coalesce(sa.func.max(latest.c.sequence), 0) + 1).scalar_subquery()


def _insert_revocation() -> sa.Insert:
    columns = [column for column in revocations.c if column is not revocations.c.sequence]
    values = [sa.bindparam(column.name, type_=column.type) for column in columns]
    return sa.insert(revocations).from_select([revocations.c.sequence, *columns], sa.select(_following(), *values))


def _move_revocation() -> sa.Update:
    """Something else happened to a serial: its row goes to the feed's end."""
    changed = ("revoked_at", "reason", "entry", "revoked_by")
    return (
        sa.update(revocations)
        .where(revocations.c.serial == sa.bindparam("of"), revocations.c.sequence == sa.bindparam("was"))
        .values({"sequence": _following(), **{name: sa.bindparam(name) for name in changed}})
    )


def _replace_crl() -> sa.Update:
    return (
        sa.update(crls)
        .where(
            crls.c.issuer == sa.bindparam("of"),
            crls.c.number == sa.bindparam("previous"),
            crls.c.this_update < sa.bindparam("before"),
        )
        .values({name: sa.bindparam(name) for name in _CRL if name != "issuer"})
    )


def _candidates() -> sa.Select[Any]:
    of = certificates.c
    columns = (of.serial, of.issuer, of.profile, of.caller, of.key_hash, of.not_after, of.recorded_at, of.shard)
    sequence = sa.func.coalesce(revocations.c.sequence, 0).label("sequence")
    return sa.select(*columns, sequence, revocations.c.revoked_at, revocations.c.reason).join_from(
        certificates, revocations, revocations.c.serial == of.serial, isouter=True
    )


_OPEN: Final[Mapping[Act, sa.ColumnElement[bool]]] = {
    "revoke": sa.or_(revocations.c.serial.is_(None), revocations.c.reason.in_((HELD, RELEASED))),
    "hold": sa.or_(revocations.c.serial.is_(None), revocations.c.reason == RELEASED),
    "release": revocations.c.reason == HELD,
}
"""To which certificates an act would change something."""


def _selection(act: Act, given: Mapping[str, object]) -> sa.Select[Any]:
    of = certificates.c
    conditions: dict[str, sa.ColumnElement[bool]] = {
        "key_hash": of.key_hash == sa.bindparam("key_hash"),
        "account": of.account == sa.bindparam("account"),
        "spiffe_id": sa.and_(certificate_names.c.kind == "uri", certificate_names.c.path == sa.bindparam("spiffe_id")),
        "issued_from": of.recorded_at >= sa.bindparam("issued_from"),
        "issued_to": of.recorded_at <= sa.bindparam("issued_to"),
        "issuer": of.issuer == sa.bindparam("issuer"),
        "profile": of.profile == sa.bindparam("profile"),
    }
    statement, order = _candidates(), (of.recorded_at, of.serial)
    if "spiffe_id" in given:  # the names' index is in the same order
        statement = statement.join(certificate_names, certificate_names.c.serial == of.serial)
        order = certificate_names.c.recorded_at, certificate_names.c.serial
    at, serial = order
    follows = sa.or_(at > sa.bindparam("at"), sa.and_(at == sa.bindparam("at"), serial > sa.bindparam("of")))
    return (
        statement.where(*(conditions[name] for name in given), at >= sa.bindparam("at"), follows)
        .where(of.not_after >= sa.bindparam("now"), _OPEN[act])
        .order_by(*order)
        .limit(sa.bindparam("most"))
    )


def _serial_status() -> sa.Select[Any]:
    issued = sa.case((certificates.c.certificate.is_not(None), 1), else_=0).label("issued")
    return (
        sa.select(issued, in_force(revocations.c.revoked_at), in_force(revocations.c.reason))
        .join_from(certificates, revocations, revocations.c.serial == certificates.c.serial, isouter=True)
        .where(certificates.c.serial == sa.bindparam("serial"), certificates.c.issuer == sa.bindparam("issuer"))
    )


def _candidate(row: Row) -> Candidate:
    return Candidate(**{name: row[name] for name in Candidate.__slots__} | {"serial": int(row["serial"], 16)})


def _revoked(row: Row) -> Revoked:
    return Revoked(  # one by one: a CA that starts reads a million of them
        row["sequence"],
        int(row["serial"], 16),
        row["issuer"],
        row["revoked_at"],
        row["reason"],
        row["not_after"],
        row["entry"],
        row["shard"],
    )
