"""The one place where the ACME server is put together: settings in, a running service out."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx
from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.keys import open_key
from services.acme.accounts import AccountRules
from services.acme.certificates import INTERNAL_PROFILE, PUBLIC_PROFILE, PublicCertificate, issue_from, public_names
from services.acme.orders import OrderRules
from services.acme.service import AcmeService, ServiceRules
from services.acme.settings import AcmeSettings
from services.acme.transport import (
    CREDENTIALS_CHECK_SECONDS,
    STATUS_TIMEOUT_SECONDS,
    WayToCa,
    credentials_source,
    patiently,
    public_listener,
)
from services.acme.urls import Urls
from services.acme.validation import Validator
from services.chassis.audit import Checkpointer
from services.chassis.database import CommitObserver, Database
from services.chassis.errors import SettingsError
from services.chassis.identity import IdentityFiles, IdentityRenewer
from services.chassis.migrations import migrate
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.runner import BackgroundTask, Listener, bind, run_service

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_OTHERS: Final = 0o077


async def serve(
    settings: AcmeSettings, *, clock: Clock | None = None, commit_observer: CommitObserver | None = None
) -> None:
    """Run the ACME server until a signal says stop.

    Args:
        settings: everything it may be told.
        clock: the time; the machine's if not given.
        commit_observer: called around each durable commit, for crash tests.

    Raises:
        BindError, SettingsError, PkiError, DatabaseError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = {
        "public": bind(settings.host, settings.port, "PQCPKI_ACME_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_ACME_OPS_PORT"),
    }
    urls = Urls(settings.external_url or f"https://localhost:{sockets['public'].getsockname()[1]}")
    registry = CollectorRegistry()
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    await migrate(settings.database_url, MIGRATIONS)
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "signing"))
        database = await Database.open(settings.database_url, clock=clock, commit_observer=commit_observer)
        stack.push_async_callback(database.close)
        checkpointer = await _checkpointer(settings, database, pool, clock)
        stack.push_async_callback(checkpointer.write)
        status = httpx.AsyncClient(base_url=settings.ca_status_url, timeout=STATUS_TIMEOUT_SECONDS, trust_env=False)
        ca = WayToCa.build(settings, await stack.enter_async_context(status), clock)
        await stack.enter_async_context(ca.http)
        await ca.ready()
        names = public_names(settings.tls_names, urls.base)
        directory = settings.state_dir / "tls" / "public"
        public = PublicCertificate(directory, names, issue_from(ca.client, PUBLIC_PROFILE), clock)
        await patiently("public certificate", public.ensure)
        credentials = credentials_source(public.files)
        tls = public_listener(credentials, ca, tls_metrics, clock)
        stack.push_async_callback(tls.aclose)
        await patiently("staple", tls.open)
        service = AcmeService.assemble(
            database=database,
            authority=ca.client,
            validator=Validator.build(settings),
            urls=urls,
            rules=service_rules(settings),
            clock=clock,
            metrics=metrics,
        )
        stack.push_async_callback(service.close)
        await service.resume()
        readiness = Readiness()
        listeners = [
            Listener("public", service.application, sockets["public"], tls),
            Listener("ops", ops_application("acme", registry, readiness, metrics), sockets["ops"]),
        ]
        internal = IdentityFiles(settings.tls_certificate.parent, settings.tls_certificate.name, settings.tls_key.name)
        renew_public = IdentityRenewer(public.files, issue_from(ca.client, PUBLIC_PROFILE), clock, tls_metrics)
        renew_internal = IdentityRenewer(internal, issue_from(ca.client, INTERNAL_PROFILE), clock, tls_metrics)
        background = [
            BackgroundTask("audit-checkpoints", checkpointer.run),
            BackgroundTask("clean-up", service.run_clean_up),
            BackgroundTask("public-certificate", renew_public.run),
            BackgroundTask("internal-certificate", renew_internal.run),
            BackgroundTask("public-credentials", lambda: credentials.run(CREDENTIALS_CHECK_SECONDS)),
            *ca.background(),
        ]
        await run_service("acme", listeners, state_dir=settings.state_dir, readiness=readiness, background=background)


def service_rules(settings: AcmeSettings) -> ServiceRules:
    """The rules as the settings have them."""
    return ServiceRules(
        AccountRules(settings.terms_of_service, settings.max_contacts),
        OrderRules(settings.order_lifetime_seconds, settings.max_identifiers, settings.max_pending_orders),
        settings.hold_seconds,
    )


async def _checkpointer(
    settings: AcmeSettings, database: Database, pool: ThreadPoolExecutor, clock: Clock
) -> Checkpointer:
    key = await open_key(settings.audit_key, secrets=lambda _uri: _passphrase(settings.passphrase_file), pool=pool)
    return Checkpointer(database, key, settings.state_dir / "audit-checkpoints.jsonl", clock)


def _passphrase(path: Path) -> bytes:
    try:
        if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
            raise SettingsError(f"passphrase_file {path} may be read by others: set its mode to 0600")
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise SettingsError(f"passphrase_file {path} cannot be read: {error.strerror}") from error
