"""The one place where the CA is put together: settings in, a running service out."""

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from socket import socket
from typing import Final

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.keys.passphrase import read_passphrase
from services.ca.api import PROBLEMS, CaEndpoints
from services.ca.block_list.endpoints import BlockListEndpoints
from services.ca.core import Core, build_core, core_rules, or_later
from services.ca.ct.opening import opened_certificate_log
from services.ca.errors import CeremonyError
from services.ca.following import Following
from services.ca.hierarchy import KeyRing, load_hierarchy
from services.ca.identities import Identities
from services.ca.prepared_ocsp import PreparedOcsp
from services.ca.settings import CaSettings
from services.ca.signer import RemoteKeys, WayToSigner
from services.ca.status import StatusEndpoints
from services.ca.store import CaStore
from services.ca.transport import Standing, Transport, advertised_url
from services.chassis.asgi import Application, AsgiApp, Request
from services.chassis.audit import audit_checkpoints
from services.chassis.database import CommitObserver, Database
from services.chassis.first_use import OnFirstUse
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.peer import CallerPolicy
from services.chassis.problems import ProblemTable
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.settings import read_text
from services.chassis.tracing.opening import open_tracing
from services.chassis.tracing.requests import services_of

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def internal_application(core: Core, policy: CallerPolicy, metrics: HttpMetrics, clock: Clock) -> Application:
    """What answers on the mTLS listener."""
    endpoints = CaEndpoints(
        issuance=core.issuance,
        revoker=core.revoker,
        log=core.log,
        store=core.store,
        refusals=core.refusals,
        issued=core.warm.issued,
    )
    routes = endpoints.routes() + core.ledger.routes() + BlockListEndpoints(core.block_list, core.refusals).routes()

    def guard(request: Request) -> None:
        policy.authorize(request.peer, "ca", request.method, request.path)

    def admin() -> AsgiApp:
        from services.ca.admin import ca_admin  # FastAPI, a third of the start-up time

        return ca_admin(store=core.store, publisher=core.publisher, cas=core.hierarchy.cas, policy=policy, clock=clock)

    return Application(
        "ca",
        routes,
        problems=PROBLEMS,
        metrics=metrics,
        guard=guard,
        refused=core.refusals.record_call,
        admin=OnFirstUse(admin),
    )


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
    application = Application("ca-status", routes, problems=ProblemTable({}), metrics=metrics)
    application.prepare(PreparedOcsp(core.answers, max_age, clock).find)
    return application


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
        await or_later("identities", identities.renew_at_start)
        checkpointer = await stack.enter_async_context(audit_checkpoints(settings, database, clock, registry))
        tls = Transport.of(standing, core, tls_metrics, clock)
        await tls.open()
        stack.push_async_callback(tls.listener.aclose)
        status = status_application(core, settings.http_max_age_seconds, metrics, clock)
        tracing = await stack.enter_async_context(open_tracing("ca", settings, registry))
        internal = tracing.watch(internal_application(core, policy, metrics, clock), services_of(settings.trust_domain))
        listeners = [
            Listener("internal", internal, sockets["internal"], tls.listener),
            Listener("status", status, sockets["status"]),
            Listener("ops", ops_application("ca", registry, readiness, metrics), sockets["ops"]),
        ]
        background = [*core.background(), *identities.background(), *tls.background(), *tracing.background()]
        background += [
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
