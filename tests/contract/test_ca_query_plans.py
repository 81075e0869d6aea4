"""What the CA reads for each of its statements: an index, however large the ledger is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pkicore.clock import from_unix
from services.ca.app import MIGRATIONS
from services.ca.block_list.store import BlockListStore
from services.ca.ledger.store.counts import CountStore
from services.ca.ledger.store.naming import NamingStore
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.store.search import LedgerSearch
from services.ca.store import CaStore
from services.chassis.database import Database, Prepared
from tests.support.clock import ManualClock
from tests.support.ledger_rows import NOW, Row, add_rows
from tests.support.migrated import migrated
from tests.support.query_plans import assert_indexed, plan_of

STORES: dict[str, Any] = {
    "issuance and revocation": CaStore,
    "block list": BlockListStore,
    "search": LedgerSearch,
    "refusals": RefusalStore,
    "naming": NamingStore,
    "counts": lambda database: CountStore(database, 3),
}


class Noting(Database):
    """A database that notes what is prepared for it."""

    def prepare(self, statement: Any) -> Prepared:  # noqa: ANN401 -- any statement
        """As ever."""
        prepared = super().prepare(statement)
        self.__dict__.setdefault("prepared", []).append(prepared)
        return prepared


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Noting]:
    """A ledger with some rows."""
    url = f"sqlite:///{tmp_path}/ca.sqlite3"
    await migrated(url, MIGRATIONS)
    opened = await Noting.open(url, clock=ManualClock(from_unix(NOW)))
    await add_rows(opened, [Row([("dns", "a.test")])] * 20)
    opened.__dict__["prepared"] = []
    yield opened
    await opened.close()


@pytest.mark.parametrize("store", STORES)
async def test_no_statement_reads_a_table_whole(database: Noting, tmp_path: Path, store: str) -> None:
    """Nothing that the running CA asks of its database grows with the number of certificates or revocations."""
    STORES[store](database)
    prepared: list[Prepared] = database.__dict__["prepared"]
    assert prepared
    for statement in prepared:
        if not statement.sql.startswith("INSERT INTO"):
            plan = await plan_of(f"sqlite:///{tmp_path}/ca.sqlite3", statement, [None] * len(statement.names))
            assert_indexed([statement.sql, *plan])
