"""The ops listener: `/healthz`, `/readyz` and `/metrics` over plain HTTP."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, generate_latest

from services.chassis.asgi import Application, Request, Response, Route, json_response
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_UNAVAILABLE = 503


class Readiness:
    """What a service needs before it may be sent requests: named conditions, each met or not, with a reason.

    Args:
        conditions: Names that must all be met; none is at the start.
    """

    def __init__(self, *conditions: str) -> None:
        self._unmet: dict[str, str] = dict.fromkeys(conditions, "not yet")

    def met(self, condition: str) -> None:
        """The condition holds."""
        self._unmet.pop(condition, None)

    def unmet(self, condition: str, reason: str) -> None:
        """The condition no longer holds."""
        self._unmet[condition] = reason

    @property
    def reasons(self) -> Mapping[str, str]:
        """Every condition that does not hold, with its reason."""
        return self._unmet


def ops_application(
    service: str, registry: CollectorRegistry, readiness: Readiness, metrics: HttpMetrics
) -> Application:
    """The application behind a service's ops listener."""

    async def healthz(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        waiting = dict(readiness.reasons)
        if waiting:
            return json_response({"status": "not ready", "waiting": waiting}, _UNAVAILABLE)
        return json_response({"status": "ready"})

    async def metrics_text(_: Request) -> Response:
        return Response(200, generate_latest(registry), [(b"content-type", _METRICS_TYPE)])

    routes = [
        Route("GET", "/healthz", healthz),
        Route("GET", "/readyz", readyz),
        Route("GET", "/metrics", metrics_text),
    ]
    return Application(service, routes, problems=ProblemTable({}), metrics=metrics)
