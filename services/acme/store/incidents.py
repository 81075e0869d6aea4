"""Incidents and the certificates that they concern. What concerns thousands is one statement per thousands.

An incident is prepared (`closed_at` is 0) until all that it concerns is with it, and then open at once (NULL); so that
a process that dies in between leaves nothing that anybody would be told of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from pkicore.encoding import base64url_encode
from services.acme.identifiers import Identifier
from services.acme.incidents.wire import MAX_SERIALS, Selection
from services.acme.schema import accounts, certificates, incident_certificates, incidents, orders
from services.acme.store.rows import identifiers_of
from services.chassis.database import AuditEvent, Database, Prepared, Row, Unit, Write

ADDED_BATCH: Final = 5000  # certificates that are added by one commit
PREPARED: Final = 0  # in closed_at
_AT_ONCE: Final = 2000  # what one statement looks up by ids
BACKDATED_SECONDS: Final = 3600  # by the CA's profiles: certificates from before their time was kept were issued then

_ID: Final[BindParameter[Any]] = bindparam("incident")
_AFTER: Final[BindParameter[Any]] = bindparam("after")
_ISSUED: Final = func.coalesce(certificates.c.issued_at, certificates.c.not_before + BACKDATED_SECONDS)
_SERIALS: Final = certificates.c.serial.in_([bindparam(f"serial_{place}") for place in range(MAX_SERIALS)])
_CRITERIA: Final[dict[str, ColumnElement[bool]]] = {
    "serials": _SERIALS,
    "issuer_key": func.substr(certificates.c.cert_id, 1, bindparam("length")) == bindparam("prefix"),
    "profile": orders.c.profile == bindparam("profile"),
    "account": certificates.c.account_id == bindparam("account"),
    "issued_from": _ISSUED.between(bindparam("issued_from"), bindparam("issued_to")),
}
_concerned: Final = incident_certificates.alias("concerned")
_replacing: Final = orders.alias("replacing")

# In one of two ways is something replaced: by an order that said so, and whose own certificate is not concerned; or by
# a later one of the same account, profile and names, of which `later` tells.
_SAID: Final = exists().where(
    _replacing.c.id == certificates.c.replaced_by,
    _replacing.c.status == "valid",
    ~exists().where(
        _concerned.c.incident_id == incident_certificates.c.incident_id,
        _concerned.c.certificate_id == _replacing.c.certificate_id,
    ),
)
_STATE: Final = case(
    (_SAID, "replaced"),
    (certificates.c.revoked_at.is_not(None), "revoked"),
    (certificates.c.not_after < bindparam("now"), "expired"),
    else_="at_risk",
)
_PIECE: Final[Select[Any]] = (
    select(certificates.c.id, certificates.c.account_id, certificates.c.order_id, _STATE.label("state"))
    .join_from(incident_certificates, certificates, certificates.c.id == incident_certificates.c.certificate_id)
    .where(incident_certificates.c.incident_id == _ID, incident_certificates.c.certificate_id > _AFTER)
    .order_by(incident_certificates.c.certificate_id)
    .limit(bindparam("most"))
)
_judged: Final = _PIECE.subquery()
_COUNTED: Final = select(_judged.c.state, func.count().label("n"), func.max(_judged.c.id).label("last")).group_by(
    _judged.c.state
)
_NAMES: Final = select(orders.c.id, orders.c.profile, orders.c.identifiers).where(
    orders.c.id.in_([bindparam(f"id_{place}") for place in range(_AT_ONCE)])
)
_SHOWN: Final = (
    select(
        certificates.c.id,
        certificates.c.serial,
        certificates.c.account_id,
        certificates.c.not_after,
        orders.c.identifiers,
        orders.c.profile,
        accounts.c.contacts,
    )
    .select_from(
        certificates.join(orders, orders.c.id == certificates.c.order_id).join(
            accounts, accounts.c.id == certificates.c.account_id
        )
    )
    .where(certificates.c.id.in_([bindparam(f"id_{place}") for place in range(_AT_ONCE)]))
)
_ACCOUNTS: Final = (
    select(certificates.c.account_id)
    .join_from(incident_certificates, certificates, certificates.c.id == incident_certificates.c.certificate_id)
    .where(incident_certificates.c.incident_id == _ID)
)
# By when they were issued: what is as old as the incident is not looked at. Their orders are valid, or there were none.
_LATER: Final = (
    select(certificates.c.account_id, orders.c.profile, orders.c.identifiers)
    .join_from(certificates, orders, orders.c.id == certificates.c.order_id)
    .where(
        certificates.c.issued_at >= bindparam("since"),
        certificates.c.account_id.in_(_ACCOUNTS),
        ~exists().where(_concerned.c.incident_id == _ID, _concerned.c.certificate_id == certificates.c.id),
        certificates.c.revoked_at.is_(None),
        certificates.c.not_after > bindparam("now"),
    )
)

Later = Mapping[tuple[str, str], AbstractSet[bytes]]
"""What was issued since an incident was opened: by account and profile, the names of each."""


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident as stored."""

    id: str
    opened_at: int
    opened_by: str
    reason: str
    explanation_url: str
    closed_at: int | None

    @property
    def state(self) -> str:
        """Prepared, open or closed."""
        return "open" if self.closed_at is None else "prepared" if self.closed_at == PREPARED else "closed"


