"""The SQL of issuance. Rows go in and come out as the frozen records below."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from services.ca.ledger.names import path_of
from services.ca.revocation_store import IN_FORCE, RevocationStore, in_force
from services.ca.schema import blocked_keys, certificate_names, certificates, revocations, serials
from services.ca.wire import format_serial
from services.chassis.database import AuditEvent, Database, Prepared, Row, Unit, Write

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


class CaStore(RevocationStore):
    """Every statement is compiled once, here."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        prepare = database.prepare
        self._reserve: dict[int, Prepared] = {}
        self._touch_blocked = prepare(_touch_blocked())
        self._record_intent = prepare(_insert_intent())
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
            .where(certificates.c.certificate.is_(None), sa.or_(revocations.c.serial.is_(None), ~IN_FORCE))
            .order_by(certificates.c.recorded_at)
        )
        self._last_expiry = prepare(
            sa.select(sa.func.max(certificates.c.not_after).label("last")).where(
                certificates.c.issuer == sa.bindparam("issuer"), certificates.c.profile != sa.bindparam("but")
            )
        )

    async def reserve_serials(self, fresh: Sequence[int], at: int) -> None:
        """Commit serials before any of them is used.

        Raises:
            DuplicateError: one of them exists (nothing was reserved).
        """
        count = len(fresh)
        if count not in self._reserve:  # it is the same each time
            self._reserve[count] = self._database.prepare(_insert_serials(count))
        params = {f"serial_{index}": format_serial(serial) for index, serial in enumerate(fresh)}
        await self._database.commit(Unit("serials", [Write(self._reserve[count], {**params, "at": at}, count)]))

    async def record_intent(
        self,
        intent: Intent,
        event: AuditEvent,
        names: Iterable[tuple[str, str]] = (),
        account_key: bytes | None = None,
    ) -> None:
        """Commit what is about to be signed.

        Args:
            intent: the row.
            event: for the audit log.
            names: kind and name of what the certificate is found by.
            account_key: SHA-256 of the key that the requester signed with.

        Raises:
            DuplicateError: this caller used this idempotency key before.
            ConflictError: the key in the request is blocked (write 0), or the account's is (write 1).
        """
        serial = format_serial(intent.serial)
        params = {name: getattr(intent, name) for name in intent.__slots__} | {"serial": serial}
        found = {(kind, path_of(kind, name)) for kind, name in names}
        at = {"recorded_at": intent.recorded_at, "serial": serial}
        found_by = [Write(self._name, {"kind": kind, "path": path, **at}, 1) for kind, path in sorted(found)]
        keys = [intent.key_hash] if account_key is None else [intent.key_hash, account_key]
        unblocked = [Write(self._touch_blocked, {"of": key}, 0) for key in keys]
        writes = [*unblocked, Write(self._record_intent, params, 1), *found_by]
        await self._database.commit(Unit("intent", writes, [event]))

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


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})


def _insert_serials(count: int) -> sa.Insert:
    at = sa.bindparam("at", type_=sa.BigInteger)
    names = [sa.bindparam(f"serial_{index}", type_=sa.Text) for index in range(count)]
    return sa.insert(serials).values([{"serial": name, "reserved_at": at} for name in names])


def _touch_blocked() -> sa.Update:
    """Changes a row, to what it is, where the key is blocked: a write that expects none is refused then."""
    kept = blocked_keys.c.reason
    return sa.update(blocked_keys).where(blocked_keys.c.key_hash == sa.bindparam("of")).values(reason=kept)


def _insert_intent() -> sa.Insert:
    return sa.insert(certificates).values({column.name: sa.bindparam(column.name) for column in _LEDGER_COLUMNS})


def _ledger() -> sa.Select[tuple[object, ...]]:
    reported = sa.exists().where(blocked_keys.c.key_hash == certificates.c.key_hash)
    blocked = sa.case((reported, 1), else_=0).label("blocked")
    return sa.select(certificates, in_force(revocations.c.revoked_at), in_force(revocations.c.reason), blocked).join(
        revocations, revocations.c.serial == certificates.c.serial, isouter=True
    )


def _ledgered(row: Row) -> Ledgered:
    fields = {name: row[name] for name in Intent.__slots__} | {"serial": int(row["serial"], 16)}
    return Ledgered(Intent(**fields), row["certificate"], row["revoked_at"], row["reason"], bool(row["blocked"]))
