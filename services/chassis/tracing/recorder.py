"""Spans as OpenTelemetry has them: its SDK samples and records, and encodes them for OTLP.

The only module that knows OpenTelemetry (extra `tracing`). Of the environment, to which the SDK likes to listen,
nothing is left to decide: sampler, limits and resource are given.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from services.chassis.tracing import Attributes, Kind, Parent

_NAME: Final = "pqcpki"
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_LIMITS: Final = SpanLimits(
    max_span_attributes=16, max_span_attribute_length=256, max_events=0, max_links=0, max_event_attributes=0
)
_FLAGS: Final = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
_NOWHERE: Final = Context()


class RecordedSpan:
    """A span of OpenTelemetry as `services.chassis.tracing.Span`; one that is not sampled has no children."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._context = span.get_span_context()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._context.trace_id:032x}"

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._context.span_id:016x}"

    @property
    def traceparent(self) -> str:
        """Version, ids and flags (W3C Trace Context §3.2)."""
        return f"00-{self.trace_id}-{self.span_id}-{self._context.trace_flags & _FLAGS:02x}"

    def child(self, name: str, kind: Kind, attributes: Attributes) -> RecordedSpan:
        """Begin a part of this one."""
        if not self._context.trace_flags.sampled:
            return self
        inside = set_span_in_context(self._span, _NOWHERE)
        span = self._tracer.start_span(name, inside, kind=_KINDS[kind], attributes=attributes)
        return RecordedSpan(self._tracer, span)

    def note(self, name: str | None, attributes: Attributes) -> None:
        """Give it further attributes, and another name."""
        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """Mark it as failed."""
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """Hand it to the export."""
        self._span.end()


class Recorder:
    """Begins the traces of a service.

    Args:
        service: its name.
        ratio: of the traces that begin here, the share that is recorded; in those of other services, they have decided.
        ended: is given each recorded span once it is over.
    """

    def __init__(self, service: str, ratio: float, ended: Callable[[ReadableSpan], None]) -> None:
        resource = Resource(
            {
                "service.name": service,
                "service.namespace": _NAME,
                "service.version": version(_NAME),
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            span_limits=_LIMITS,
            id_generator=RandomIdGenerator(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(_Ended(ended))
        self._tracer = provider.get_tracer(_NAME)

    def begin(self, name: str, parent: Parent | None, attributes: Attributes) -> RecordedSpan:
        """The span of a request; it begins a trace where there is no parent."""
        context = _NOWHERE if parent is None else set_span_in_context(_remote(parent), _NOWHERE)
        span = self._tracer.start_span(name, context, kind=SpanKind.SERVER, attributes=attributes)
        return RecordedSpan(self._tracer, span)


def _remote(parent: Parent) -> NonRecordingSpan:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags))


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest of OTLP in protobuf."""
    request: bytes = encode_spans(spans).SerializeToString()
    return request


class _Ended(SpanProcessor):
    """Tells of each span that is over, in the thread where it ended."""

    def __init__(self, ended: Callable[[ReadableSpan], None]) -> None:
        self._ended = ended

    def on_end(self, span: ReadableSpan) -> None:
        """Hand it on."""
        self._ended(span)
