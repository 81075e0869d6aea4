"""The frame of the hot paths: plain ASGI, one response start and one body, problems for everything that goes wrong.

For each request, in this order:

1. the request id is taken from `X-Request-Id` if it is sane, else made;
2. the route is found (404, 405), then the service's guard decides whether this caller may use it (403);
3. the Content-Type is checked (415); the handler runs and reads the body under the route's limit (413, 408);
4. an exception becomes a problem document by the service's table;
5. the response is counted, timed, and logged unless it is a success (those only at debug level); of one caller's
   refusals and failures the first of a second each have their line, the others one together.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
import structlog

from services.chassis.errors import (
    BodyMalformedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    MediaTypeError,
    MethodNotAllowedError,
    RouteNotFoundError,
)
from services.chassis.log_budget import LogBudget
from services.chassis.observability import HttpMetrics, begin_request
from services.chassis.problems import MEDIA_TYPE, Problem, ProblemTable
from services.chassis.routes import PathTable

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_OK = range(200, 300)
_BODILESS = frozenset({204, 304})
"""No Content-Length (RFC 9110 §8.6): of a 304 it would be that of the body which is not sent."""
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_LENGTH_DIGITS = 18
_DEBUG = 10
_ADMIN_BODY_LIMIT = 64 * 1024
_ADMIN_BODY_SECONDS = 20.0


class Request:
    """One request.

    Attributes:
        scope: The ASGI scope, for what is not named here.
        method: As sent; HEAD stays HEAD where a route answers it by its GET handler.
        path: Decoded.
        params: What the route's pattern captured.
        request_id: Appears in the log and in the response.
        peer: The verified TLS peer (`pkicore.mtls.peer.PeerIdentity`), or None.
        route: The pattern that matched, or "unmatched".
    """

    __slots__ = (
        "_headers",
        "_receive",
        "limit",
        "method",
        "params",
        "path",
        "peer",
        "request_id",
        "route",
        "scope",
        "timeout",
    )

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.params: Mapping[str, str] = {}
        self.request_id = request_id
        state = scope.get("state")
        self.peer: Any = state.get("peer") if state else None
        self.route = "unmatched"
        self.limit = 0
        self.timeout = 0.0
        self._receive = receive
        self._headers: dict[bytes, bytes] | None = None

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Headers by lower-case name; of a repeated one the last."""
        if self._headers is None:
            self._headers = dict(self.scope["headers"])
        return self._headers

    async def body(self) -> bytes:
        """The whole body, once.

        Raises:
            BodyTooLargeError: longer than the route takes.
            BodyTimeoutError: not there in time.
            ClientGoneError: the caller hung up.
        """
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit():
            raise BodyMalformedError("the Content-Length is not a number")
        if len(declared) > _LENGTH_DIGITS or int(declared) > self.limit:
            raise BodyTooLargeError(self.limit)
        if _has_arrived(self._receive):
            return await read_body(self._receive, self.limit)
        try:
            async with asyncio.timeout(self.timeout):
                return await read_body(self._receive, self.limit)
        except TimeoutError as error:
            raise BodyTimeoutError(f"the body did not arrive within {self.timeout:g} s") from error

    async def json(self) -> Any:  # noqa: ANN401 - whatever the JSON is
        """The body as JSON.

        Raises:
            BodyMalformedError: it is not JSON; else as `body`.
        """
        try:
            return orjson.loads(await self.body())
        except orjson.JSONDecodeError as error:
            raise BodyMalformedError("the body is not JSON") from error


def _has_arrived(receive: Receive) -> bool:
    """Whether uvicorn holds the whole body already, as it mostly does: then there is nothing to put a timer on."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


async def read_body(receive: Receive, limit: int) -> bytes:
    """Reads a body of at most `limit` bytes, and stops reading as soon as it is longer.

    Raises:
        BodyTooLargeError: it is longer.
        ClientGoneError: the caller hung up.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the connection ended within the body")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > limit:
            raise BodyTooLargeError(limit)
        if not message.get("more_body", False):
            return body


@dataclass(slots=True)
class Response:
    """A whole response; the frame adds Content-Length, X-Request-Id and what the service's `finish` hook adds."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=list)


def json_response(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:  # noqa: ANN401 - any JSON
    """A response of `application/json`."""
    return Response(status, orjson.dumps(value), [(b"content-type", b"application/json"), *headers])


def problem_response(problem: Problem) -> Response:
    """A problem document as a response."""
    headers = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store"), *problem.headers]
    if problem.close:
        headers.append((b"connection", b"close"))
    return Response(problem.status, problem.document(), headers)


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Guard: TypeAlias = Callable[[Request], None]
Finish: TypeAlias = Callable[[Request, Response], None]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        method: HTTP method; a GET route also answers HEAD unless another route does.
        path: A path, or a pattern as `services.chassis.routes` has them.
        handler: Answers it.
        media_types: Content-Types that the body may have; empty where there is no body.
        body_limit: Bytes of body at most.
        body_seconds: Time for the body to arrive.
    """

    method: str
    path: str
    handler: Handler
    media_types: tuple[str, ...] = ()
    body_limit: int = 64 * 1024
    body_seconds: float = 20.0


