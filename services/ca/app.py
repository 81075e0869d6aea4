"""The one place where the CA is put together: settings in, a running service out."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from socket import socket
from typing import Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock, unix
from pkicore.errors import BadSignatureError, KeyAccessError, KeyNotFoundError
from pkicore.identity import SpiffeId
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import RemoteKey
from pkicore.ocsp import build_request
from pkicore.weak_keys import PublishedKeys
from pkicore.x509.profiles import Profile, load_profiles
from services.ca.api import PROBLEMS, CaEndpoints
from services.ca.authorization import Authorizer
from services.ca.block_list.blocking import BlockList
from services.ca.block_list.endpoints import BlockListEndpoints
from services.ca.block_list.store import BlockListStore
from services.ca.ct.log import CertificateLog
from services.ca.ct.opening import opened_certificate_log
from services.ca.errors import CeremonyError, WrongSignatureError
from services.ca.feed import RevocationLog
from services.ca.following import Following
from services.ca.hierarchy import Hierarchy, KeyRing, load_hierarchy, responders_directory
from services.ca.identities import Identities
from services.ca.issuance import Issuance, SerialPool
from services.ca.ledger.endpoints import LedgerEndpoints
from services.ca.ledger.expiry import HORIZONS, ExpiryWatch
from services.ca.ledger.inventory import Inventories
from services.ca.ledger.refusals import Refusals
from services.ca.ledger.store.counts import CountStore
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.store.search import LedgerSearch
from services.ca.linters import open_linters
from services.ca.publication import CrlPublisher
from services.ca.responder import OcspAnswers
from services.ca.responders import DelegatedResponders
from services.ca.revocation import Revoker
from services.ca.settings import CaSettings
from services.ca.signer import RemoteKeys, WayToSigner
from services.ca.status import StatusEndpoints
from services.ca.store import CaStore
from services.ca.transport import Standing, Transport, advertised_url, ceremony_base_url
from services.chassis.asgi import Application, AsgiApp, Request
from services.chassis.audit import audit_checkpoints
from services.chassis.database import CommitObserver, Database
from services.chassis.first_use import OnFirstUse
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.peer import CallerPolicy
from services.chassis.problems import ProblemTable
from services.chassis.published_keys import open_published_keys
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.settings import read_text

MIGRATIONS: Final = Path(__file__).parent / "migrations"
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
    refusals: Refusals
    expiry: ExpiryWatch
    ledger: LedgerEndpoints
    block_list: BlockList
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
        await self.catch_up()

    async def catch_up(self) -> None:
        """Do what needs signatures and is due; what cannot be had now is logged and comes later.

        Raises:
            DatabaseError, PkiError, CaServiceError: something else is wrong.
        """
        await _or_later("open intents", self.issuance.recover)
        await _or_later("OCSP responders", self.responders.ensure)
        await _or_later("CRLs", lambda: self.publisher.publish_outstanding(_FIRST_CRLS))

    async def adopt(self, later: Hierarchy) -> None:
        """Take up what another reading of the settings has: its CRL and OCSP answers are there before it issues.

        Raises:
            DatabaseError, PkiError, CaServiceError: not all of it is taken up; ask again.
        """
        self.hierarchy.take_up(later)
        self.answers.include({name: ca.issuer.certificate for name, ca in self.hierarchy.cas.items()})
        await self.publisher.extend(_FIRST_CRLS)
        await _or_later("OCSP responders", self.responders.ensure)
        self.hierarchy.switch(later)

    async def complete_intents(self) -> None:
        """Roll forward, for ever, what was recorded and could not be signed then."""
        while True:
            await asyncio.sleep(_INTENTS_CHECK)
            await _or_later("open intents", self._complete_old_intents)

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
            BackgroundTask("blocked-keys", self.block_list.run),
            BackgroundTask("refusals", self.refusals.run),
            BackgroundTask("expiry", self.expiry.run),
        ]

    def register(self, registry: CollectorRegistry) -> None:
        """Show the domain's metrics in a registry."""
        self.refusals.metrics.register(registry)
        self.expiry.register(registry)

    async def staple(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """An OCSP response about one of our own certificates, made in process."""
        return (await self.answers.answer(build_request(certificate, issuer))).der


async def _or_later(what: str, work: Callable[[], Awaitable[object]]) -> None:
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
    answers = OcspAnswers(
        store=store,
        issuers={name: ca.issuer.certificate for name, ca in cas.items()},
        responders=responders,
        clock=clock,
        lifetime=rules.ocsp_lifetime,
        capacity=rules.ocsp_cache_entries,
        archive=rules.ocsp_archive,
    )
    log.subscribe(answers.take)
    revoker = Revoker(store=store, log=log, issuers=cas.keys(), clock=clock)
    counts, refused = CountStore(database, len(HORIZONS)), RefusalStore(database)
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
        refusals=Refusals(refused, problems=PROBLEMS, clock=clock, kept_for=rules.refusals_kept),
        expiry=ExpiryWatch(counts, clock),
        ledger=LedgerEndpoints(LedgerSearch(database), refused, inventories, clock),
        block_list=BlockList(store=BlockListStore(database), revoker=revoker, own=own, clock=clock),
        clock=clock,
        certificate_log=certificate_log,
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
        ocsp_archive=timedelta(seconds=settings.ocsp_archive_seconds),
        former_base_url=ceremony_url if ceremony_url != base_url else "",
        published=open_published_keys(settings.published_keys_file),
        refusals_kept=timedelta(days=settings.refusal_days),
    )


