"""What the ACME server reads for each of its statements: by an index, however many accounts and orders there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from services.acme.app import MIGRATIONS
from services.acme.store.account_changes import AccountChanges
from services.acme.store.account_search import AccountSearch
from services.acme.store.expired import ExpiredStore
from services.acme.store.external_accounts import ExternalAccountStore
from services.acme.store.incidents import IncidentStore
from services.acme.store.nonces import NonceStore
from services.acme.store.rate_limits import RateLimitStore
from services.acme.store.renewals import RenewalStore
from services.acme.store.revocation_feed import RevocationFeedStore
from services.acme.store.statements import STATEMENTS
from services.acme.wire import AccountQuery
from services.chassis.database import Database, Prepared
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.query_plans import plans_for_any, tables_read_whole

# As long as there are operators' decisions: tens of rows, not one for each client.
_SMALL: Final = {"eab_keys", "incidents", "positions", "rate_limit_overrides", "shared_secrets"}
_BY_STATE: Final = ("challenges_by_status", "orders_by_status")
_STORES: Final = (
    AccountChanges,
    ExpiredStore,
    ExternalAccountStore,
    RateLimitStore,
    RenewalStore,
    RevocationFeedStore,
)


class Noting(Database):
    """A database that notes what is prepared for it."""

    def prepare(self, statement: Any) -> Prepared:  # noqa: ANN401 -- any statement
        """As ever."""
        prepared = super().prepare(statement)
        self.noted().append(prepared)
        return prepared

    def noted(self) -> list[Prepared]:
        """What was prepared."""
        noted: list[Prepared] = self.__dict__.setdefault("prepared", [])
        return noted


@pytest.fixture
async def database(empty_url: str) -> AsyncIterator[Noting]:
    """A database of either engine."""
    await migrated(empty_url, MIGRATIONS)
    opened = await Noting.open(empty_url, clock=ManualClock())
    yield opened
    await opened.close()


async def test_no_statement_reads_a_table_whole(database: Noting, empty_url: str) -> None:
    """But the count of accounts by algorithm, and an operator's reset of limits, which take their time."""
    for statement in STATEMENTS.values():
        database.prepare(statement)
    for store in _STORES:
        store(database)
    if database.shared is not None:
        NonceStore(database, database.shared)
    hot = [each for each in database.noted() if "jwk LIKE" not in each.sql and "substr(" not in each.sql]
    for prepared, plan in zip(hot, await plans_for_any(empty_url, hot), strict=True):
        assert not tables_read_whole(plan) - _SMALL, "\n".join([prepared.sql, *plan])


async def test_only_what_is_under_way_is_looked_for_by_its_state(database: Noting, empty_url: str) -> None:
    """Nothing else goes through all challenges or orders of a state: most of those that ever were are valid.

    Of SQLite, which plans without knowing how many there are.
    """
    if not empty_url.startswith("sqlite"):
        return
    for name, statement in STATEMENTS.items():
        if name not in {"processing_orders", "processing_challenges"}:
            database.prepare(statement)
    for prepared, plan in zip(database.noted(), await plans_for_any(empty_url, database.noted()), strict=True):
        assert not any(index in step for index in _BY_STATE for step in plan), "\n".join([prepared.sql, *plan])


@pytest.mark.parametrize("page", ["the first", "a later one"])
async def test_lists_are_not_sorted(database: Noting, empty_url: str, page: str) -> None:
    """A page of an account's orders, or of all accounts, is read off an index from where it begins."""
    position = None if page == "the first" else (1, "a")
    await AccountSearch(database).find(AccountQuery(), position)
    database.prepare(STATEMENTS["order_ids"])
    for lines in await plans_for_any(empty_url, database.noted()):
        plan = "\n".join(lines)
        assert "TEMP B-TREE" not in plan, plan
        assert "Sort" not in plan, plan
        assert "_in_time" in plan, plan


async def test_what_came_after_an_incident_is_found_by_time(database: Noting, empty_url: str) -> None:
    """Its progress reads what was issued since it was opened, not all that its accounts ever had."""
    IncidentStore(database)
    (later,) = [each for each in database.noted() if "issued_at >=" in each.sql]
    (lines,) = await plans_for_any(empty_url, [later])
    plan = "\n".join(lines)
    assert "certificates_in_time" in plan, plan
    assert "orders_of_account" not in plan, plan
