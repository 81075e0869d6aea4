"""The only SQL of the CA. Rows go in and come out as the frozen records below."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from services.ca.ledger.names import path_of
from services.ca.schema import blocked_keys, certificate_names, certificates, crls, revocations, serials
from services.ca.wire import format_serial
from services.chassis.database import AuditEvent, Database, Row, Unit, Write

_LEDGER_COLUMNS: Final = tuple(column for column in certificates.c if column is not certificates.c.certificate)


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be signed: enough to sign it later, and to revoke it whether or not that happened."""

    serial: int
    issuer: str
    profile: str
    caller: str
    idempotency_key: str
    request_hash: bytes
    key_hash: bytes
    not_before: int
    not_after: int
    recorded_at: int
    tbs: bytes
    shard: int = 0
    account: str = ""
    requester: str = "{}"
    names: str = "{}"
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class Ledgered:
    """A row of the ledger: the intent and, once signed, the certificate (DER); revocation where there is one.

    `blocked` says that the key has been reported compromised since.
    """

    intent: Intent
    certificate: bytes | None
    revoked_at: int | None
    reason: str | None
    blocked: bool


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
class StoredCrl:
    """The newest CRL of a list; `issuer` is its path below /crl."""

    issuer: str
    number: int
    this_update: int
    next_update: int
    der: bytes
    base_number: int = 0


@dataclass(frozen=True, slots=True)
class SerialStatus:
    """What OCSP needs to know of a serial; `issued` is False for an intent that was not completed."""

    issued: bool
    revoked_at: int | None
    reason: str | None


