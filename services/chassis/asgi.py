"""The frame of the hot paths: plain ASGI, one response start and one body, problems for everything that goes wrong.

For each request, in this order:

1. the request id is taken from `X-Request-Id` if it is sane, else made;
2. the service's guard decides whether this caller may use the route (403), also one that there is not (404, 405);
3. the Content-Type is checked (415); the handler runs and reads the body under the route's limit (413, 408);
4. an exception becomes a problem document by the service's table;
5. the response is counted, timed, and logged unless it is a success (those only at debug level); of one caller's
   refusals and failures the first of a second each have their line, the others one together.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from services.chassis.bodies import FileBody, has_arrived, pieces_of, read_body
from services.chassis.errors import (
    BodyMalformedError,
    BodyTimeoutError,
    BodyTooLargeError,
    MediaTypeError,
    MethodNotAllowedError,
    RouteNotFoundError,
)
from services.chassis.observability import HttpMetrics, begin_request
from services.chassis.prepared import Find, PreparedAnswers
from services.chassis.problems import MEDIA_TYPE, Problem, ProblemTable
from services.chassis.request_log import RequestLog
from services.chassis.routes import PathTable
from services.chassis.tracing.requests import RequestSpan

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_NOT_MODIFIED = 304
_BODILESS = frozenset({204, _NOT_MODIFIED})
"""No Content-Length (RFC 9110 §8.6): of a 304 it would be that of the body which is not sent."""
_LENGTH_DIGITS = 18
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
        self._check_length(self.limit)
        if has_arrived(self._receive):
            return await read_body(self._receive, self.limit)
        try:
            async with asyncio.timeout(self.timeout):
                return await read_body(self._receive, self.limit)
        except TimeoutError as error:
            raise BodyTimeoutError(f"the body did not arrive within {self.timeout:g} s") from error

    def stream(self, limit: int, seconds: float) -> AsyncIterator[bytes]:
        """The pieces of the body, once: at most `limit` octets within `seconds`, and no long pause between two.

        Raises:
            BodyTooLargeError, BodyMalformedError: the Content-Length says so already.
            BodyTooLargeError, BodyTimeoutError, ClientGoneError: while it is read, as `body`.
        """
        self._check_length(limit)
        return pieces_of(self._receive, limit, seconds)

    def _check_length(self, limit: int) -> None:
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit():
            raise BodyMalformedError("the Content-Length is not a number")
        if len(declared) > _LENGTH_DIGITS or int(declared) > limit:
            raise BodyTooLargeError(limit)

    def has(self, etag: bytes) -> bool:
        """Whether the caller says that it has the entity of this ETag (If-None-Match, RFC 9110 §13.1.2)."""
        wanted = self.headers.get(b"if-none-match")
        return wanted is not None and any(one.strip().removeprefix(b"W/") in {etag, b"*"} for one in wanted.split(b","))

    async def json(self) -> Any:  # noqa: ANN401 - whatever the JSON is
        """The body as JSON.

        Raises:
            BodyMalformedError: it is not JSON; else as `body`.
        """
        try:
            return orjson.loads(await self.body())
        except orjson.JSONDecodeError as error:
            raise BodyMalformedError("the body is not JSON") from error


@dataclass(slots=True)
class Response:
    """A whole response; the frame adds Content-Length, X-Request-Id and what the service's `finish` hook adds.

    Attributes:
        status: HTTP status.
        body: What is sent.
        headers: Without those that the frame adds.
        source: A file that is sent instead of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    source: FileBody | None = None

    @classmethod
    def tagged(cls, request: Request, body: bytes, tag: str, headers: Headers) -> "Response":
        """A body under an ETag, such as its hash; 304 without it where the caller has it (RFC 9110 §13.1.2)."""
        etag = f'"{tag}"'.encode()
        known = request.has(etag)
        return cls(_NOT_MODIFIED if known else 200, b"" if known else body, [(b"etag", etag), *headers])

    @classmethod
    def file(cls, request: Request, path: Path, size: int, tag: str, headers: Headers) -> "Response":
        """As `tagged` with the octets of a file, sent piece by piece."""
        response = cls.tagged(request, b"", tag, headers)
        if response.status != _NOT_MODIFIED:
            response.source = FileBody(path, size)
        return response


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
Refused: TypeAlias = Callable[[Request, Exception], Awaitable[None]]
Trace: TypeAlias = Callable[[Request], RequestSpan]


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
        guard: Raises when the caller may not use the method and path; runs before anything is told of them.
        refused: Told of every exception before it is answered; must not raise.
        finish: May add headers to every response, errors included.
        admin: Answers the paths that are no route's (`services.chassis.admin`).

    Raises:
        ValueError: a route's path is no pattern.

    Attributes:
        prepared: What a listener without TLS may answer before it asks this application; None where nothing.
    """

    def __init__(
        self,
        service: str,
        routes: Sequence[Route],
        *,
        problems: ProblemTable,
        metrics: HttpMetrics,
        guard: Guard | None = None,
        refused: Refused | None = None,
        finish: Finish | None = None,
        admin: AsgiApp | None = None,
    ) -> None:
        self.prepared: PreparedAnswers | None = None
        self._table = PathTable(_by_path(routes))
        self._problems = problems
        self._log = RequestLog(service, problems, metrics)
        self._guard = guard
        self._refused = refused
        self._finish = finish
        self._admin = admin
        self._trace: Trace | None = None

    def trace(self, begin: Trace) -> None:
        """Have a span for each request (`services.chassis.tracing`); not for what is prepared."""
        self._trace = begin

    def prepare(self, find: Find) -> None:
        """Have what this look-up finds answered before anything else.

        Raises:
            ValueError: there is a guard or a hook that it would pass by.
        """
        if self._guard is not None or self._finish is not None:
            raise ValueError("prepared answers know neither guard nor hook")
        self.prepared = PreparedAnswers(find, self._log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request; other scopes are refused."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")
        started = time.perf_counter()
        request = Request(scope, receive, self._request_id(scope["headers"]))
        begin_request(request.request_id)
        span = None if self._trace is None else self._trace(request)
        fault: Exception | None = None
        try:
            response = await self._answer(request)
            if response.source is not None and request.method != "HEAD":
                await response.source.open()
        except Exception as error:  # noqa: BLE001 - the edge: whatever happened becomes a problem document
            fault = error
            if self._refused is not None:
                await self._refused(request, error)
            response = self._problem(request, error)
        try:
            await self._send(request, response, send)
        finally:
            if response.source is not None:
                response.source.close()
            if span is not None:
                span.answered(request, response, fault)
        self._log.account(request, response, time.perf_counter() - started, fault)

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
            self._admit(request)
            raise RouteNotFoundError("there is nothing at this path")
        if self._finish is not None:
            self._finish(request, response)
        return response

    async def _handle(self, request: Request, methods: Mapping[str, Route], params: Mapping[str, str]) -> Response:
        request.params = params
        route = methods.get(request.method)
        if route is None:
            self._admit(request)
            raise MethodNotAllowedError(tuple(methods))
        request.route = route.path
        request.limit, request.timeout = route.body_limit, route.body_seconds
        self._admit(request)
        if route.media_types:
            _check_media_type(request, route.media_types)
        return await route.handler(request)

    def _admit(self, request: Request) -> None:
        if self._guard is not None:
            self._guard(request)

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
            length = len(response.body) if response.source is None else response.source.size
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if request.method == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        elif response.source is None:
            await send({"type": "http.response.body", "body": response.body})
        else:
            await response.source.send(send)


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
