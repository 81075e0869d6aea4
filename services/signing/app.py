"""The one place where the signing service is put together: settings in, a running service out.

It starts without signer-hsm and the CA where it can: what is on record is served, and requests to sign are answered 503
until signer-hsm is there. Its public certificate and its CRLs come from the CA, or from disk while they are good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.keys.remote import RemoteSigner
from services.ca.client.identity import internal_renewer
from services.ca.client.public_certificate import public_names
from services.ca.client.public_side import PublicSide
from services.ca.client.way import WayToCa
from services.chassis.asgi import Application, AsgiApp, Route
from services.chassis.audit import archive_rules, audit_checkpoints
from services.chassis.database import CommitObserver, Database
from services.chassis.first_use import OnFirstUse
from services.chassis.identity import IdentityRenewer
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.tracing.opening import open_tracing
from services.signing.aftercare import Aftercare, AftercareRules, Signed, build_aftercare
from services.signing.callers import MtlsCallers, OidcCallers
from services.signing.certification import CaIssuer, OidcCertifier
from services.signing.core import Core, Outside, build_core, core_rules
from services.signing.domain import SERVICE
from services.signing.metrics import SigningMetrics
from services.signing.opening import Ground, open_renewal, open_witnesses
from services.signing.policy import PolicyDirectory, PolicySchema
from services.signing.problems import PROBLEMS
from services.signing.published_trust import PublishedTrust
from services.signing.readiness import DATABASE, SIGNER, ReadinessWatch
from services.signing.renewal import Renewal
from services.signing.sbom import SbomChecker
from services.signing.settings import SigningSettings
from services.signing.signer import http_to_signer, signer_over
from services.signing.store import SigningStore

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def public_application(
    core: Core, metrics: HttpMetrics, more: Sequence[Route] = (), aftercare: Aftercare | None = None
) -> Application:
    """What answers on the TLS listener; `more` are public endpoints: log, time-stamps, trusted root."""

    def admin() -> AsgiApp:
        from services.signing.admin import signing_admin  # FastAPI, a third of the start-up time

        further = () if aftercare is None else aftercare.admin()
        return signing_admin(core.entrance.caller_of, core.api_keys, further)

    routes = [*core.endpoints.routes(), *more]
    if aftercare is not None:
        routes += aftercare.routes(core.entrance)
    return Application(SERVICE, routes, problems=PROBLEMS, metrics=metrics, admin=OnFirstUse(admin))


async def serve(
    settings: SigningSettings, *, clock: Clock | None = None, commit_observer: CommitObserver | None = None
) -> None:
    """Run the signing service until a signal says stop.

    Args:
        settings: everything it may be told.
        clock: the time; the machine's if not given.
        commit_observer: called around each durable commit, for crash tests.

    Raises:
        BindError, SettingsError, SigningPolicyError, PkiError, DatabaseError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = {
        "public": bind(settings.host, settings.port, "PQCPKI_SIGNING_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_SIGNING_OPS_PORT"),
    }
    base_url = settings.external_url or f"https://localhost:{sockets['public'].getsockname()[1]}"
    registry, readiness = CollectorRegistry(), Readiness(DATABASE, SIGNER)
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    signing_metrics = SigningMetrics(registry)
    await migrate(settings.database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        database = await Database.open(settings.database_url, clock=clock, commit_observer=commit_observer)
        stack.push_async_callback(database.close)
        checkpointer = await stack.enter_async_context(audit_checkpoints(settings, database, clock, registry))
        ca = await stack.enter_async_context(
            WayToCa.open(settings, clock, timedelta(seconds=settings.crl_max_staleness_seconds))
        )
        parts = await _parts(settings, base_url, ca, database, stack, signing_metrics, clock)
        names = public_names(settings.tls_names, base_url)
        public = await PublicSide.open(SERVICE, names, settings.state_dir, ca, tls_metrics, clock)
        stack.push_async_callback(public.listener.aclose)
        aftercare = await _aftercare(settings, database, parts, clock, registry)
        tracing = await stack.enter_async_context(open_tracing(SERVICE, settings, registry))
        application = tracing.watch(public_application(parts.core, metrics, parts.routes, aftercare))
        await run_service(
            SERVICE,
            [
                Listener("public", application, sockets["public"], public.listener),
                Listener("ops", ops_application(SERVICE, registry, readiness, metrics), sockets["ops"]),
            ],
            state_dir=settings.state_dir,
            readiness=readiness,
            background=[
                BackgroundTask("audit-checkpoints", checkpointer.run),
                BackgroundTask("policies", parts.policies.run),
                BackgroundTask("readiness", _readiness_watch(settings, parts, readiness).run),
                BackgroundTask("clean-up", parts.core.upkeep.run),
                BackgroundTask("key-certificates", parts.renewal.run),
                BackgroundTask("internal-certificate", _internal_renewer(settings, ca, tls_metrics, clock).run),
                *aftercare.background(),
                *public.background(),
                *ca.background(),
                *tracing.background(),
            ],
        )


@dataclass(frozen=True)
class _Parts:
    """The domain, its public endpoints, and the policies that it follows."""

    core: Core
    routes: Sequence[Route]
    policies: PolicyDirectory
    signer: RemoteSigner
    published: PublishedTrust
    renewal: Renewal


async def _parts(
    settings: SigningSettings,
    base_url: str,
    ca: WayToCa,
    database: Database,
    stack: AsyncExitStack,
    metrics: SigningMetrics,
    clock: Clock,
) -> _Parts:
    http = await stack.enter_async_context(http_to_signer(settings, ca, clock))
    ground = Ground(
        settings=settings,
        base_url=base_url,
        ca=ca,
        signer=signer_over(http, settings.signer_timeout_seconds),
        database=database,
        store=SigningStore(database, clock),
        stack=stack,
        pool=stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "signing")),
        clock=clock,
        monotonic=time.monotonic,
    )
    schema = PolicySchema(claim for issuer in settings.oidc_issuers for claim in issuer.more_claims)
    policies = PolicyDirectory(settings.policies_directory, schema, ground.store, metrics.policies_in_force)
    await policies.load()
    tokens = OidcCallers(settings.oidc_issuers, clock=clock, monotonic=time.monotonic)
    stack.push_async_callback(tokens.aclose)
    renewal = await open_renewal(ground, metrics)
    trust = await open_witnesses(ground, renewal)
    certifier = None
    if settings.certificate_profile:
        certifier = OidcCertifier(
            CaIssuer(ca.client, settings.certificate_profile), lambda: trust.published.root, clock
        )
    outside = Outside(
        signer=ground.signer,
        policies=policies,
        peers=MtlsCallers(settings.mtls_callers),
        tokens=tokens,
        sboms=SbomChecker(),
        witnesses=trust.witnesses,
        certifier=certifier,
        pool=ground.pool,
    )
    rules = core_rules(settings, base_url, {key.key_id: key for key in renewal.keys})
    core = build_core(database, settings.state_dir, outside, rules, clock=clock, metrics=metrics)
    return _Parts(core, trust.routes, policies, ground.signer, trust.published, renewal)


