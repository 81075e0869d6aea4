"""What is counted, timed and written of requests.

A success is written at debug level only; of one caller's refusals and failures the first of a second each have their
line, the others one together. Refusals are counted apart from failures, so that a flood of the ones hides none of the
others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from services.chassis.log_budget import LogBudget, neighbourhood

if TYPE_CHECKING:
    from services.chassis.asgi import Request, Response
    from services.chassis.observability import HttpMetrics
    from services.chassis.problems import ProblemTable

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_OK: Final = range(200, 400)  # that nothing has changed (304) is no refusal
_SERVER_ERROR: Final = 500
_NOT_IMPLEMENTED: Final = 501
_DEBUG: Final = 10


class RequestLog:
    """Metrics and log lines of one application's requests.

    Args:
        service: Its name, a metric label.
        problems: Which exceptions are known; of the others the traceback is written.
        metrics: Counts and times.
    """

    def __init__(self, service: str, problems: ProblemTable, metrics: HttpMetrics) -> None:
        self._service = service
        self._problems = problems
        self._metrics = metrics
        self._log = structlog.get_logger("http")
        self._log_successes = self._log.is_enabled_for(_DEBUG)
        self._refusals, self._failures = LogBudget(self._left_out), LogBudget(self._left_out)

    def account(self, request: Request, response: Response, seconds: float, fault: Exception | None) -> None:
        """Count and time a request that was answered, and write a line where it is worth one."""
        method = request.method if request.method in _METHODS else "other"
        self._metrics.observe(self._service, request.route, method, response.status, seconds)
        if response.status in _OK:
            if self._log_successes:
                self._log.debug("request", **_facts(request, response, seconds))
            return
        refused = response.status < _SERVER_ERROR or response.status == _NOT_IMPLEMENTED  # the caller's mistake
        if not (self._refusals if refused else self._failures).spend(_caller_of(request)):
            return
        if refused:
            self._log.info("request refused", **_facts(request, response, seconds), **_reason(fault))
        elif fault is None or self._problems.knows(fault):
            self._log.error("request failed", **_facts(request, response, seconds), **_reason(fault))
        else:
            self._log.error("request failed", **_facts(request, response, seconds), exc_info=fault)

    def account_prepared(self, route: str, method: str, seconds: float, request_id: bytes) -> None:
        """As `account`, of a success that was ready (`services.chassis.prepared`)."""
        self._metrics.observe(self._service, route, method, 200, seconds)
        if self._log_successes:
            facts = {"route": route, "method": method, "status": 200, "ms": round(seconds * 1000, 2)}
            self._log.debug("request", **facts, request_id=request_id.decode())

    def _left_out(self, caller: str, lines: int) -> None:
        self._log.warning("more requests refused or failed", caller=caller, left_out=lines)


def _facts(request: Request, response: Response, seconds: float) -> dict[str, Any]:
    client = request.scope.get("client")
    return {
        "route": request.route,
        "method": request.method,
        "status": response.status,
        "ms": round(seconds * 1000, 2),
        "peer": _peer_name(request.peer),
        "client": client[0] if client else None,
    }


def _caller_of(request: Request) -> str:
    client = request.scope.get("client")
    return _peer_name(request.peer) or (neighbourhood(client[0]) if client else "unknown")


def _peer_name(peer: Any) -> str | None:  # noqa: ANN401 - a PeerIdentity, which this module need not know
    return None if peer is None else str(peer.spiffe_id or f"serial {peer.serial:x}")


def _reason(fault: Exception | None) -> dict[str, str]:
    return {} if fault is None else {"error": type(fault).__name__, "reason": str(fault)}