class CaStore:
    """Every statement is compiled once, here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        prepare = database.prepare
        self._reserve = prepare(_insert(serials))
        self._record_intent = prepare(_insert_unless_blocked())
        self._name = prepare(_insert(certificate_names))
        self._set_certificate = prepare(
            sa.update(certificates)
            .where(certificates.c.serial == sa.bindparam("of"), certificates.c.certificate.is_(None))
            .values(certificate=sa.bindparam("der"))
        )
        self._by_serial = prepare(_ledger().where(certificates.c.serial == sa.bindparam("serial")))
        self._by_key = prepare(
            _ledger().where(
                certificates.c.caller == sa.bindparam("caller"),
                certificates.c.idempotency_key == sa.bindparam("idempotency_key"),
            )
        )
        self._open_intents = prepare(
            _ledger()
            .where(certificates.c.certificate.is_(None), revocations.c.serial.is_(None))
            .order_by(certificates.c.recorded_at)
        )
        self._last_expiry = prepare(
            sa.select(sa.func.max(certificates.c.not_after).label("last")).where(
                certificates.c.issuer == sa.bindparam("issuer"), certificates.c.profile != sa.bindparam("but")
            )
        )
        self._status = prepare(_serial_status())
        self._revoke = prepare(_insert_revocation())
        self._block_key = prepare(_insert_once(blocked_keys))
        self._revocations_after = prepare(
            sa.select(revocations)
            .where(revocations.c.sequence > sa.bindparam("after"))
            .order_by(revocations.c.sequence)
            .limit(sa.bindparam("most"))
        )
        self._crl = prepare(sa.select(crls).where(crls.c.issuer == sa.bindparam("issuer")))
        self._first_crl = prepare(_insert(crls))
        self._next_crl = prepare(_replace_crl())

    async def reserve_serials(self, fresh: Sequence[int], at: int) -> None:
        """Commit serials before any of them is used.

        Raises:
            DuplicateError: one of them exists (nothing was reserved).
        """
        writes = [Write(self._reserve, {"serial": format_serial(serial), "reserved_at": at}, 1) for serial in fresh]
        await self._database.commit(Unit("serials", writes))

    async def record_intent(self, intent: Intent, event: AuditEvent, names: Iterable[tuple[str, str]] = ()) -> None:
        """Commit what is about to be signed.

        Args:
            intent: the row.
            event: for the audit log.
            names: kind and name of what the certificate is found by.

        Raises:
            DuplicateError: this caller used this idempotency key before.
            ConflictError: the key in the request is blocked.
        """
        serial = format_serial(intent.serial)
        params = {name: getattr(intent, name) for name in intent.__slots__} | {"serial": serial}
        found = {(kind, path_of(kind, name)) for kind, name in names}
        at = {"recorded_at": intent.recorded_at, "serial": serial}
        found_by = [Write(self._name, {"kind": kind, "path": path, **at}, 1) for kind, path in sorted(found)]
        await self._database.commit(Unit("intent", [Write(self._record_intent, params, 1), *found_by], [event]))

    async def store_certificate(self, serial: int, der: bytes, event: AuditEvent) -> None:
        """Complete an intent.

        Raises:
            ConflictError: it has been completed before.
        """
        write = Write(self._set_certificate, {"of": format_serial(serial), "der": der}, 1)
        await self._database.commit(Unit("certificate", [write], [event]))

    async def by_serial(self, serial: int) -> Ledgered | None:
        """The ledger's row of a serial."""
        row = await self._database.fetch_one(self._by_serial, serial=format_serial(serial))
        return None if row is None else _ledgered(row)

    async def status(self, issuer: str, serial: int) -> SerialStatus | None:
        """The status of a serial under an issuer; None where that issuer never used it."""
        row = await self._database.fetch_one(self._status, issuer=issuer, serial=format_serial(serial))
        return None if row is None else SerialStatus(bool(row["issued"]), row["revoked_at"], row["reason"])

    async def by_idempotency_key(self, caller: str, key: str) -> Ledgered | None:
        """The row that a caller's idempotency key stands for."""
        row = await self._database.fetch_one(self._by_key, caller=caller, idempotency_key=key)
        return None if row is None else _ledgered(row)

    async def open_intents(self) -> list[Ledgered]:
        """Intents that are neither completed nor revoked, oldest first."""
        return [_ledgered(row) for row in await self._database.fetch_all(self._open_intents)]

    async def last_expiry(self, issuer: str, *, but: str) -> int:
        """When the last certificate of an issuer ends, Unix time; 0 where it issued none but those of one profile."""
        row = await self._database.fetch_one(self._last_expiry, issuer=issuer, but=but)
        return 0 if row is None else row["last"] or 0

    async def revoke(self, ledgered: Ledgered, revoked: Revoked, event: AuditEvent, *, block_key: bool) -> None:
        """Revoke; the feed's sequence is given by the database, whatever `revoked` says.

        Raises:
            DuplicateError: it was revoked before; nothing changed.
        """
        params = {
            "serial": format_serial(revoked.serial),
            "issuer": revoked.issuer,
            "revoked_at": revoked.revoked_at,
            "reason": revoked.reason,
            "not_after": revoked.not_after,
            "entry": revoked.entry,
            "shard": revoked.shard,
            "revoked_by": event.actor,
        }
        writes = [Write(self._revoke, params, 1)]
        if block_key:
            writes.append(self._blocking(ledgered.intent.key_hash, revoked.revoked_at))
        await self._database.commit(Unit("revocation", writes, [event]))

    async def block_key(self, key_hash: bytes, at: int, event: AuditEvent) -> None:
        """Never certify this key (SHA-256 of its SubjectPublicKeyInfo) again; does nothing twice."""
        await self._database.commit(Unit("blocked key", [self._blocking(key_hash, at)], [event]))

    def _blocking(self, key_hash: bytes, at: int) -> Write:
        params = {"key_hash": key_hash, "blocked_at": at, "reason": "keyCompromise", "blocked_by": ""}
        return Write(self._block_key, params, None)

    async def revocations_after(self, sequence: int, most: int) -> list[Revoked]:
        """Revocations with a higher sequence, in order, at most so many."""
        rows = await self._database.fetch_all(self._revocations_after, after=sequence, most=most)
        return [_revoked(row) for row in rows]

    async def crl(self, issuer: str) -> StoredCrl | None:
        """The newest CRL of an issuer."""
        row = await self._database.fetch_one(self._crl, issuer=issuer)
        if row is None:
            return None
        return StoredCrl(**{name: row[name] for name in StoredCrl.__slots__})

    async def store_crl(self, crl: StoredCrl, event: AuditEvent) -> None:
        """Make this the newest CRL of its issuer, before anybody sees it.

        Raises:
            ConflictError: the newest is not the one before it (somebody else published).
            DuplicateError: likewise, for the first one.
        """
        params = {name: getattr(crl, name) for name in crl.__slots__}
        write = Write(self._first_crl, params, 1)
        if crl.number > 1:
            renamed = {"of": params.pop("issuer"), "previous": crl.number - 1, "before": crl.this_update}
            write = Write(self._next_crl, params | renamed, 1)
        await self._database.commit(Unit("crl", [write], [event]))


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})


