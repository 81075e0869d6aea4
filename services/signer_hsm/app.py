"""The one place where signer-hsm is put together: settings in, a running service out.

It starts without the CA, which needs it to start: identity, CRLs and staple come from disk where they are still good.
What else the CA has to give (a renewed identity, newer CRLs, the revocation feed) is fetched once it can be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.mtls import INTERNAL, TlsListener
from services.ca.client.identity import internal_renewer
from services.ca.client.way import WayToCa, patiently
from services.chassis.asgi import Application, AsgiApp, Request
from services.chassis.audit import audit_checkpoints
from services.chassis.database import CommitObserver, Database
from services.chassis.first_use import OnFirstUse
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.tracing.opening import open_tracing
from services.chassis.tracing.requests import services_of
from services.signer_hsm.api import SignerEndpoints
from services.signer_hsm.approvals import Approvals
from services.signer_hsm.attestations import Attestations, Verify, device_statements
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.registry import BackendRegistry
from services.signer_hsm.caller_policy_file import Authorizer, CallerPolicyFile
from services.signer_hsm.callers import Callers
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.domain import SERVICE, Domain
from services.signer_hsm.health import Health
from services.signer_hsm.keys import LifeCycle
from services.signer_hsm.listing import Listing
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.operations import Operations
from services.signer_hsm.policy import OidcVerifier, Policy, RateLimits
from services.signer_hsm.policy_file import PolicyFile
from services.signer_hsm.problems import PROBLEMS
from services.signer_hsm.readiness import BACKENDS, DATABASE, ReadinessWatch
from services.signer_hsm.settings import SignerSettings
from services.signer_hsm.store import SignerStore
from services.signer_hsm.upkeep import Upkeep
from services.signer_hsm.versions import Versions

MIGRATIONS: Final = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class Core:
    """The domain over one database and its back ends; no listener, no settings."""

    store: SignerStore
    decisions: Decisions
    versions: Versions
    operations: Operations
    health: Health
    domain: Domain


@dataclass(frozen=True, kw_only=True)
class CoreRules:
    """What the domain is told.

    Attributes:
        approval_lifetime: how long an approval is good.
        patience: by back end: seconds after which a signature that was begun has surely ended.
        verify_attestation: checks what is handed in.
    """

    approval_lifetime: timedelta
    patience: Mapping[str, float]
    verify_attestation: Verify


def build_core(
    store: SignerStore,
    policy: Policy,
    backends: Mapping[str, GuardedBackend],
    rules: CoreRules,
    *,
    tokens: OidcVerifier,
    clock: Clock,
    metrics: SignerMetrics,
    monotonic: Callable[[], float] = time.monotonic,
) -> Core:
    """Wire the domain."""
    limits = RateLimits(monotonic)
    decisions = Decisions(policy, limits, store=store, clock=clock, metrics=metrics, monotonic=monotonic)
    versions = Versions(store, backends, clock)
    approvals = Approvals(store, decisions, clock, rules.approval_lifetime)
    operations = Operations(store=store, decisions=decisions, backends=backends, patience=rules.patience, clock=clock)
    life_cycle = LifeCycle(
        store=store, decisions=decisions, versions=versions, approvals=approvals, clock=clock, metrics=metrics
    )
    domain = Domain(
        callers=Callers(tokens, decisions),
        decisions=decisions,
        life_cycle=life_cycle,
        listing=Listing(store, decisions),
        attestations=Attestations(store, decisions, versions, rules.verify_attestation),
        approvals=approvals,
    )
    return Core(store, decisions, versions, operations, Health(backends, decisions, store.catalogue), domain)


def internal_application(core: Core, policy: Authorizer, metrics: HttpMetrics) -> Application:
    """What answers on the mTLS listener."""
    endpoints = SignerEndpoints(callers=core.domain.callers, operations=core.operations, health=core.health)

    def guard(request: Request) -> None:
        policy.authorize(request.peer, SERVICE, request.method, request.path)

    def admin() -> AsgiApp:
        from services.signer_hsm.admin import signer_admin  # FastAPI, a third of the start-up time

        return signer_admin(core.domain, policy)

    return Application(
        SERVICE,
        endpoints.routes(),
        problems=PROBLEMS,
        metrics=metrics,
        guard=guard,
        admin=OnFirstUse(admin),
    )


async def serve(
    settings: SignerSettings, *, clock: Clock | None = None, commit_observer: CommitObserver | None = None
) -> None:
    """Run signer-hsm until a signal says stop.

    Args:
        settings: everything it may be told.
        clock: the time; the machine's if not given.
        commit_observer: called around each durable commit, for crash tests.

    Raises:
        BindError, SettingsError, PolicyError, PkiError, DatabaseError, SignerError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = {
        "internal": bind(settings.host, settings.port, "PQCPKI_SIGNER_HSM_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_SIGNER_HSM_OPS_PORT"),
    }
    registry, readiness = CollectorRegistry(), Readiness(DATABASE, BACKENDS)
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    signer_metrics = SignerMetrics(registry)
    caller_policy = CallerPolicyFile(settings.policy_file, signer_metrics)
    await migrate(settings.database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        database = await Database.open(settings.database_url, clock=clock, commit_observer=commit_observer)
        stack.push_async_callback(database.close)
        checkpointer = await stack.enter_async_context(audit_checkpoints(settings, database, clock, registry))
        core, upkeep = await _core(settings, database, stack, signer_metrics, clock, readiness)
        await core.versions.recover()
        tls = await _transport(settings, stack, tls_metrics, clock)
        tracing = await stack.enter_async_context(open_tracing(SERVICE, settings, registry))
        internal = tracing.watch(internal_application(core, caller_policy, metrics), services_of(settings.trust_domain))
        await run_service(
            SERVICE,
            [
                Listener("internal", internal, sockets["internal"], tls.listener),
                Listener("ops", ops_application(SERVICE, registry, readiness, metrics), sockets["ops"]),
            ],
            state_dir=settings.state_dir,
            readiness=readiness,
            background=[
                BackgroundTask("audit-checkpoints", checkpointer.run),
                BackgroundTask("caller-policy", caller_policy.run),
                *upkeep,
                *tls.background,
                *tracing.background(),
            ],
        )


async def _core(
    settings: SignerSettings,
    database: Database,
    stack: AsyncExitStack,
    metrics: SignerMetrics,
    clock: Clock,
    readiness: Readiness,
) -> tuple[Core, list[BackgroundTask]]:
    """The domain with its back ends open and its keys in memory, and what keeps it going."""
    opened = await BackendRegistry.open(settings.backends, clock=clock, metrics=metrics)
    stack.push_async_callback(opened.aclose)
    tokens = OidcVerifier(settings.oidc_issuers, clock=clock, monotonic=time.monotonic)
    stack.push_async_callback(tokens.aclose)
    store = SignerStore(database)
    await store.refresh()
    may_go_back = settings.keys_policy_may_go_back
    policy_file = PolicyFile(settings.keys_policy_file, store, clock, metrics, may_go_back=may_go_back)
    core = build_core(
        store,
        await policy_file.load(),
        opened.backends,
        core_rules(settings, clock),
        tokens=tokens,
        clock=clock,
        metrics=metrics,
    )
    upkeep = Upkeep(store, clock, timedelta(days=settings.idempotency_days))
    return core, [
        BackgroundTask("key-policy", lambda: policy_file.run(core.decisions)),
        BackgroundTask("catalogue", upkeep.follow),
        BackgroundTask("clean-up", upkeep.clean_up),
        BackgroundTask("interrupted-acts", core.versions.run),
        BackgroundTask("backend-health", opened.watch),
        BackgroundTask("readiness", ReadinessWatch(store, opened.backends, readiness, time.monotonic).run),
    ]


def core_rules(settings: SignerSettings, clock: Clock) -> CoreRules:
    """The domain's rules as the settings have them."""
    return CoreRules(
        approval_lifetime=timedelta(hours=settings.approval_hours),
        patience={backend.name: 2 * backend.deadline_seconds for backend in settings.backends},
        verify_attestation=device_statements(settings.attestation_roots, clock),
    )


@dataclass(frozen=True)
class Transport:
    """The mTLS listener, open, and what keeps it trusted."""

    listener: TlsListener
    background: tuple[BackgroundTask, ...]


async def _transport(settings: SignerSettings, stack: AsyncExitStack, metrics: TlsMetrics, clock: Clock) -> Transport:
    """The listener with CRLs and staple at hand: from disk while they are good, else the CA's status is waited for."""
    staleness = timedelta(seconds=settings.crl_max_staleness_seconds)
    ca = await stack.enter_async_context(WayToCa.open(settings, clock, staleness))
    listener = ca.listener("internal", INTERNAL, ca.credentials, metrics, clock)
    await patiently("staple", listener.open)
    stack.push_async_callback(listener.aclose)
    renewer = internal_renewer(
        ca.client,
        SERVICE,
        certificate=settings.tls_certificate,
        key=settings.tls_key,
        clock=clock,
        observer=metrics,
        superseded=ca.is_superseded,
    )
    return Transport(listener, (BackgroundTask("internal-certificate", renewer.run), *ca.background()))
