"""A perspective put together: settings in, a running service out. It has no database, and nothing to lose."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry

from pkicore.clock import Clock, SystemClock
from pkicore.mtls import INTERNAL
from services.acme.perspectives.endpoint import perspective_application
from services.acme.perspectives.settings import SERVICE, PerspectiveSettings
from services.acme.validation import Validator
from services.ca.client.identity import internal_renewer
from services.ca.client.way import WayToCa, patiently
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.peer import CallerPolicy
from services.chassis.runner import BackgroundTask, Listener, bind, run_service
from services.chassis.settings import read_text

MAX_STALENESS: Final = timedelta(hours=1)  # without news of the CRLs for so long, no client certificate is believed


async def serve(settings: PerspectiveSettings, *, clock: Clock | None = None) -> None:
    """Run a perspective until a signal says stop.

    Args:
        settings: everything it may be told.
        clock: the time; the machine's if not given.

    Raises:
        BindError, SettingsError, PolicyError, PkiError: it cannot start, and why.
    """
    clock = clock or SystemClock()
    sockets = {
        "internal": bind(settings.host, settings.port, "PQCPKI_PERSPECTIVE_PORT"),
        "ops": bind(settings.ops_host, settings.ops_port, "PQCPKI_PERSPECTIVE_OPS_PORT"),
    }
    registry, readiness = CollectorRegistry(), Readiness()
    metrics, tls_metrics = HttpMetrics(registry), TlsMetrics(registry, clock)
    policy = CallerPolicy.load(read_text(settings.policy_file))
    application = perspective_application(Validator.build(settings, clock), policy, metrics)
    async with AsyncExitStack() as stack:
        ca = await stack.enter_async_context(WayToCa.open(settings, clock, MAX_STALENESS))
        listener = ca.listener("internal", INTERNAL, ca.credentials, tls_metrics, clock)
        await patiently("staple", listener.open)
        stack.push_async_callback(listener.aclose)
        renewer = internal_renewer(
            ca.client,
            SERVICE,
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            clock=clock,
            observer=tls_metrics,
            superseded=ca.is_superseded,
        )
        await run_service(
            SERVICE,
            [
                Listener("internal", application, sockets["internal"], listener),
                Listener("ops", ops_application(SERVICE, registry, readiness, metrics), sockets["ops"]),
            ],
            state_dir=settings.state_dir,
            readiness=readiness,
            background=[BackgroundTask("internal-certificate", renewer.run), *ca.background()],
        )