def _insert_once(table: sa.Table) -> sa.Insert:
    """Insert unless the primary key is there already; both engines count the rows alike."""
    key = next(iter(table.primary_key.columns))
    present = sa.exists().where(key == sa.bindparam(key.name, type_=key.type))
    values = [sa.bindparam(column.name, type_=column.type) for column in table.c]
    return sa.insert(table).from_select(list(table.c), sa.select(*values).where(~present))


def _insert_unless_blocked() -> sa.Insert:
    """Step 6 and the block list in one statement, so that no key slips in between look-up and insert."""
    blocked = sa.exists().where(blocked_keys.c.key_hash == sa.bindparam("key_hash", type_=sa.LargeBinary))
    values = [sa.bindparam(column.name, type_=column.type) for column in _LEDGER_COLUMNS]
    return sa.insert(certificates).from_select(list(_LEDGER_COLUMNS), sa.select(*values).where(~blocked))


def _insert_revocation() -> sa.Insert:
    """The next sequence is read in the same statement, so that the database's one writer leaves no gaps."""
    columns = [column for column in revocations.c if column is not revocations.c.sequence]
    following = sa.select(sa.func.coalesce(sa.func.max(revocations.c.sequence), 0) + 1).scalar_subquery()
    values = [sa.bindparam(column.name, type_=column.type) for column in columns]
    return sa.insert(revocations).from_select([revocations.c.sequence, *columns], sa.select(following, *values))


def _replace_crl() -> sa.Update:
    return (
        sa.update(crls)
        .where(
            crls.c.issuer == sa.bindparam("of"),
            crls.c.number == sa.bindparam("previous"),
            crls.c.this_update < sa.bindparam("before"),
        )
        .values({name: sa.bindparam(name) for name in ("number", "this_update", "next_update", "der", "base_number")})
    )


def _ledger() -> sa.Select[tuple[object, ...]]:
    reported = sa.exists().where(blocked_keys.c.key_hash == certificates.c.key_hash)
    blocked = sa.case((reported, 1), else_=0).label("blocked")
    return sa.select(certificates, revocations.c.revoked_at, revocations.c.reason, blocked).join(
        revocations, revocations.c.serial == certificates.c.serial, isouter=True
    )


def _serial_status() -> sa.Select[tuple[object, ...]]:
    issued = sa.case((certificates.c.certificate.is_not(None), 1), else_=0).label("issued")
    return (
        sa.select(issued, revocations.c.revoked_at, revocations.c.reason)
        .join_from(certificates, revocations, revocations.c.serial == certificates.c.serial, isouter=True)
        .where(certificates.c.serial == sa.bindparam("serial"), certificates.c.issuer == sa.bindparam("issuer"))
    )


def _ledgered(row: Row) -> Ledgered:
    fields = {name: row[name] for name in Intent.__slots__} | {"serial": int(row["serial"], 16)}
    return Ledgered(Intent(**fields), row["certificate"], row["revoked_at"], row["reason"], bool(row["blocked"]))


def _revoked(row: Row) -> Revoked:
    return Revoked(**{name: row[name] for name in Revoked.__slots__} | {"serial": int(row["serial"], 16)})
