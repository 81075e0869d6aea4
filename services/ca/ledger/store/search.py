"""Searches: the leading filter reads a bounded piece of one index, the others leave rows out of that."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeAlias

import orjson
import sqlalchemy as sa

from pkicore.encoding import pem_join
from services.ca.ledger.names import NamePattern, path_of
from services.ca.ledger.query import CANDIDATES, KEYS, Key, LedgerQuery, Way, format_cursor
from services.ca.ledger.wire import LedgerEntry, LedgerPage
from services.ca.schema import certificate_names, certificates, revocations
from services.chassis.database import Database, Prepared, Row
from services.chassis.fields import MAX_TIME

_Columns: TypeAlias = tuple[sa.ColumnElement[Any], ...]

RELEASED: Final = "removeFromCRL"
"""The reason of a revocation that was a hold and has been released (RFC 5280 §5.3.1): the certificate is good again."""

_c, _n, _r = certificates.c, certificate_names.c, revocations.c
_NEWEST_FIRST: Final = frozenset({"name", "key", "account", "revoked", "pending", "profile", "issuer", "recorded"})
_BY_TIME: Final[_Columns] = (_c.recorded_at, _c.serial)
_COLUMNS: Final[Mapping[Way, _Columns]] = {
    "serial": (_c.serial,),
    "name": (_n.recorded_at, _n.serial),
    "below": (_n.path, _n.recorded_at, _n.serial),
    "ends": (_c.not_after, _c.serial),
    "revoked": (_r.sequence,),
    "issuer": (_c.not_after, _c.serial),
    **dict.fromkeys(("key", "account", "pending", "profile", "recorded"), _BY_TIME),
}
"""What the rows of each way are ordered by; its index begins with the leading filter and goes on with these."""

_FOREVER: Final = MAX_TIME + 1
_SHOWN: Final = (
    *(_c.issuer, _c.profile, _c.caller, _c.account, _c.names, _c.algorithm, _c.key_hash),
    *(_c.not_before, _c.not_after, _c.recorded_at, _c.requester, _r.revoked_at, _r.reason, _r.revoked_by),
)


class LedgerSearch:
    """Pages of the ledger; each way has one statement for the first page and one for those that follow.

    They are compiled when they are first asked for: all of them would be a good part of what a start costs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages: dict[tuple[Way, bool], Prepared] = {}
        self._one = database.prepare(_entry())

    async def page(self, query: LedgerQuery, now: int) -> LedgerPage:
        """The rows that meet the query at a time, and where they go on; costs no more in a large ledger.

        Raises:
            DatabaseError: the database cannot be read.
        """
        way, cursor = query.way, query.after
        found: list[Row] = []
        for candidates in (
            query.limit,
            CANDIDATES,
        ):  # where the first rows do not fill the page, many more are looked at
            statement = self._page_of(way, follows=cursor is not None)
            values = page_values(query, now, cursor) | {"candidates": candidates, "most": query.limit - len(found)}
            rows = [row async for row in self._database.scan(statement, **values)]
            found += [row for row in rows if row["matches"] and _has_names(row, query)]
            ended = len(rows) < values["most"] and (not rows or rows[-1]["candidate"] < candidates)
            cursor = None if ended else _key(way, rows[-1])
            if ended or len(found) == query.limit:
                break
        following = None if cursor is None else format_cursor(way, cursor)
        return LedgerPage(tuple(_entry_of(row) for row in found), following)

    async def entries(self, query: LedgerQuery, now: int) -> AsyncIterator[LedgerEntry]:
        """All rows that meet the query, page by page.

        Raises:
            DatabaseError: the database cannot be read.
        """
        while True:
            page = await self.page(query, now)
            for entry in page.certificates:
                yield entry
            if page.next is None:
                return
            query = query.following(page.next)

    def _page_of(self, way: Way, *, follows: bool) -> Prepared:
        if (way, follows) not in self._pages:
            self._pages[way, follows] = self._database.prepare(page_statement(way, follows=follows))
        return self._pages[way, follows]

    async def entry(self, serial: str, now: int) -> LedgerEntry | None:
        """The row of a serial (lower-case hex), with its certificate.

        Raises:
            DatabaseError: the database cannot be read.
        """
        row = await self._database.fetch_one(self._one, serial=serial, now=now)
        return None if row is None else _entry_of(row, row["certificate"])