class Application:
    """An ASGI application of hot-path routes.

    Args:
        service: Its name, a metric label.
        routes: What it answers.
        problems: Exceptions to problem documents.
        metrics: Counts and times the requests.
        guard: Raises when the caller may not use the matched route; runs before the body is read.
        finish: May add headers to every response, errors included.
        admin: Answers the paths that are no route's (`services.chassis.admin`).

    Raises:
        ValueError: a route's path is no pattern.
    """

    def __init__(
        self,
        service: str,
        routes: Sequence[Route],
        *,
        problems: ProblemTable,
        metrics: HttpMetrics,
        guard: Guard | None = None,
        finish: Finish | None = None,
        admin: AsgiApp | None = None,
    ) -> None:
        self._service = service
        self._table = PathTable(_by_path(routes))
        self._problems = problems
        self._metrics = metrics
        self._guard = guard
        self._finish = finish
        self._admin = admin
        self._log = structlog.get_logger("http")
        self._log_successes = self._log.is_enabled_for(_DEBUG)
        self._refusals, self._failures = LogBudget(self._left_out), LogBudget(self._left_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request; other scopes are refused."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")
        started = time.perf_counter()
        request = Request(scope, receive, self._request_id(scope["headers"]))
        begin_request(request.request_id)
        fault: Exception | None = None
        try:
            response = await self._answer(request)
        except Exception as error:  # noqa: BLE001 - the edge: whatever happened becomes a problem document
            fault = error
            response = self._problem(request, error)
        await self._send(request, response, send)
        self._account(request, response, time.perf_counter() - started, fault)

    def _request_id(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        for name, value in headers:
            if name == b"x-request-id" and _SANE_ID.fullmatch(value):
                return value.decode()
        return f"{random.getrandbits(64):016x}"  # no counter: it would tell each caller everybody's traffic

    async def _answer(self, request: Request) -> Response:
        match = self._table.match(request.path)
        if match is not None:
            response = await self._handle(request, *match)
        elif self._admin is not None:
            response = await _relay(request, self._admin)
        else:
            raise RouteNotFoundError("there is nothing at this path")
        if self._finish is not None:
            self._finish(request, response)
        return response

    async def _handle(self, request: Request, methods: Mapping[str, Route], params: Mapping[str, str]) -> Response:
        request.params = params
        route = methods.get(request.method)
        if route is None:
            raise MethodNotAllowedError(tuple(methods))
        request.route = route.path
        request.limit, request.timeout = route.body_limit, route.body_seconds
        if self._guard is not None:
            self._guard(request)
        if route.media_types:
            _check_media_type(request, route.media_types)
        return await route.handler(request)

    def _problem(self, request: Request, error: Exception) -> Response:
        response = problem_response(self._problems.problem_of(error))
        if self._finish is not None:
            self._finish(request, response)
        return response

    @staticmethod
    async def _send(request: Request, response: Response, send: Send) -> None:
        headers = response.headers
        headers.append((b"x-request-id", request.request_id.encode()))
        if response.status not in _BODILESS:
            headers.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = b"" if request.method == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    def _account(self, request: Request, response: Response, seconds: float, fault: Exception | None) -> None:
        method = request.method if request.method in _METHODS else "other"
        self._metrics.observe(self._service, request.route, method, response.status, seconds)
        if response.status in _OK:
            if self._log_successes:
                self._log.debug("request", **_facts(request, response, seconds))
            return
        refused = response.status < _SERVER_ERROR or response.status == _NOT_IMPLEMENTED  # the caller's mistake
        if not (self._refusals if refused else self._failures).spend(_caller_of(request)):
            return  # counted: refusals apart from failures, so that a flood of the ones hides none of the others
        if refused:
            self._log.info("request refused", **_facts(request, response, seconds), **_reason(fault))
        elif fault is None or self._problems.knows(fault):
            self._log.error("request failed", **_facts(request, response, seconds), **_reason(fault))
        else:
            self._log.error("request failed", **_facts(request, response, seconds), exc_info=fault)

    def _left_out(self, caller: str, lines: int) -> None:
        self._log.warning("more requests refused or failed", caller=caller, left_out=lines)


async def _relay(request: Request, app: AsgiApp) -> Response:
    """The response of another ASGI application, whole; what it raises is raised."""
    request.limit, request.timeout = _ADMIN_BODY_LIMIT, _ADMIN_BODY_SECONDS
    body = await request.body()
    response = Response()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = [pair for pair in message["headers"] if pair[0] != b"content-length"]
        else:
            response.body += message.get("body", b"")

    try:
        await app(request.scope, receive, send)
    finally:
        request.route = getattr(request.scope.get("route"), "path", request.route)
    return response


def _by_path(routes: Sequence[Route]) -> Mapping[str, Mapping[str, Route]]:
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        table.setdefault(route.path, {})[route.method] = route
    for methods in table.values():
        if "GET" in methods:
            methods.setdefault("HEAD", methods["GET"])
    return table


def _check_media_type(request: Request, expected: tuple[str, ...]) -> None:
    given = request.headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if given.decode("latin-1") not in expected:
        raise MediaTypeError(expected)


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
    return _peer_name(request.peer) or (client[0] if client else "unknown")


def _peer_name(peer: Any) -> str | None:  # noqa: ANN401 - a PeerIdentity, which this module need not know
    return None if peer is None else str(peer.spiffe_id or f"serial {peer.serial:x}")


def _reason(fault: Exception | None) -> dict[str, str]:
    return {} if fault is None else {"error": type(fault).__name__, "reason": str(fault)}
