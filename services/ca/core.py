"""The domain of the CA, put together over one database: no listener, no socket."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, unix
from pkicore.errors import BadSignatureError, KeyAccessError, KeyNotFoundError
from pkicore.identity import SpiffeId
from pkicore.keys.remote import RemoteKey
from pkicore.ocsp import build_request
from pkicore.weak_keys import PublishedKeys
from pkicore.x509.profiles import Profile, load_profiles
from services.ca.api import PROBLEMS
from services.ca.authorization import Authorizer
from services.ca.block_list.blocking import BlockList
from services.ca.block_list.store import BlockListStore
from services.ca.ct.log import CertificateLog
from services.ca.errors import WrongSignatureError
from services.ca.feed import RevocationLog
from services.ca.hierarchy import Hierarchy, responders_directory
from services.ca.issuance import Issuance, SerialPool
from services.ca.ledger.endpoints import LedgerEndpoints
from services.ca.ledger.expiry import HORIZONS, ExpiryWatch
from services.ca.ledger.inventory import Inventories
from services.ca.ledger.naming import Naming
from services.ca.ledger.refusals import Refusals
from services.ca.ledger.store.counts import CountStore
from services.ca.ledger.store.naming import NamingStore
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.store.search import LedgerSearch
from services.ca.linters import open_linters
from services.ca.publication import CrlPublisher
from services.ca.responder import OcspAnswers, Room
from services.ca.responders import DelegatedResponders
from services.ca.revocation import Revoker
from services.ca.settings import CaSettings
from services.ca.store import CaStore
from services.ca.transport import ceremony_base_url
from services.ca.warm_answers import WarmAnswers
from services.ca.watch import IssuerWatch
from services.chassis.database import Database
from services.chassis.published_keys import open_published_keys
from services.chassis.runner import BackgroundTask
from services.chassis.settings import read_text

_FIRST_CRLS: Final = 3.0  # seconds to wait for the first CRLs of this process; those of the last one are there
_INTENTS_CHECK: Final = 30.0  # seconds between looks for intents that nobody completed
_INTENT_AGE: Final = 60  # seconds after which nobody is at it any more: callers wait for 30 s
_DEFERRED: Final = (KeyAccessError, BadSignatureError, WrongSignatureError)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Core:
    """The domain of the CA over one database; no listener, no settings."""

    store: CaStore
    hierarchy: Hierarchy
    issuance: Issuance
    revoker: Revoker
    log: RevocationLog
    publisher: CrlPublisher
    responders: DelegatedResponders
    answers: OcspAnswers
    warm: WarmAnswers
    refusals: Refusals
    expiry: ExpiryWatch
    ledger: LedgerEndpoints
    block_list: BlockList
    naming: Naming
    watch: IssuerWatch
    clock: Clock
    certificate_log: CertificateLog | None = None

    @property
    def remote_keys(self) -> list[RemoteKey]:
        """The keys that signer-hsm holds."""
        return self.hierarchy.remote_keys + ([] if self.certificate_log is None else self.certificate_log.remote_keys)

    async def start(self) -> None:
        """Complete what a dead process left behind, then have responders and CRLs ready.

        Raises:
            DatabaseError, KeyAccessError, PkiError, CaServiceError: the CA cannot start.
        """
        await self.publisher.load()
        await self.log.refresh()
        await self.block_list.heed()
        await self.issuance.recover()
        await self.responders.ensure()
        await self.publisher.publish_outstanding(_FIRST_CRLS)

    async def resume(self) -> None:
        """As `start`, but what needs a signature that cannot be had now is left to the background tasks.

        Raises:
            DatabaseError, PkiError, CaServiceError: the CA cannot start.
        """
        await self.publisher.load()
        await self.log.refresh()
        await self.block_list.heed()
        await self.catch_up()

    async def catch_up(self) -> None:
        """Do what needs signatures and is due; what cannot be had now is logged and comes later.

        Raises:
            DatabaseError, PkiError, CaServiceError: something else is wrong.
        """
        await or_later("open intents", self.issuance.recover)
        await or_later("OCSP responders", self.responders.ensure)
        await or_later("CRLs", lambda: self.publisher.publish_outstanding(_FIRST_CRLS))

    async def adopt(self, later: Hierarchy) -> None:
        """Take up what another reading of the settings has: its CRL and OCSP answers are there before it issues.

        Raises:
            DatabaseError, PkiError, CaServiceError: not all of it is taken up; ask again.
        """
        self.hierarchy.take_up(later)
        self.answers.include({name: ca.issuer.certificate for name, ca in self.hierarchy.cas.items()})
        await self.publisher.extend(_FIRST_CRLS)
        await or_later("OCSP responders", self.responders.ensure)
        await self.block_list.heed()
        self.hierarchy.switch(later)

    async def complete_intents(self) -> None:
        """Roll forward, for ever, what was recorded and could not be signed then."""
        while True:
            await asyncio.sleep(_INTENTS_CHECK)
            await or_later("open intents", self._complete_old_intents)

    async def _complete_old_intents(self) -> None:
        await self.issuance.recover(recorded_before=unix(self.clock.now()) - _INTENT_AGE)

    def background(self) -> list[BackgroundTask]:
        """What keeps CRLs, the feed, the responders' certificates and OCSP answers fresh."""
        return [
            BackgroundTask("open-intents", self.complete_intents),
            BackgroundTask("crl-publisher", self.publisher.run),
            BackgroundTask("revocation-log", self.log.run),
            BackgroundTask("ocsp-responders", self.responders.run),
            BackgroundTask("ocsp-answers", self.answers.run),
            BackgroundTask("warm-ocsp-answers", self.warm.run),
            BackgroundTask("blocked-keys", self.block_list.run),
            BackgroundTask("refusals", self.refusals.run),
            BackgroundTask("expiry", self.expiry.run),
            BackgroundTask("naming", self.naming.run),
            BackgroundTask("watch", self.watch.run),
        ]

    def register(self, registry: CollectorRegistry) -> None:
        """Show the domain's metrics in a registry."""
        self.refusals.metrics.register(registry)
        self.publisher.register(registry)
        self.block_list.metrics.register(registry)
        self.watch.register(registry)
        self.expiry.register(registry)

    async def staple(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """An OCSP response about one of our own certificates, made in process."""
        return (await self.answers.answer(build_request(certificate, issuer))).der


async def or_later(what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do it; what cannot be signed now is logged, and comes later.

    Raises:
        KeyNotFoundError: a key is another than its certificate's; waiting does not mend that.
    """
    try:
        await work()
    except KeyNotFoundError:  # another key than its certificate's: waiting does not mend that
        raise
    except _DEFERRED as error:
        _log.error("not signed now, tried again later", what=what, error=str(error))


@dataclass(frozen=True, kw_only=True)
class CoreRules:
    """What the domain is told: lifetimes, bounds, and where responder certificates are kept."""

    trust_domain: str
    profiles: Mapping[str, Profile]
    responders_directory: Path
    crl_lifetime: timedelta
    ocsp_lifetime: timedelta
    ocsp_cache_entries: int
    ocsp_cache_octets: int = 128 << 20
    ocsp_archive: timedelta = timedelta()
    former_base_url: str = ""
    published: PublishedKeys | None = None
    refusals_kept: timedelta = timedelta(days=90)


def build_core(
    database: Database,
    hierarchy: Hierarchy,
    rules: CoreRules,
    clock: Clock,
    certificate_log: CertificateLog | None = None,
) -> Core:
    """Wire the domain; without a CT log, certificates of profiles that want one are refused."""
    cas = hierarchy.cas
    store = CaStore(database)
    own = SpiffeId.service(rules.trust_domain, "ca")
    issuance = _issuance(store, hierarchy, rules, clock, certificate_log)
    log = RevocationLog(store)
    log.subscribe(hierarchy.heed)
    publisher = CrlPublisher(
        store=store,
        log=log,
        cas=cas,
        roots=hierarchy.roots.keys(),
        clock=clock,
        lifetime=rules.crl_lifetime,
        former_base_url=rules.former_base_url,
    )
    responders = DelegatedResponders(
        issuance=issuance,
        cas=cas,
        keys=hierarchy.responder_keys,
        directory=rules.responders_directory,
        caller=own,
        clock=clock,
    )
    answers = _answers(store, hierarchy, responders, rules, clock, log)
    log.subscribe(answers.take)
    revoker = Revoker(store=store, log=log, issuers=cas.keys(), clock=clock)
    counts, refused = CountStore(database, len(HORIZONS)), RefusalStore(database)
    search = LedgerSearch(database)
    inventories = Inventories(counts, cas, hierarchy.roots, clock)
    return Core(
        store=store,
        hierarchy=hierarchy,
        issuance=issuance,
        revoker=revoker,
        log=log,
        publisher=publisher,
        responders=responders,
        answers=answers,
        warm=WarmAnswers(answers, search, hierarchy, rules.profiles, clock),
        refusals=Refusals(refused, problems=PROBLEMS, clock=clock, kept_for=rules.refusals_kept),
        expiry=ExpiryWatch(counts, clock),
        ledger=LedgerEndpoints(search, refused, inventories, clock),
        block_list=BlockList(
            store=BlockListStore(database), revoker=revoker, hierarchy=hierarchy, own=own, clock=clock
        ),
        naming=Naming(NamingStore(database)),
        watch=IssuerWatch(hierarchy, publisher),
        clock=clock,
        certificate_log=certificate_log,
    )


def _answers(
    store: CaStore,
    hierarchy: Hierarchy,
    responders: DelegatedResponders,
    rules: CoreRules,
    clock: Clock,
    log: RevocationLog,
) -> OcspAnswers:
    return OcspAnswers(
        store=store,
        issuers={name: ca.issuer.certificate for name, ca in hierarchy.cas.items()},
        responders=responders,
        clock=clock,
        lifetime=rules.ocsp_lifetime,
        room=Room(rules.ocsp_cache_entries, rules.ocsp_cache_octets),
        archive=rules.ocsp_archive,
        log_age=log.age,
    )


def _issuance(
    store: CaStore, hierarchy: Hierarchy, rules: CoreRules, clock: Clock, certificate_log: CertificateLog | None
) -> Issuance:
    authorizer = Authorizer(
        trust_domain=rules.trust_domain,
        profiles=rules.profiles,
        issuers=hierarchy.issuing,
        clock=clock,
        has_log=certificate_log is not None,
    )
    return Issuance(
        store=store,
        authorizer=authorizer,
        serials=SerialPool(store, clock),
        cas=hierarchy.cas,
        clock=clock,
        log=certificate_log,
        published=rules.published,
        linters=open_linters(rules.profiles.values()),
    )


def core_rules(settings: CaSettings, hierarchy: Hierarchy, base_url: str) -> CoreRules:
    """The domain's rules as the settings have them; CRLs also name the URL that the ceremony's certificates carry."""
    ceremony_url = ceremony_base_url(next(iter(hierarchy.cas.values())).issuer.certificate)
    return CoreRules(
        trust_domain=settings.trust_domain,
        profiles=load_profiles(read_text(settings.profiles_file)),
        responders_directory=responders_directory(settings),
        crl_lifetime=settings.crl_lifetime,
        ocsp_lifetime=settings.ocsp_lifetime,
        ocsp_cache_entries=settings.ocsp_cache_entries,
        ocsp_cache_octets=settings.ocsp_cache_mebibytes << 20,
        ocsp_archive=timedelta(seconds=settings.ocsp_archive_seconds),
        former_base_url=ceremony_url if ceremony_url != base_url else "",
        published=open_published_keys(settings.published_keys_file),
        refusals_kept=timedelta(days=settings.refusal_days),
    )