def internal_application(core: Core, policy: CallerPolicy, metrics: HttpMetrics, clock: Clock) -> Application:
    """What answers on the mTLS listener."""
    endpoints = CaEndpoints(
        issuance=core.issuance,
        revoker=core.revoker,
        log=core.log,
        store=core.store,
        refusals=core.refusals,
    )
    routes = endpoints.routes() + core.ledger.routes() + BlockListEndpoints(core.block_list).routes()

    def guard(request: Request) -> None:
        policy.authorize(request.peer, "ca", request.method, request.path)

    def admin() -> AsgiApp:
        from services.ca.admin import ca_admin  # FastAPI, a third of the start-up time

        return ca_admin(store=core.store, publisher=core.publisher, cas=core.hierarchy.cas, policy=policy, clock=clock)

    return Application("ca", routes, problems=PROBLEMS, metrics=metrics, guard=guard, admin=OnFirstUse(admin))


def status_application(core: Core, max_age: int, metrics: HttpMetrics, clock: Clock) -> Application:
    """What answers on the HTTP listener."""
    endpoints = StatusEndpoints(
        publisher=core.publisher,
        answers=core.answers,
        hierarchy=core.hierarchy,
        max_age=max_age,
        clock=clock,
    )
    routes = endpoints.routes() + ([] if core.certificate_log is None else core.certificate_log.routes())
    return Application("ca-status", routes, problems=ProblemTable({}), metrics=metrics)


async def serve(
    settings: CaSettings, *, clock: Clock | None = None, commit_observer: CommitObserver | None = None
) -> None:
    """Run the CA until a signal says stop.

    Args:
        settings: Everything it may be told.
        clock: The time; the machine's if not given.
        commit_observer: Called around each durable commit, for crash tests.

    Raises:
        BindError, SettingsError, PolicyError, ProfileError, KeyAccessError, DatabaseError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = _bind_all(settings)
    base_url = advertised_url(settings.status_url, sockets["status"].getsockname())
    policy = CallerPolicy.load(read_text(settings.policy_file))
    registry, readiness = CollectorRegistry(), Readiness()
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    await migrate(settings.database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "signing"))
        database = await Database.open(settings.database_url, clock=clock, commit_observer=commit_observer)
        stack.push_async_callback(database.close)
        standing = Standing.of(settings, CaStore(database), clock)
        ring = await _key_ring(settings, standing, stack, pool, registry)
        hierarchy = await load_hierarchy(settings, base_url, ring)
        log = await stack.enter_async_context(opened_certificate_log(settings, database, ring, clock))
        core = build_core(database, hierarchy, core_rules(settings, hierarchy, base_url), clock, log)
        core.register(registry)
        remote = RemoteKeys(core.remote_keys, readiness)
        await _begin(core, remote, settings.signer_start_seconds)
        identities = Identities(settings, core.store, core.issuance, clock, tls_metrics, core.hierarchy.is_superseded)
        await _or_later("identities", identities.renew_at_start)
        checkpointer = await stack.enter_async_context(audit_checkpoints(settings, database, clock))
        tls = Transport.of(standing, core, tls_metrics, clock)
        await tls.open()
        stack.push_async_callback(tls.listener.aclose)
        status = status_application(core, settings.http_max_age_seconds, metrics, clock)
        listeners = [
            Listener("internal", internal_application(core, policy, metrics, clock), sockets["internal"], tls.listener),
            Listener("status", status, sockets["status"]),
            Listener("ops", ops_application("ca", registry, readiness, metrics), sockets["ops"]),
        ]
        background = [
            *core.background(),
            *identities.background(),
            *tls.background(),
            BackgroundTask("settings", Following(settings, base_url, ring, core, standing).run),
            BackgroundTask("signer-hsm", lambda: remote.wait(core.catch_up)),
            BackgroundTask("audit-checkpoints", checkpointer.run),
        ]
        await run_service(
            "ca",
            listeners,
            state_dir=settings.state_dir,
            readiness=readiness,
            background=background,
            on_stop=core.log.close,
        )


def _bind_all(settings: CaSettings) -> dict[str, socket]:
    return {
        "internal": bind(settings.host, settings.port, "PQCPKI_CA_PORT"),
        "status": bind(settings.host, settings.http_port, "PQCPKI_CA_HTTP_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_CA_OPS_PORT"),
    }


async def _begin(core: Core, remote: RemoteKeys, patience: float) -> None:
    await _require_ledger(core.store, tuple(core.hierarchy.roots))
    await remote.meet(patience)
    await core.resume()


async def _require_ledger(store: CaStore, roots: Sequence[str]) -> None:
    """A CA on another database than its own would issue beside its ledger, and forget every revocation."""
    for root in roots:
        if await store.crl(root) is None:
            raise CeremonyError(
                f"the CA's database is not the one of its ceremony, for {root} is not in it: restore it from a backup, "
                "or name the right one with PQCPKI_CA_DATABASE_URL (which `ztca init` takes, too, for a new PKI)"
            )


async def _key_ring(
    settings: CaSettings, standing: Standing, stack: AsyncExitStack, pool: Executor, registry: CollectorRegistry
) -> KeyRing:
    """How this process opens keys; signer-hsm is not asked for anything yet."""
    passphrase = read_passphrase(settings.passphrase_file)
    if not settings.has_remote_keys:
        return KeyRing(lambda _uri: passphrase, pool)
    await standing.crls.refresh()
    way = WayToSigner.build(
        settings, standing.credentials, standing.roots, standing.crls, registry, standing.clock, standing.subscribe
    )
    await stack.enter_async_context(way.http)
    return KeyRing(lambda _uri: passphrase, pool, way.signer)
