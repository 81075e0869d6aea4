"""The SQL that gives certificates of before migration 0004 what they are found by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from services.ca.ledger.names import names_text, path_of
from services.ca.schema import certificate_names, certificates
from services.chassis.database import Database, Unit, Write

_c: Final = certificates.c
_UNNAMED: Final = sa.text("certificates.algorithm = ''")  # word for word as its index has it, or that is not used


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A row without names and algorithm; `tbs` has both."""

    serial: str
    recorded_at: int
    tbs: bytes


@dataclass(frozen=True, slots=True)
class Named:
    """What such a row gets: kind and name of what it is found by, and the algorithm of its key."""

    row: Unnamed
    found_by: Sequence[tuple[str, str]]
    algorithm: str


class NamingStore:
    """Every statement is compiled once, here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unnamed = database.prepare(
            sa.select(_c.serial, _c.recorded_at, _c.tbs)
            .where(_UNNAMED)
            .order_by(_c.serial)
            .limit(sa.bindparam("most", type_=sa.BigInteger))
        )
        self._set = database.prepare(
            sa.update(certificates)
            .where(_c.serial == sa.bindparam("of"), _c.algorithm == "")
            .values(names=sa.bindparam("found"), algorithm=sa.bindparam("by"))
        )
        self._name = database.prepare(
            sa.insert(certificate_names).values({c.name: sa.bindparam(c.name) for c in certificate_names.c})
        )

    async def unnamed(self, most: int) -> Sequence[Unnamed]:
        """Some rows.

        Raises:
            DatabaseError: the database cannot be read.
        """
        rows = await self._database.fetch_all(self._unnamed, most=most)
        return [Unnamed(row["serial"], row["recorded_at"], bytes(row["tbs"])) for row in rows]

    async def name(self, rows: Iterable[Named]) -> None:
        """Commit what they are found by, together.

        Raises:
            ConflictError: one of them got it meanwhile, from another replica; nothing is changed.
            DatabaseError: the database cannot be written.
        """
        writes = [write for row in rows for write in self._writes(row)]
        await self._database.commit(Unit("certificates named", writes))

    def _writes(self, named: Named) -> list[Write]:
        serial, at = named.row.serial, named.row.recorded_at
        values = {"of": serial, "found": names_text(named.found_by), "by": named.algorithm}
        paths = sorted({(kind, path_of(kind, name)) for kind, name in named.found_by})
        inserts = [{"kind": kind, "path": path, "recorded_at": at, "serial": serial} for kind, path in paths]
        return [Write(self._set, values, 1), *(Write(self._name, insert, 1) for insert in inserts)]
