"""The one place where the ACME server is put together: settings in, a running service out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from socket import socket
from typing import Final

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.mtls import INTERNAL, TlsListener
from services.acme.accounts.account import AccountRules
from services.acme.accounts.inventory import AccountInventory
from services.acme.accounts.terms import Terms
from services.acme.admin_application import admin_application
from services.acme.caa import Caa
from services.acme.client_address import TrustedProxies
from services.acme.directory import Meta
from services.acme.external_accounts.secret import EabSecret
from services.acme.incidents.watch import IncidentWatch
from services.acme.nonces import open_nonces
from services.acme.orders.rules import OrderRules
from services.acme.perspectives.endpoint import Validates
from services.acme.perspectives.remote import corroborated
from services.acme.renewals.revocation_feed import FollowedRevocations
from services.acme.service import AcmeService, Outside, ServiceRules
from services.acme.settings import AcmeSettings
from services.acme.store.revocation_feed import RevocationFeedStore
from services.acme.urls import Urls
from services.acme.validation import Validator
from services.ca.client.identity import internal_renewer
from services.ca.client.public_certificate import public_names
from services.ca.client.public_side import PublicSide
from services.ca.client.way import WayToCa, patiently
from services.chassis.asgi import Application, AsgiApp
from services.chassis.audit import audit_checkpoints
from services.chassis.database import CommitObserver, Database
from services.chassis.identity import IdentityRenewer
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.peer import CallerPolicy
from services.chassis.published_keys import open_published_keys
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.settings import read_text
from services.chassis.tracing.opening import open_tracing

MIGRATIONS: Final = Path(__file__).parent / "migrations"
MAX_STALENESS: Final = timedelta(hours=1)  # without news of the CRLs for so long, no client certificate is believed


async def serve(
    settings: AcmeSettings, *, clock: Clock | None = None, commit_observer: CommitObserver | None = None
) -> None:
    """Run the ACME server until a signal says stop.

    Args:
        settings: everything it may be told.
        clock: the time; the machine's if not given.
        commit_observer: called around each durable commit, for crash tests.

    Raises:
        BindError, SettingsError, PolicyError, PkiError, DatabaseError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = _sockets(settings)
    urls = Urls(settings.external_url or f"https://localhost:{sockets['public'].getsockname()[1]}")
    policy = CallerPolicy.load(read_text(settings.policy_file))
    registry, readiness = CollectorRegistry(), Readiness()
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    await migrate(settings.database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        database = await Database.open(settings.database_url, clock=clock, commit_observer=commit_observer)
        stack.push_async_callback(database.close)
        checkpointer = await stack.enter_async_context(audit_checkpoints(settings, database, clock, registry))
        ca = await stack.enter_async_context(WayToCa.open(settings, clock, MAX_STALENESS))
        names = public_names(settings.tls_names, urls.base)
        public = await PublicSide.open("acme", names, settings.state_dir, ca, tls_metrics, clock)
        stack.push_async_callback(public.listener.aclose)
        admin = await _admin_listener(ca, tls_metrics, clock, stack)
        service = AcmeService.assemble(
            database=database,
            outside=Outside(ca.client, await _validator(settings, ca, clock, registry, stack), Caa.build(settings)),
            nonces=await open_nonces(database, clock),
            urls=urls,
            rules=service_rules(settings),
            clock=clock,
            metrics=metrics,
        )
        stack.push_async_callback(service.close)
        await service.resume()
        tracing = await stack.enter_async_context(open_tracing("acme", settings, registry))
        application = _behind_proxies(tracing.watch(service.application), settings)
        administration = tracing.watch(admin_application(service.administration, policy, metrics))
        listeners = [
            Listener("public", application, sockets["public"], public.listener),
            Listener("admin", administration, sockets["admin"], admin),
            Listener("ops", ops_application("acme", registry, readiness, metrics), sockets["ops"]),
        ]
        background = [
            BackgroundTask("audit-checkpoints", checkpointer.run),
            *_own_background(service, ca, registry),
            BackgroundTask("internal-certificate", _internal_renewer(settings, ca, tls_metrics, clock).run),
            *public.background(),
            *ca.background(),
            *tracing.background(),
        ]
        await run_service("acme", listeners, state_dir=settings.state_dir, readiness=readiness, background=background)


def _own_background(service: AcmeService, ca: WayToCa, registry: CollectorRegistry) -> list[BackgroundTask]:
    """What the service does beside its requests, and its metrics."""
    service.renewal_info.register(registry)
    feed = FollowedRevocations(ca.client, RevocationFeedStore(service.database))
    return [
        BackgroundTask("clean-up", service.run_clean_up),
        BackgroundTask("upkeep", service.upkeep.run),
        BackgroundTask("account-inventory", AccountInventory(service.store, registry).run),
        BackgroundTask("cert-ids", service.renewals.run_naming),
        BackgroundTask("revocations", feed.run),
        BackgroundTask("incidents", IncidentWatch(service.administration.incidents, registry).run),
    ]


def _sockets(settings: AcmeSettings) -> dict[str, socket]:
    return {
        "public": bind(settings.host, settings.port, "PQCPKI_ACME_PORT"),
        "admin": bind(settings.host, settings.admin_port, "PQCPKI_ACME_ADMIN_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_ACME_OPS_PORT"),
    }


async def _admin_listener(ca: WayToCa, metrics: TlsMetrics, clock: Clock, stack: AsyncExitStack) -> TlsListener:
    listener = ca.listener("admin", INTERNAL, ca.credentials, metrics, clock)
    await patiently("staple", listener.open)
    stack.push_async_callback(listener.aclose)
    return listener


def _behind_proxies(application: Application, settings: AcmeSettings) -> AsgiApp:
    if not settings.trusted_proxies:
        return application
    return TrustedProxies(application, settings.trusted_proxies, settings.proxy_header)


async def _validator(
    settings: AcmeSettings, ca: WayToCa, clock: Clock, registry: CollectorRegistry, stack: AsyncExitStack
) -> Validates:
    """This server's own validation, and the remote perspectives behind it."""
    primary = Validator.build(settings, clock, settings.challenges)
    return await corroborated(primary, settings, ca, clock, registry, stack)


def _internal_renewer(settings: AcmeSettings, ca: WayToCa, metrics: TlsMetrics, clock: Clock) -> IdentityRenewer:
    certificate, key = settings.tls_certificate, settings.tls_key
    return internal_renewer(
        ca.client,
        "acme",
        certificate=certificate,
        key=key,
        clock=clock,
        observer=metrics,
        superseded=ca.is_superseded,
    )


def service_rules(settings: AcmeSettings) -> ServiceRules:
    """The rules as the settings have them."""
    return ServiceRules(
        AccountRules(Terms(settings.terms_of_service), settings.max_contacts),
        OrderRules(
            settings.order_lifetime_seconds,
            settings.max_identifiers,
            settings.max_pending_orders,
            settings.authorization_reuse_seconds,
            settings.challenges,
            settings.all_profiles(),
            settings.default_profile,
        ),
        settings.hold_seconds,
        EabSecret(settings.eab_secret_file or settings.state_dir / "eab-secret"),
        _meta(settings),
        open_published_keys(settings.published_keys_file),
        settings.limits,
    )


def _meta(settings: AcmeSettings) -> Meta:
    return Meta(
        terms=settings.terms_of_service,
        website=settings.website,
        caa_identities=settings.caa_identities,
        external_account_required=settings.external_account_required,
        profiles={profile.name: profile.description for profile in settings.all_profiles().values()},
    )