def _readiness_watch(settings: SigningSettings, parts: _Parts, readiness: Readiness) -> ReadinessWatch:
    own = [key.partition("/")[0] for key in (settings.log_key, settings.timestamp_key) if key is not None]
    keys = own + [key for one in settings.profiles for key in (*one.keys, *one.attestation_keys)]
    return ReadinessWatch(parts.core.store.probe, parts.signer, keys[0] if keys else None, readiness)


def _internal_renewer(settings: SigningSettings, ca: WayToCa, metrics: TlsMetrics, clock: Clock) -> IdentityRenewer:
    certificate, key = settings.tls_certificate, settings.tls_key
    return internal_renewer(
        ca.client,
        SERVICE,
        certificate=certificate,
        key=key,
        clock=clock,
        observer=metrics,
        superseded=ca.is_superseded,
    )


async def _aftercare(
    settings: SigningSettings, database: Database, parts: _Parts, clock: Clock, registry: CollectorRegistry
) -> Aftercare:
    core = parts.core
    signed = Signed(
        store=core.store,
        outbox=core.outbox,
        objects=core.objects,
        quotas=core.quotas,
        decisions=core.decisions,
        signatures=core.signatures,
        signer=parts.signer,
        trusted_root=parts.published.to_json,
    )
    rules = AftercareRules(
        webhooks=settings.webhooks,
        retention=settings.retention,
        passphrase_file=settings.passphrase_file,
        directory=settings.state_dir,
        audit_archives=archive_rules(settings).directory,
    )
    return await build_aftercare(database, signed, rules, clock=clock, registry=registry)
