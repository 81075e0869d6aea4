"""The ACME server without its listeners: its parts put together, its unfinished work taken up, its old rows removed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Self

import structlog

from pkicore.clock import Clock, unix
from pkicore.weak_keys import PublishedKeys
from services.acme.accounts.account import AccountDocuments, AccountRules, Accounts
from services.acme.accounts.blocked_keys import BlockedKeys
from services.acme.accounts.key_change import KeyChange
from services.acme.accounts.new_account import NewAccounts
from services.acme.administration import AccountAdministration, Administration
from services.acme.api import Api, Resources
from services.acme.authorizations.authorizations import Authorizations, Validator
from services.acme.background import Background
from services.acme.directory import Directory, Meta
from services.acme.external_accounts.accounts import ExternalAccounts
from services.acme.external_accounts.administration import ExternalAccountAdministration
from services.acme.external_accounts.secret import EabSecret
from services.acme.incidents.incidents import Incidents
from services.acme.nonces import Nonces
from services.acme.orders.caa_again import CaaAgain, CaaCheck
from services.acme.orders.issuance import CertificateAuthority, Issuance
from services.acme.orders.ordering import Ordering
from services.acme.orders.rules import Admission, OrderRules
from services.acme.profiles.profiles import Profiles
from services.acme.rate_limits.administration import LimitAdministration
from services.acme.rate_limits.rate_limits import Limits, RateLimits
from services.acme.renewals.renewal_info import RenewalInfo
from services.acme.renewals.replacement import Renewals
from services.acme.requests import AccountCache, Authenticator, KeyRules
from services.acme.revocation import Revocations
from services.acme.store import Store
from services.acme.store.account_changes import AccountChanges
from services.acme.store.account_search import AccountSearch
from services.acme.store.csrs_under_way import CsrsUnderWay
from services.acme.store.expired import CLEAN_UP_BATCH, ExpiredStore
from services.acme.store.external_accounts import ExternalAccountStore
from services.acme.store.incidents import IncidentStore
from services.acme.store.rate_limits import RateLimitStore
from services.acme.store.renewals import RenewalStore
from services.acme.upkeep import Upkeep, alone
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
    eab_secret: EabSecret
    meta: Meta
    published: PublishedKeys | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outside:
    """Whom the server asks: who issues, who looks whether challenges are met, and who knows CAA records."""

    authority: CertificateAuthority
    validator: Validator
    caa: CaaCheck | None = None

    def caa_again(self, urls: Urls) -> CaaAgain | None:
        """Who looks at CAA records again; None where they are not looked at."""
        return None if self.caa is None else CaaAgain(self.caa, urls)


@dataclass(frozen=True)
class AcmeService:
    """The parts that live as long as the process."""

    application: Application
    store: Store
    expired: ExpiredStore
    issuance: Issuance
    authorizations: Authorizations
    background: Background
    upkeep: Upkeep
    limits: RateLimits
    database: Database
    administration: Administration
    renewals: Renewals
    renewal_info: RenewalInfo
    clock: Clock

    @classmethod
    def assemble(
        cls,
        *,
        database: Database,
        outside: Outside,
        nonces: Nonces,
        urls: Urls,
        rules: ServiceRules,
        clock: Clock,
        metrics: HttpMetrics,
    ) -> Self:
        """Put the parts together."""
        store, renewal_store, blocked = Store(database), RenewalStore(database), _blocked_keys(database, outside)
        cache, background = AccountCache(store, shared=database.shared is not None), Background()
        limits = RateLimits(RateLimitStore(database), rules.limits, clock)
        profiles = Profiles(rules.orders.profiles, rules.orders.challenges, rules.orders.default_profile)
        authority, again, hold = outside.authority, outside.caa_again(urls), rules.hold_seconds
        issuance = Issuance(store, cache, authority, again, background, profiles, urls, clock, hold)
        validator, issuers = outside.validator, rules.meta.caa_identities
        authorizations = Authorizations(store, validator, background, urls, clock, hold, limits, issuers)
        changes, documents = AccountChanges(database), AccountDocuments(urls, rules.accounts.terms)
        renewals, renewal_info = Renewals(renewal_store), RenewalInfo(renewal_store)
        keys, external_store = KeyRules(rules.published), ExternalAccountStore(database)
        required = rules.meta.external_account_required
        external = ExternalAccounts(external_store, rules.eab_secret, urls, clock, required=required)
        resources = Resources(
            directory=Directory(urls, rules.meta, absent=() if rules.orders.reuse_seconds else ("newAuthz",)),
            new_accounts=NewAccounts(store, documents, rules.accounts, external, limits, blocked, clock),
            accounts=Accounts(store, changes, cache, documents, rules.accounts, clock),
            key_change=KeyChange(store, changes, cache, documents, keys, blocked),
            ordering=Ordering.assemble(
                store=store,
                issuance=issuance,
                authorizations=authorizations,
                admission=Admission(rules.accounts.terms, profiles, external, renewals, limits),
                caa=again,
                rules=rules.orders,
                urls=urls,
                clock=clock,
            ),
            authorizations=authorizations,
            revocations=Revocations(store, authority, blocked, clock),
            renewal_info=renewal_info,
        )
        api = Api(resources, Authenticator(urls, nonces, cache, blocked, keys), nonces, urls)
        return cls(
            application=api.application(metrics),
            store=store,
            expired=ExpiredStore(database),
            issuance=issuance,
            authorizations=authorizations,
            background=background,
            upkeep=Upkeep(database, issuance, authorizations, limits, nonces),
            limits=limits,
            database=database,
            administration=_administration(database, cache, limits, urls, rules, clock),
            renewals=renewals,
            renewal_info=renewal_info,
            clock=clock,
        )

    async def resume(self) -> None:
        """Learn who has limits of their own, and take up what the last stop left: clients were told to wait for it."""
        await self.limits.load_overrides()
        orders, challenges = await self.issuance.resume(), await self.authorizations.resume()
        structlog.get_logger("acme").info("unfinished work taken up", orders=orders, challenges=challenges)

    async def clean_up(self) -> int:
        """Delete orders that expired long ago without a certificate, a bounded number per commit; how many."""
        deleted, before = 0, unix(self.clock.now()) - KEPT_SECONDS
        while expired := await self.expired.orders(before):
            await self.expired.delete_orders(expired)
            deleted += len(expired)
            await asyncio.sleep(_PAUSE_SECONDS)
        await self._delete_authorizations(before)
        return deleted

    async def _delete_authorizations(self, before: int) -> None:
        """Those that expired before a moment and serve no order; at the next call, those that expired since."""
        unserving = await self.expired.authorizations(before)
        for start in range(0, len(unserving), CLEAN_UP_BATCH):
            await self.expired.delete_authorizations(unserving[start : start + CLEAN_UP_BATCH])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def run_clean_up(self) -> None:
        """Clean up again and again."""
        while True:
            async with alone(self.database, "acme-clean-up") as here:
                deleted = await self.clean_up() if here else 0
            if deleted:
                structlog.get_logger("acme").info("expired orders deleted", orders=deleted)
            await asyncio.sleep(CLEAN_UP_SECONDS)

    async def close(self) -> None:
        """Stop work under way; what is stored as processing is taken up at the next start."""
        await self.background.close()


def _blocked_keys(database: Database, outside: Outside) -> BlockedKeys:
    return BlockedKeys(outside.authority, CsrsUnderWay(database))


def _administration(
    database: Database, cache: AccountCache, limits: RateLimits, urls: Urls, rules: ServiceRules, clock: Clock
) -> Administration:
    store, external_store = Store(database), ExternalAccountStore(database)
    search, changes, terms = AccountSearch(database), AccountChanges(database), rules.accounts.terms
    return Administration(
        AccountAdministration(store, search, changes, cache, terms, urls, clock),
        ExternalAccountAdministration(external_store, rules.eab_secret, cache, tuple(rules.meta.profiles), clock),
        Incidents(IncidentStore(database), urls, clock),
        LimitAdministration(limits, RateLimitStore(database), store, external_store),
    )
