"""An OpenTelemetry collector, simulated over a real socket: takes OTLP/HTTP in protobuf, and fails as it is told.

It decodes with the schema of the OpenTelemetry project and shares no code with the sender.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

PATIENCE_SECONDS = 60.0  # of a machine that does other things too


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it came; ids in hexadecimal, no parent is empty."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str | int]
    failed: bool
    seconds: float


class OtlpCollector:
    """Answers 200 until told otherwise, on one port of 127.0.0.1.

    Attributes:
        spans: all that came in requests that were answered 200, in order.
        requests: how many came, whatever was answered.
        status: of further answers.
        hold: seconds before an answer.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.spans: list[CollectedSpan] = []
        self.requests = 0
        self.status = 200
        self.hold = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What the services are told."""
        host = "127.0.0.1" if self._scheme == "http" else "localhost"
        return f"{self._scheme}://{host}:{self._server.server_address[1]}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a deployment is told, so that all of its services are traced."""
        return {f"PQCPKI_{service}_TRACING_ENDPOINT": self.url for service in ("ACME", "CA", "SIGNER_HSM", "SIGNING")}

    def way_to(self, span: CollectedSpan) -> list[str]:
        """A span and those that it is a part of, outwards, as "service kind name"; waits for each to come."""
        way = [span]
        while (parent := self.parent_of(way[-1])) is not None:
            way.append(parent)
        return [f"{one.service} {one.kind} {one.name}" for one in way]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, service: str, name: str, trace_id: str = "") -> CollectedSpan:
        """The first span of a name, of a trace or of any; waits until it has come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for span in tuple(self.spans):
                if (span.service, span.name) == (service, name) and span.trace_id.startswith(trace_id):
                    return span
            seen = {(span.service, span.name) for span in tuple(self.spans)}
            assert time.monotonic() < deadline, f"no {name} of {service} among {sorted(seen)}"
            time.sleep(0.05)

    def parent_of(self, span: CollectedSpan) -> CollectedSpan | None:
        """The span that it is a part of, None where there is none; waits until it has come, as it ends later."""
        if not span.parent_id:
            return None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for other in tuple(self.spans):
                if (other.trace_id, other.span_id) == (span.trace_id, span.parent_id):
                    return other
            assert time.monotonic() < deadline, f"the parent of {span} has not come"
            time.sleep(0.05)

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = str(_values(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(_collected(service, span) for span in scope.spans)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests += 1
                status = collector.status
                time.sleep(collector.hold)
                if (self.path, self.headers["content-type"]) != ("/v1/traces", "application/x-protobuf"):
                    status = 404
                elif status == 200:
                    collector._take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _collected(service: str, span: Span) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    return {
        pair.key: pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
        for pair in pairs
    }
