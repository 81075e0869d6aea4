"""Traces as the settings have them: off, or recorded and sent to a collector."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from prometheus_client import CollectorRegistry

from services.chassis.asgi import Application
from services.chassis.errors import SettingsError
from services.chassis.runner import BackgroundTask
from services.chassis.settings import ServiceSettings
from services.chassis.tracing import Tracer
from services.chassis.tracing.export import Post, SpanExport, TraceMetrics
from services.chassis.tracing.requests import Believes, RequestTraces, nobody

_PATH: Final = "/v1/traces"
_POST_SECONDS: Final = 5.0
_MAX_ANSWER: Final = 64 * 1024
_PROTOBUF: Final = {"content-type": "application/x-protobuf", "accept-encoding": "identity"}


class Tracing:
    """One service's traces; where they are off, nothing here does anything.

    Args:
        tracer: begins them, None where they are off.
        export: brings them to the collector.
    """

    def __init__(self, tracer: Tracer | None = None, export: Callable[[], BackgroundTask] | None = None) -> None:
        self._tracer = tracer
        self._export = export

    def watch(self, application: Application, believes: Believes = nobody) -> Application:
        """Have a span for each request of an application, which is returned.

        Args:
            application: what is watched.
            believes: whose `traceparent` it goes on with; nobody's where strangers may call.
        """
        if self._tracer is not None:
            application.trace(RequestTraces(self._tracer, believes).begin)
        return application

    def background(self) -> tuple[BackgroundTask, ...]:
        """What sends them."""
        return () if self._export is None else (self._export(),)


@asynccontextmanager
async def open_tracing(service: str, settings: ServiceSettings, registry: CollectorRegistry) -> AsyncGenerator[Tracing]:
    """The traces of a service, for as long as the context is open.

    Raises:
        SettingsError: they are on, and OpenTelemetry is not installed or the roots of the collector cannot be read.
    """
    if not settings.tracing_endpoint:
        yield Tracing()
        return
    try:
        from services.chassis.tracing.recorder import Recorder, encode
    except ModuleNotFoundError as error:
        raise SettingsError("tracing_endpoint needs OpenTelemetry: pip install 'pqcpki[tracing]'") from error
    async with _collector(settings.tracing_ca_file) as http:
        export = SpanExport(encode, _post(http, settings.tracing_endpoint + _PATH), TraceMetrics(registry))
        tracer = Recorder(service, settings.tracing_ratio, export.put)
        yield Tracing(tracer, lambda: BackgroundTask("traces", export.run))


def _collector(ca_file: Path | None) -> httpx.AsyncClient:
    """A client that follows nothing, takes nothing from the environment and waits for nothing long."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"tracing_ca_file {ca_file} cannot be read as PEM certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=_POST_SECONDS)


def _post(http: httpx.AsyncClient, url: str) -> Post:
    async def post(body: bytes) -> int:
        async with (
            asyncio.timeout(_POST_SECONDS),
            http.stream("POST", url, content=body, headers=_PROTOBUF) as answer,
        ):
            size = 0
            async for part in answer.aiter_raw():  # to its end, so that the connection can be kept
                size += len(part)
                if size > _MAX_ANSWER:
                    break
            return answer.status_code

    return post