def page_statement(way: Way, *, follows: bool) -> sa.Select[Any]:
    """A page of a way: its first one, or one that follows a key."""
    order = _COLUMNS[way]
    serial = _r.serial if way == "revoked" else order[-1]
    within = [_leads(way)]
    if follows:
        last = sa.tuple_(*(sa.bindparam(f"last_{n}", type_=column.type) for n, column in enumerate(order)))
        within.append(sa.tuple_(*order) < last if way in _NEWEST_FIRST else sa.tuple_(*order) > last)
    keys = [column.label(f"key_{n}") for n, column in enumerate(order)]
    piece = (
        sa.select(*keys, serial.label("serial"))
        .where(*within)
        .order_by(*(column.desc() if way in _NEWEST_FIRST else column for column in order))
        .limit(sa.bindparam("candidates", type_=sa.BigInteger))
        .subquery("piece")
    )
    return _met(way, piece)


def _met(way: Way, piece: sa.Subquery) -> sa.Select[Any]:
    """Of a piece of an index, the rows that meet every filter, and the last one of a full piece whatever it is."""
    order = [piece.c[f"key_{n}"] for n in range(len(_COLUMNS[way]))]
    by_key = [column.desc() if way in _NEWEST_FIRST else column for column in order]
    candidate = sa.func.row_number().over(order_by=by_key).label("candidate")
    numbered = sa.select(piece, candidate).subquery("numbered")
    joined = numbered.join(certificates, _c.serial == numbered.c.serial).join(
        revocations, _r.serial == _c.serial, isouter=True
    )
    status, candidates = _status_of_row(), sa.bindparam("candidates", type_=sa.BigInteger)
    matches = sa.case((_meets(status), 1), else_=0)
    rows = sa.select(numbered, *_SHOWN, status.label("status"), matches.label("matches")).select_from(joined)
    return (
        rows.where(sa.or_(matches == 1, numbered.c.candidate == candidates))
        .order_by(numbered.c.candidate)
        .limit(sa.bindparam("most", type_=sa.BigInteger))
    )


def _leads(way: Way) -> sa.ColumnElement[bool]:
    """The leading filter."""
    named = _n.kind == sa.bindparam("kind")
    conditions: dict[Way, sa.ColumnElement[bool]] = {
        "serial": _c.serial == sa.bindparam("serial"),
        "name": sa.and_(named, _n.path == sa.bindparam("path")),
        "below": sa.and_(named, _n.path >= sa.bindparam("path"), _n.path < sa.bindparam("end")),
        "key": _c.key_hash == sa.bindparam("key"),
        "account": _c.account == sa.bindparam("account"),
        "ends": sa.and_(_c.not_after >= sa.bindparam("from"), _c.not_after < sa.bindparam("to")),
        "revoked": _r.sequence >= 0,
        "pending": _c.certificate.is_(None),
        "profile": _c.profile == sa.bindparam("profile"),
        "issuer": _c.issuer == sa.bindparam("issuer"),
        "recorded": _c.recorded_at >= 0,
    }
    return conditions[way]


