"""The SQL of revocation: what last happened to each serial, the feed, what a selector selects, and the newest CRLs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import sqlalchemy as sa

from pkicore.crl import entries_start, stated_size
from pkicore.errors import MalformedError
from services.ca.crl_lists import CrlList
from services.ca.ledger.names import path_of
from services.ca.schema import blocked_keys, certificate_names, certificates, crls, revocations
from services.ca.selection import Act, Position, Selector
from services.ca.wire import format_serial
from services.chassis.database import AuditEvent, Database, Prepared, Row, Unit, Write

HELD: Final = "certificateHold"
RELEASED: Final = "removeFromCRL"
_COMPROMISED: Final = "keyCompromise"
HOUR: Final = 3600
_EVERYTHING: Final = 2**62  # no sequence comes near it
"""Seconds in which certificates end whose entries leave together."""
IN_FORCE: Final = revocations.c.reason != RELEASED
"""Joins those revocations that hold now: a hold that was released says nothing of its certificate any more."""


class Revoked(NamedTuple):
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
    number, `sequence` and `this_update` of the list that it builds on. Certificates that had ended in an hour before
    `ended_before` are not on it.
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
    ended_before: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether its final entries are in `der`."""
        return stated_size(self.der) == len(self.der)

    def without(self, octets: int) -> Self:
        """Without its final entries, which are the first ones and have so many octets."""
        start = entries_start(self.der)
        return replace(self, der=self.der[:start] + self.der[start + octets :])

    def completed(self, final: Iterable[bytes]) -> Self:
        """With its final entries.

        Raises:
            MalformedError: they are others than it was made of.
        """
        start = entries_start(self.der)
        whole = replace(self, der=b"".join((self.der[:start], *final, self.der[start:])))
        if not whole.is_whole:
            raise MalformedError(f"CRL {self.number} of {self.issuer} had other entries than the ledger has")
        return whole


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
        self._blocked = prepare(sa.select(blocked_keys.c.reason).where(blocked_keys.c.key_hash == sa.bindparam("of")))
        self._revocations_after = prepare(
            sa.select(*(column for column in revocations.c if column.name in Revoked._fields))
            .where(revocations.c.sequence > sa.bindparam("after"))
            .order_by(revocations.c.sequence)
            .limit(sa.bindparam("most"))
        )
        self._crl = prepare(sa.select(crls).where(crls.c.issuer == sa.bindparam("issuer")))
        self._lists = prepare(sa.select(crls.c.issuer).order_by(crls.c.issuer))
        self._final = prepare(_final_entries())
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

        Args:
            candidate: as it was read.
            happened: to it.
            event: says so in the audit log.
            block_key: puts its key on the block list, if it is not there, and says so in the audit log.

        Raises:
            ConflictError, DuplicateError: something else happened since the candidate was read; nothing changed.
        """
        params = happened._asdict()
        del params["sequence"]
        params |= {"serial": format_serial(happened.serial), "revoked_by": event.actor}
        if candidate.sequence:
            writes = [Write(self._next_event, params | {"of": params.pop("serial"), "was": candidate.sequence}, 1)]
        else:
            writes = [Write(self._first_event, params, 1)]
        events = [event]
        if block_key and not await self._is_blocked(candidate.key_hash):
            writes.append(self._blocking(candidate.key_hash, happened.revoked_at, event.actor))
            events.append(blocked_with(candidate.key_hash, candidate.serial, event.actor))
        await self._database.commit(Unit("revocation", writes, events))

    async def block_key(self, key_hash: bytes, at: int, event: AuditEvent) -> None:
        """Never certify this key (SHA-256 of its SubjectPublicKeyInfo) again.

        Raises:
            ConflictError, DuplicateError: it is blocked already; nothing changed.
        """
        await self._database.commit(Unit("blocked key", [self._blocking(key_hash, at, event.actor)], [event]))

    def _blocking(self, key_hash: bytes, at: int, by: str) -> Write:
        params = {"key_hash": key_hash, "blocked_at": at, "reason": _COMPROMISED, "blocked_by": by}
        return Write(self._block_key, params, 1)

    async def _is_blocked(self, key_hash: bytes) -> bool:
        return await self._database.fetch_one(self._blocked, of=key_hash) is not None

    async def status(self, issuer: str, serial: int) -> SerialStatus | None:
        """The status of a serial under an issuer; None where that issuer never used it."""
        row = await self._database.fetch_one(self._status, issuer=issuer, serial=format_serial(serial))
        return None if row is None else SerialStatus(bool(row["issued"]), row["revoked_at"], row["reason"])

    async def revocations_after(self, sequence: int, most: int) -> list[Revoked]:
        """What happened with a higher sequence, in order, at most so many."""
        rows = await self._database.fetch_all(self._revocations_after, after=sequence, most=most)
        return [_revoked(row) for row in rows]

    async def final_entries(self, issuer: str) -> list[bytes]:
        """The CRL entries of what an issuer has revoked for good, in order."""
        return [row["entry"] async for row in self._database.scan(self._final, issuer=issuer, until=_EVERYTHING)]

    async def lists(self) -> list[str]:
        """The path of every list there is, below /crl."""
        return [row["issuer"] for row in await self._database.fetch_all(self._lists)]

    async def crl_row(self, issuer: str) -> StoredCrl | None:
        """The newest CRL of a list as it lies in the database: a large one without its final entries."""
        row = await self._database.fetch_one(self._crl, issuer=issuer)
        return None if row is None else StoredCrl(**{name: row[name] for name in _CRL})

    async def crl(self, issuer: str) -> StoredCrl | None:
        """The newest CRL of a list; a large one takes a look at every revocation.

        Raises:
            MalformedError: its entries are not those of the ledger.
        """
        row = await self.crl_row(issuer)
        return row if row is None or row.is_whole else row.completed(await self._final_of(row))

    async def _final_of(self, crl: StoredCrl) -> list[bytes]:
        """As `crl_entries.ShardEntries` has them in memory: by shard, hour and place in the feed."""
        of = CrlList.parse(crl.issuer)
        if of is None:
            raise MalformedError("deltas have all their entries")
        entries = defaultdict[tuple[int, int], list[bytes]](list)
        async for row in self._database.scan(self._final, issuer=of.issuer, until=crl.sequence):
            if of.shard in {0, row["shard"]}:
                entries[row["shard"], row["not_after"] // HOUR].append(row["entry"])
        return [b"".join(entries[at]) for at in sorted(entries) if (at[1] + 1) * HOUR > crl.ended_before]

    async def store_crl(self, crl: StoredCrl, event: AuditEvent) -> None:
        """Make this the newest CRL of its list, before anybody sees it.

        Raises:
            ConflictError: the newest is not the one before it (somebody else published).
            DuplicateError: likewise, for the first one.
        """
        write = _first(self._first_crl, crl) if crl.number == 1 else self._following_crl(crl)
        await self._database.commit(Unit("crl", [write], [event]))

    async def store_lists(
        self, delta: StoredCrl, crl: StoredCrl | None, event: AuditEvent, *, is_first: bool, final_octets: int = 0
    ) -> None:
        """Make this the newest delta of its list, and `crl` the newest complete CRL, before anybody sees them.

        Each publication has a delta, so that it is there that two which publish at once meet.

        Args:
            delta: has the list's next number.
            crl: of the same number; None where the delta comes alone.
            event: says so in the audit log.
            is_first: whether this list never had a delta.
            final_octets: of the final entries of `crl`; those of a large list are not stored again.

        Raises:
            ConflictError, DuplicateError: somebody else published.
        """
        writes = [_first(self._first_crl, delta) if is_first else self._following_crl(delta)]
        if crl is not None:
            row = crl if len(crl.der) <= _WHOLE else crl.without(final_octets)
            writes += [Write(self._no_crl, {"of": crl.issuer}), _first(self._first_crl, row)]
        await self._database.commit(Unit("crl", writes, [event]))

    def _following_crl(self, crl: StoredCrl) -> Write:
        params = {name: getattr(crl, name) for name in _CRL if name != "issuer"}
        renamed = {"of": crl.issuer, "previous": crl.number - 1, "before": crl.this_update}
        return Write(self._next_crl, params | renamed, 1)


_WHOLE: Final = 1 << 14  # octets from which a list is stored without its final entries
_CRL: Final = StoredCrl.__slots__


def in_force(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """A column of the revocation that holds now; NULL where none does."""
    return sa.case((IN_FORCE, column)).label(column.name)


def blocked_with(key_hash: bytes, serial: int, by: str) -> AuditEvent:
    """What the audit log says of a key that is blocked with a certificate."""
    detail = {"key_hash": key_hash.hex(), "reason": _COMPROMISED, "serial": format_serial(serial)}
    return AuditEvent("key.blocked", by, detail)


def _first(prepared: Prepared, crl: StoredCrl) -> Write:
    return Write(prepared, {name: getattr(crl, name) for name in _CRL}, 1)


def _final_entries() -> sa.Select[Any]:
    of = revocations.c
    return (
        sa.select(of.shard, of.not_after, of.entry)
        .where(of.issuer == sa.bindparam("issuer"), of.sequence <= sa.bindparam("until"))
        .where(of.reason.not_in((HELD, RELEASED)))
        .order_by(of.sequence)
    )


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
