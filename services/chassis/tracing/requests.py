"""The span of a request, and whose `traceparent` it goes on with.

Trace ids are ours: a stranger who could choose them would write into other people's traces, and one who could set the
sampled flag would have all of his requests recorded. So a listener believes nobody, unless `believes` says whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from services.chassis.tracing import Span, Tracer, begin_trace, read_traceparent

if TYPE_CHECKING:
    from services.chassis.asgi import Request, Response
    from services.chassis.peer import Peer

_SERVER_ERROR: Final = 500
_OUR_SERVICES: Final = "/service/"

Believes: TypeAlias = "Callable[[Peer | None], bool]"
"""Whether the `traceparent` of this TLS peer counts; None is a caller without a certificate."""


def nobody(_peer: Peer | None) -> bool:
    """For listeners that strangers may call."""
    return False


def services_of(trust_domain: str) -> Believes:
    """For internal listeners: peers whose certificate names them as one of this deployment's services."""

    def believes(peer: Peer | None) -> bool:
        name = None if peer is None else peer.spiffe_id
        return name is not None and name.trust_domain == trust_domain and name.path.startswith(_OUR_SERVICES)

    return believes


class RequestSpan:
    """A request's span, until it is answered."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, request: Request, response: Response, fault: Exception | None) -> None:
        """End it, named by the route: a path would be a name of its own for every order."""
        self._span.note(
            f"{request.method} {request.route}",
            {"http.route": request.route, "http.response.status_code": response.status},
        )
        if response.status >= _SERVER_ERROR:
            self._span.fail(str(response.status) if fault is None else type(fault).__name__)
        self._span.end()


class RequestTraces:
    """Begins the spans of one application's requests.

    Args:
        tracer: makes them.
        believes: whose `traceparent` counts.
    """

    def __init__(self, tracer: Tracer, believes: Believes) -> None:
        self._tracer = tracer
        self._believes = believes

    def begin(self, request: Request) -> RequestSpan:
        """The span of a request, which is current from here on."""
        believed = self._believes(request.peer)
        parent = read_traceparent(request.headers.get(b"traceparent")) if believed else None
        attributes = {"http.request.method": request.method, "pqcpki.request_id": request.request_id}
        if request.peer is not None and request.peer.spiffe_id is not None:
            attributes["pqcpki.peer"] = str(request.peer.spiffe_id)
        span = self._tracer.begin(request.method, parent, attributes)
        begin_trace(span)
        return RequestSpan(span)