def _meets(status: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Every filter but names, each of which may be absent: NULL stands for the column's own value."""
    return sa.and_(
        _c.account == _or_own("only_account", _c.account),
        _c.key_hash == _or_own("only_key", _c.key_hash),
        _c.issuer == _or_own("only_issuer", _c.issuer),
        _c.profile == _or_own("only_profile", _c.profile),
        _c.not_after >= _or_own("ends_after", _c.not_after),
        _c.not_after <= _or_own("ends_by", _c.not_after),
        status == _or_own("status", status),
    )


def _or_own(name: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.cast(sa.bindparam(name, type_=column.type), column.type), column)


def _status_of_row() -> sa.ColumnElement[str]:
    return sa.case(
        (sa.and_(_r.serial.is_not(None), _r.reason != RELEASED), "revoked"),
        (_c.certificate.is_(None), "pending"),
        (_c.not_after < sa.bindparam("now", type_=sa.BigInteger), "expired"),
        else_="good",
    )


def _entry() -> sa.Select[Any]:
    return (
        sa.select(_c.serial, _c.certificate, *_SHOWN, _status_of_row().label("status"))
        .join_from(certificates, revocations, _r.serial == _c.serial, isouter=True)
        .where(_c.serial == sa.bindparam("serial"))
    )


def page_values(query: LedgerQuery, now: int, after: Key | None) -> dict[str, Any]:
    """The parameters of every way's statements; each takes those that it has.

    A range begins where the page before has ended: else each page would read its way there.
    """
    values: dict[str, Any] = {f"last_{n}": part for n, part in enumerate(after or ())}
    values |= {f"only_{name}": getattr(query, name) for name in ("account", "key", "issuer", "profile")}
    values |= {name: getattr(query, name) for name in ("serial", "key", "account", "profile", "issuer", "status")}
    pattern = query.name
    if pattern is None and query.common_name is not None:
        pattern = NamePattern("common_name", path_of("common_name", query.common_name))
    if pattern is not None:
        reached = after[0] if after is not None and query.way == "below" else b""
        values |= {"kind": pattern.kind, "path": max(pattern.path, reached), "end": pattern.end}
    starts = [query.ends_after or 0, now if query.status == "good" else 0]
    starts += [after[0]] if after is not None and query.way == "ends" else []
    stops = [
        _FOREVER if query.ends_before is None else query.ends_before,
        now if query.status == "expired" else _FOREVER,
    ]
    return values | {
        "from": max(starts),
        "to": min(stops),
        "ends_after": query.ends_after,
        "ends_by": None if query.ends_before is None else query.ends_before - 1,
        "now": now,
    }


def _key(way: Way, row: Row) -> Key:
    return tuple(row[f"key_{n}"] for n in range(len(KEYS[way])))


def _has_names(row: Row, query: LedgerQuery) -> bool:
    """Whether a row meets the filters by name; one that leads does so once, by the first of its names that does."""
    names = orjson.loads(row["names"])
    if query.common_name is not None and query.common_name not in names.get("common_name", ()):
        return False
    pattern = query.name
    if pattern is None:
        return True
    paths = sorted(path for name in names.get(pattern.kind, ()) if pattern.matches(path := path_of(pattern.kind, name)))
    return bool(paths) and (query.way != "below" or paths[0] == row["key_0"])


def _entry_of(row: Row, certificate: bytes | None = None) -> LedgerEntry:
    is_revoked = row["status"] == "revoked"
    requester = orjson.loads(row["requester"])
    return LedgerEntry(
        serial=row["serial"],
        status=row["status"],
        issuer=row["issuer"],
        profile=row["profile"],
        caller=row["caller"],
        account=row["account"],
        names=orjson.loads(row["names"]),
        algorithm=row["algorithm"],
        key_hash=bytes(row["key_hash"]).hex(),
        not_before=row["not_before"],
        not_after=row["not_after"],
        recorded_at=row["recorded_at"],
        validated=requester.pop("validated", ""),  # rows of before have none
        decision=requester.pop("decision", ""),
        requester=requester,
        revoked_at=row["revoked_at"] if is_revoked else None,
        reason=row["reason"] if is_revoked else None,
        revoked_by=(row["revoked_by"] or None) if is_revoked else None,
        certificate=None if certificate is None else pem_join("CERTIFICATE", certificate).decode(),
    )
