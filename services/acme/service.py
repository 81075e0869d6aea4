"""The ACME server without its listeners: its parts put together, its unfinished work taken up, its old rows removed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Self

import structlog

from pkicore.clock import Clock, unix
from pkicore.weak_keys import PublishedKeys
from services.acme.accounts import AccountRules, Accounts
from services.acme.administration import AccountAdministration, Administration
from services.acme.api import Api, Resources
from services.acme.authorizations import Authorizations, Validator
from services.acme.background import Background
from services.acme.blocked_keys import BlockedKeys
from services.acme.directory import Directory
from services.acme.issuance import CertificateAuthority, Issuance
from services.acme.nonces import Nonces
from services.acme.orders import OrderRules, Orders
from services.acme.requests import AccountCache, Authenticator
from services.acme.revocation import Revocations
from services.acme.store import Store
from services.acme.store.account_search import AccountSearch
from services.acme.store.statements import CLEAN_UP_BATCH
from services.acme.urls import Urls
from services.chassis.asgi import Application
from services.chassis.database import Database
from services.chassis.observability import HttpMetrics

KEPT_SECONDS: Final = 7 * 86400  # how long an expired order can still be asked about
CLEAN_UP_SECONDS: Final = 3600.0  # between two clean-ups
_PAUSE_SECONDS: Final = 0.05  # between two commits of a clean-up, so that requests are not held up


@dataclass(frozen=True)
class ServiceRules:
    """What the operator decides: the account and order rules, and how long a request waits for its final state."""

    accounts: AccountRules
    orders: OrderRules
    hold_seconds: float
    published: PublishedKeys | None = None


@dataclass(frozen=True)
class AcmeService:
    """The parts that live as long as the process."""

    application: Application
    store: Store
    issuance: Issuance
    authorizations: Authorizations
    background: Background
    administration: Administration
    clock: Clock

    @classmethod
    def assemble(
        cls,
        *,
        database: Database,
        authority: CertificateAuthority,
        validator: Validator,
        urls: Urls,
        rules: ServiceRules,
        clock: Clock,
        metrics: HttpMetrics,
    ) -> Self:
        """Put the parts together."""
        store, background, nonces = Store(database), Background(), Nonces()
        cache, blocked = AccountCache(store), BlockedKeys(authority)
        issuance = Issuance(store, authority, blocked, background, urls, clock, rules.hold_seconds)
        authorizations = Authorizations(store, validator, background, urls, clock, rules.hold_seconds)
        resources = Resources(
            directory=Directory(urls, rules.accounts.terms),
            accounts=Accounts(store, cache, urls, rules.accounts, blocked, clock),
            orders=Orders(store, issuance, urls, rules.orders, clock),
            authorizations=authorizations,
            revocations=Revocations(store, authority, clock),
        )
        api = Api(resources, Authenticator(urls, nonces, cache, blocked, rules.published), nonces, urls)
        accounts = AccountAdministration(store, AccountSearch(database), cache, urls)
        return cls(
            api.application(metrics), store, issuance, authorizations, background, Administration(accounts), clock
        )

    async def resume(self) -> None:
        """Take up what the last stop left: clients were told to wait for it."""
        orders, challenges = await self.issuance.resume(), await self.authorizations.resume()
        structlog.get_logger("acme").info("unfinished work taken up", orders=orders, challenges=challenges)

    async def clean_up(self) -> int:
        """Delete orders that expired long ago without a certificate, a bounded number per commit; how many."""
        deleted, before = 0, unix(self.clock.now()) - KEPT_SECONDS
        while expired := await self.store.expired_orders(before):
            await self.store.delete_orders(expired)
            deleted += len(expired)
            await asyncio.sleep(_PAUSE_SECONDS)
        await self._delete_authorizations(before)
        return deleted

    async def _delete_authorizations(self, before: int) -> None:
        """Those that expired before a moment and serve no order; at the next call, those that expired since."""
        unserving = await self.store.unserving_authorizations(before)
        for start in range(0, len(unserving), CLEAN_UP_BATCH):
            await self.store.delete_authorizations(unserving[start : start + CLEAN_UP_BATCH])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def run_clean_up(self) -> None:
        """Clean up again and again."""
        while True:
            deleted = await self.clean_up()
            if deleted:
                structlog.get_logger("acme").info("expired orders deleted", orders=deleted)
            await asyncio.sleep(CLEAN_UP_SECONDS)

    async def close(self) -> None:
        """Stop work under way; what is stored as processing is taken up at the next start."""
        await self.background.close()