class ConcernedRow(NamedTuple):
    """What has become of a certificate that an incident concerns: replaced, revoked, expired or at_risk."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A certificate as operators see it, with its order's names and its account's contacts."""

    id: str
    serial: str
    account_id: str
    not_after: int
    identifiers: tuple[Identifier, ...]
    profile: str
    contacts: tuple[str, ...]


class IncidentStore:
    """All methods raise `services.chassis.errors.DatabaseError`; conditional writes its ConflictError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        newest = select(incidents).order_by(incidents.c.opened_at.desc(), incidents.c.id)
        seen = incidents.c.closed_at.is_distinct_from(PREPARED)
        mine = incident_certificates.c.incident_id == _ID
        self._one = database.prepare(select(incidents).where(incidents.c.id == _ID))
        self._listed = database.prepare(newest.where(seen).limit(bindparam("most")))
        self._all_open = database.prepare(newest.where(incidents.c.closed_at.is_(None)))
        self._insert = database.prepare(insert(incidents))
        self._open = database.prepare(
            update(incidents)
            .where(incidents.c.id == _ID, incidents.c.closed_at == PREPARED)
            .values(
                closed_at=None,
                opened_at=bindparam("now"),
                opened_by=bindparam("by"),
                window_start=bindparam("begin"),
                window_end=bindparam("end"),
            )
        )
        self._close = database.prepare(
            update(incidents)
            .where(incidents.c.id == _ID, incidents.c.closed_at.is_(None))
            .values(closed_at=bindparam("now"))
        )
        self._forget = database.prepare(
            delete(incident_certificates).where(
                incident_certificates.c.incident_id.in_(
                    select(incidents.c.id).where(incidents.c.id == _ID, incidents.c.closed_at == PREPARED)
                )
            )
        )
        self._discard = database.prepare(
            delete(incidents).where(incidents.c.id == _ID, incidents.c.closed_at == PREPARED)
        )
        self._abandoned = database.prepare(
            select(incidents.c.id).where(incidents.c.closed_at == PREPARED, incidents.c.opened_at < bindparam("before"))
        )
        self._last = database.prepare(select(func.max(incident_certificates.c.certificate_id).label("id")).where(mine))
        self._count = database.prepare(select(func.count().label("n")).select_from(incident_certificates).where(mine))
        self._known = database.prepare(
            select(func.count(func.distinct(certificates.c.serial)).label("n")).where(_SERIALS)
        )
        self._piece = database.prepare(_PIECE)
        self._counted = database.prepare(_COUNTED)
        self._names = database.prepare(_NAMES)
        self._shown = database.prepare(_SHOWN)
        self._later = database.prepare(_LATER)
        self._selections: dict[frozenset[str], tuple[Prepared, Prepared]] = {}

    async def one(self, incident_id: str) -> IncidentRow | None:
        """The incident with this id, prepared ones too."""
        row = await self._database.fetch_one(self._one, incident=incident_id)
        return None if row is None else _incident_of(row)

    async def listed(self, most: int) -> list[IncidentRow]:
        """Open and closed ones, the newest first."""
        return [_incident_of(row) for row in await self._database.fetch_all(self._listed, most=most)]

    async def all_open(self) -> list[IncidentRow]:
        """Those that clients are told of."""
        return [_incident_of(row) for row in await self._database.fetch_all(self._all_open)]

    async def prepare(self, incident: IncidentRow) -> None:
        """Store an incident that nobody sees yet."""
        values = {
            "id": incident.id,
            "opened_at": incident.opened_at,
            "opened_by": incident.opened_by,
            "reason": incident.reason,
            "explanation_url": incident.explanation_url,
            "window_start": 0,
            "window_end": 0,
            "closed_at": PREPARED,
        }
        await self._database.commit(Unit("incident-prepared", [Write(self._insert, values)]))

    async def add(self, incident_id: str, selection: Selection, now: int) -> int:
        """Have it concern what is selected and has not expired, some thousands per commit; how many more that are."""
        adding, seeking = self._selection(selection)
        values = _values(selection) | {"incident": incident_id, "now": now, "most": ADDED_BATCH}
        before, after = await self.count(incident_id), ""
        while (last := await self._last_of_some(seeking, values | {"after": after})) is not None:
            write = Write(adding, values | {"after": after, "last": last})
            await self._database.commit(Unit("incident-certificates", [write]))
            after = last
        return await self.count(incident_id) - before

    async def _last_of_some(self, seeking: Prepared, values: Mapping[str, Any]) -> str | None:
        row = await self._database.fetch_one(seeking, **values)
        return None if row is None else row["last"]

    async def known(self, serials: Sequence[str]) -> int:
        """How many of the serials are of certificates of this server."""
        row = await self._database.fetch_one(self._known, **_padded("serial", serials, MAX_SERIALS))
        return 0 if row is None else int(row["n"])

    async def count(self, incident_id: str) -> int:
        """How many certificates it concerns."""
        row = await self._database.fetch_one(self._count, incident=incident_id)
        return 0 if row is None else int(row["n"])

    async def open(self, incident_id: str, by: str, now: int, window: tuple[int, int], audit: AuditEvent) -> None:
        """Have everybody told of a prepared one, at once."""
        values = {"incident": incident_id, "by": by, "now": now, "begin": window[0], "end": window[1]}
        await self._database.commit(Unit("incident-opened", [Write(self._open, values, expect=1)], [audit]))

    async def close(self, incident_id: str, now: int, audit: AuditEvent) -> None:
        """Have nobody told of an open one any more."""
        values = {"incident": incident_id, "now": now}
        await self._database.commit(Unit("incident-closed", [Write(self._close, values, expect=1)], [audit]))

    async def discard(self, incident_id: str) -> None:
        """Forget a prepared one."""
        of = {"incident": incident_id}
        writes = [Write(self._forget, of), Write(self._discard, of, expect=1)]
        await self._database.commit(Unit("incident-discarded", writes))

    async def abandoned(self, before: int) -> list[str]:
        """Those that were prepared before a moment and never opened."""
        return [row["id"] for row in await self._database.fetch_all(self._abandoned, before=before)]

    async def counts(self, incident_id: str, now: int, most: int) -> Counter[str]:
        """How many of the certificates that it concerns are in each state, if nothing was issued later."""
        found, after = Counter[str](), ""
        values = {"incident": incident_id, "now": now, "most": most}
        while rows := [row async for row in self._database.scan(self._counted, after=after, **values)]:
            found.update({row["state"]: row["n"] for row in rows})
            after = max(row["last"] for row in rows)
        return found

    async def piece(self, incident_id: str, now: int, after: str, most: int, later: Later) -> list[ConcernedRow]:
        """Some of the certificates that it concerns, behind one of them, by their ids.

        Names are read only of an account and profile to which something was issued `later`: that may be in their place.
        """
        values = {"incident": incident_id, "now": now, "after": after, "most": most}
        rows = [row async for row in self._database.scan(self._piece, **values)]
        renewing = {account for account, _ in later}
        doubtful = {
            row["order_id"]: row["account_id"]
            for row in rows
            if row["account_id"] in renewing and row["state"] != "replaced"
        }
        replaced = await self._replaced(doubtful, later)
        return [ConcernedRow(row["id"], "replaced" if row["order_id"] in replaced else row["state"]) for row in rows]

    async def _replaced(self, accounts_of: Mapping[str, str], later: Later) -> set[str]:
        """Those of some orders in whose place something later is."""
        found: set[str] = set()
        ids = list(accounts_of)
        for begin in range(0, len(ids), _AT_ONCE):
            values = _padded("id", ids[begin : begin + _AT_ONCE], _AT_ONCE)
            async for row in self._database.scan(self._names, **values):
                names = later.get((accounts_of[row["id"]], row["profile"]))
                if names is not None and _names(row["identifiers"]) in names:
                    found.add(row["id"])
        return found

    async def later(self, incident: IncidentRow, now: int) -> Later:
        """What was issued to the accounts concerned since it was opened, and is in force."""
        found: dict[tuple[str, str], set[bytes]] = {}
        async for row in self._database.scan(self._later, incident=incident.id, since=incident.opened_at, now=now):
            found.setdefault((row["account_id"], row["profile"]), set()).add(_names(row["identifiers"]))
        return found

    async def shown(self, ids: Sequence[str]) -> list[ShownRow]:
        """The certificates with these ids, as operators see them."""
        found: dict[str, ShownRow] = {}
        for begin in range(0, len(ids), _AT_ONCE):
            values = _padded("id", ids[begin : begin + _AT_ONCE], _AT_ONCE)
            found |= {row["id"]: _shown_of(row) async for row in self._database.scan(self._shown, **values)}
        return [found[certificate] for certificate in ids]

    def _selection(self, selection: Selection) -> tuple[Prepared, Prepared]:
        wanted = frozenset(name for name in _CRITERIA if getattr(selection, name) not in ("", None, ()))
        if wanted not in self._selections:
            adding, seeking = _adding([_CRITERIA[name] for name in wanted])
            self._selections[wanted] = self._database.prepare(adding), self._database.prepare(seeking)
        return self._selections[wanted]


def _adding(conditions: Sequence[ColumnElement[bool]]) -> tuple[Insert, Select[Any]]:
    """What adds the certificates behind one and up to another, and what says which that other one is."""
    chosen = (*conditions, certificates.c.not_after > bindparam("now"), certificates.c.id > _AFTER)
    ordered = certificates.join(orders, orders.c.id == certificates.c.order_id)
    already = exists().where(
        incident_certificates.c.incident_id == _ID, incident_certificates.c.certificate_id == certificates.c.id
    )
    adding = insert(incident_certificates).from_select(
        ["incident_id", "certificate_id"],
        select(incidents.c.id, certificates.c.id)
        .select_from(ordered.join(incidents, incidents.c.id == _ID))
        .where(*chosen, certificates.c.id <= bindparam("last"), ~already),
    )
    some = select(certificates.c.id).select_from(ordered).where(*chosen).order_by(certificates.c.id)
    return adding, select(func.max(some.limit(bindparam("most")).subquery().c.id).label("last"))


def _values(selection: Selection) -> dict[str, Any]:
    prefix = base64url_encode(bytes.fromhex(selection.issuer_key)) + "."
    given = {
        "profile": selection.profile,
        "account": selection.account,
        "issued_from": selection.issued_from,
        "issued_to": selection.issued_to,
        "prefix": prefix,
        "length": len(prefix),
    }
    return given | (_padded("serial", selection.serials, MAX_SERIALS) if selection.serials else {})


def _padded(name: str, texts: Sequence[str], places: int) -> dict[str, str]:
    """All parameters of one statement have a value: the last one is said again."""
    padded = [*texts, *[texts[-1]] * (places - len(texts))]
    return {f"{name}_{place}": text for place, text in enumerate(padded)}


def _names(identifiers: str) -> bytes:
    """Those of an order, in one sequence whatever that of the order was."""
    if "},{" not in identifiers:  # one name: neither names nor addresses have braces
        return identifiers.encode()
    return orjson.dumps(sorted((each["type"], each["value"]) for each in orjson.loads(identifiers)))


def _incident_of(row: Row) -> IncidentRow:
    return IncidentRow(
        id=row["id"],
        opened_at=row["opened_at"],
        opened_by=row["opened_by"],
        reason=row["reason"],
        explanation_url=row["explanation_url"],
        closed_at=row["closed_at"],
    )


def _shown_of(row: Row) -> ShownRow:
    return ShownRow(
        id=row["id"],
        serial=row["serial"],
        account_id=row["account_id"],
        not_after=row["not_after"],
        identifiers=identifiers_of(row["identifiers"]),
        profile=row["profile"],
        contacts=tuple(orjson.loads(row["contacts"])),
    )
