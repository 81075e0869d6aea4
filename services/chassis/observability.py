"""Logs, request ids and metrics.

Logs are one JSON object per line on standard output. Metrics live in a registry that `app.py` makes: nothing here is
global but what the running task knows of the request that it answers.
"""

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pkicore.clock import Clock
from services.chassis.log_budget import LogBudget, neighbourhood
from services.chassis.tracing import current_span

_request: ContextVar[dict[str, Any] | None] = ContextVar("request", default=None)
"""What stands in every log line of the request that the running task, or the task that started it, answers."""

_SECRET = re.compile(
    r"(?i)(^|[_-])(passphrase|password|secret|token|private_?key|authorization|cookie|hmac|pin)($|[_-])"
)
_REDACTED = "[redacted]"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Without local variables: they would carry secrets into the log.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

EventDict: TypeAlias = MutableMapping[str, Any]


def begin_request(request_id: str) -> None:
    """From here on, log lines of this task and of those it starts carry the request id."""
    _request.set({"request_id": request_id})


def note(**facts: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Have every further log line of the running request say this too; nothing outside of a request."""
    known = _request.get()
    if known is not None:
        known.update(facts)


def current_request_id() -> str | None:
    """The id of the running request, to be sent on as `X-Request-Id`."""
    return (_request.get() or {}).get("request_id")


def configure_logging(service: str, level: str, log_format: str) -> None:
    """Sets up structlog and the standard library's logging; called once, by a service's entry point.

    Args:
        service: Stands in every line.
        level: debug, info, warning or error.
        log_format: "json" or "console".
    """
    threshold = _LEVELS[level]
    shared: list[Callable[[Any, str, EventDict], Any]] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _context(service),
        redact,
    ]
    if log_format == "json":
        shared += [_TRACEBACKS, structlog.processors.JSONRenderer(orjson.dumps, default=repr)]
    else:
        shared.append(structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()))
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_factory(log_format),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(threshold)


def _factory(log_format: str) -> Callable[..., Any]:
    if log_format == "json":
        return structlog.BytesLoggerFactory(sys.stdout.buffer)
    return structlog.PrintLoggerFactory(sys.stdout)


def _context(service: str) -> Callable[[Any, str, EventDict], EventDict]:
    def add(_logger: object, _method: str, event: EventDict) -> EventDict:
        span = current_span()
        traced = {} if span is None else {"trace_id": span.trace_id, "span_id": span.span_id}
        return {**(_request.get() or {}), **traced, **event, "service": service}

    return add


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Blanks values whose key is named like a secret, at any depth of mappings."""
    for key, value in event.items():
        if _is_secret(key):
            event[key] = _REDACTED
        elif isinstance(value, dict):
            event[key] = redact(_logger, _method, dict(value))
    return event


@lru_cache(maxsize=512)
def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


class _StandardLogs(logging.Handler):
    """Libraries' log records, in the same lines as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _route_standard_logging(threshold: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_StandardLogs()]
    root.setLevel(max(threshold, logging.WARNING))


class HttpMetrics:
    """Requests counted and timed by route pattern, never by path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("service", "route", "method", "status")
        self._total = Counter("pqcpki_http_requests_total", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "pqcpki_http_request_seconds",
            "Time from the request's headers to its response.",
            labels[:3],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def observe(self, service: str, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one request. Labels must come from bounded sets: the children are kept."""
        key = (service, route, method, status)
        child = self._children.get(key)
        if child is None:
            total = self._total.labels(service, route, method, str(status))
            child = (total.inc, self._seconds.labels(service, route, method).observe)
            self._children[key] = child
        child[0]()
        child[1](seconds)


class TlsMetrics:
    """Handshakes, certificate ages and rotations; a `pkicore.mtls.server.HandshakeObserver`."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._log = structlog.get_logger("tls")
        self._handshakes = Counter(
            "mtls_handshakes_total", "TLS handshakes.", ("listener", "result", "reason"), registry=registry
        )
        self._expiry = Gauge(
            "mtls_cert_expiry_seconds", "Seconds until the certificate expires.", ("listener",), registry=registry
        )
        self._age = Gauge("cert_age_seconds", "Seconds since the certificate began.", ("listener",), registry=registry)
        self._rotations = Counter("mtls_rotation_total", "Certificate renewals.", ("result",), registry=registry)
        self._refusals = LogBudget(self._left_out)

    def handshake(
        self,
        *,
        listener: str,
        result: Literal["success", "failure"],
        reason: str,
        peer: str | None,
        group: str | None,
        client: str | None,
    ) -> None:
        """Counts a handshake, and logs it when it failed.

        Of one address's failures the first of a second each have their line, the others one together. It is the
        address that counts and not the peer: a certificate that is refused may name whomever it likes.
        """
        self._handshakes.labels(listener, result, reason).inc()
        if result == "success":
            self._log.debug("handshake", listener=listener, peer=peer, group=group)
        elif self._refusals.spend(neighbourhood(client or "unknown")):
            self._log.warning("handshake refused", listener=listener, reason=reason, peer=peer, client=client)

    def _left_out(self, client: str, lines: int) -> None:
        self._log.warning("more handshakes refused", client=client, left_out=lines)

    def certificate(self, listener: str, not_before: datetime, not_after: datetime) -> None:
        """Makes the certificate's age and remaining life readable from now on."""
        clock = self._clock
        self._expiry.labels(listener).set_function(lambda: float((not_after - clock.now()).total_seconds()))
        self._age.labels(listener).set_function(lambda: float((clock.now() - not_before).total_seconds()))

    def rotation(self, result: Literal["success", "failure"]) -> None:
        """Counts an attempt to renew."""
        self._rotations.labels(result).inc()
