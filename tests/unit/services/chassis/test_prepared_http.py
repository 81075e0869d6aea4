import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from uvicorn.server import ServerState

from services.chassis.asgi import Application, Request, Response, Route, json_response
from services.chassis.http_protocol import BoundedHttpProtocol
from services.chassis.observability import HttpMetrics
from services.chassis.plain_request import PlainRequest
from services.chassis.prepared import Prepared, head_of
from services.chassis.prepared_http import MAX_AT_ONCE, protocol_class
from services.chassis.problems import ProblemTable

DATE = b"Tue, 01 Jan 2030 00:00:00 GMT"
HOST = b"Host: x\r\n"
READY = b"GET /ready HTTP/1.1\r\n" + HOST + b"\r\n"
MADE = b"GET /made HTTP/1.1\r\n" + HOST + b"\r\n"
BYE = b"GET /ready HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
BODY = b"it is ready"
LARGE = b"x" * 262_144


def find(request: PlainRequest) -> Prepared | None:
    """One path is ready by GET, one body by POST; one path has a defect."""
    if request.target == b"/broken":
        raise LookupError("a defect")
    if request.target == b"/large":
        return Prepared("/large", head_of([], len(LARGE)), LARGE)
    if request.target != b"/ready" or (request.method == b"POST" and request.body != b"ask"):
        return None
    return Prepared("/ready", head_of([(b"content-type", b"text/plain")], len(BODY)), BODY)


async def made(request: Request) -> Response:
    """Everything else takes a moment."""
    await asyncio.sleep(0.02)
    return json_response(f"made {(await request.body()).decode()}")


class Front:
    """A listener on loopback with answers that are ready, served as uvicorn would."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - class attributes of the protocol
        self.registry = CollectorRegistry()
        routes = [Route(m, p, made) for m in ("GET", "POST") for p in ("/ready", "/made", "/broken", "/large")]
        app = Application("test", routes, problems=ProblemTable({}), metrics=HttpMetrics(self.registry))
        app.prepare(find)
        assert app.prepared is not None
        self.protocol = type("Protocol", (protocol_class(app.prepared),), attributes)
        self.config = uvicorn.Config(
            app, http=self.protocol, ws="none", lifespan="off", log_config=None, access_log=False, limit_concurrency=4
        )
        self.state = ServerState()
        self.state.default_headers = [(b"date", DATE)]
        self.port = 0

    def make(self) -> asyncio.Protocol:
        """A connection's protocol."""
        made: Callable[..., asyncio.Protocol] = self.protocol
        return made(config=self.config, server_state=self.state, app_state={})

    def counted(self, route: str, method: str = "GET") -> float:
        """Requests of a route that were answered with 200."""
        labels = {"service": "test", "route": route, "method": method, "status": "200"}
        return self.registry.get_sample_value("pqcpki_http_requests_total", labels) or 0

    async def exchange(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """All that comes back for these parts until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serving(**attributes: Any) -> AsyncIterator[Front]:  # noqa: ANN401 - class attributes of the protocol
    """A front that listens."""
    front = Front(**attributes)
    front.config.load()
    server = await asyncio.get_running_loop().create_server(front.make, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A front with the bounds of the product."""
    async with serving() as found:
        yield found


async def test_what_is_ready_is_answered_and_counted(front: Front) -> None:
    """The server's date, an id, the fields that were prepared, the body; and the metrics know of it."""
    answer = await front.exchange(BYE)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    names = dict(line.split(b": ", 1) for line in fields)
    assert (status, body) == (b"HTTP/1.1 200 OK", BODY)
    assert names.pop(b"x-request-id").decode().isalnum()
    assert names == {
        b"date": DATE,
        b"connection": b"close",
        b"content-type": b"text/plain",
        b"content-length": str(len(BODY)).encode(),
    }
    assert (front.counted("/ready"), front.state.total_requests) == (1, 1)


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of answers in a row."""
    return [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK")[1:]]


ANEW = b'"made "'


async def test_hits_and_misses_in_one_segment_are_answered_in_their_order(front: Front) -> None:
    """A hit behind a miss waits for it and goes the normal way."""
    answer = await front.exchange(READY + READY + MADE + READY + BYE)
    assert bodies(answer) == [BODY, BODY, ANEW, ANEW, ANEW]
    assert (front.counted("/ready"), front.counted("/made")) == (4, 1)


async def test_a_connection_comes_back_from_the_normal_way(front: Front) -> None:
    """After a miss was answered, what is ready is answered at once again."""
    answer = await front.exchange(READY, MADE, READY, MADE, BYE, pause=0.1)
    assert bodies(answer) == [BODY, ANEW, BODY, ANEW, BODY]


async def test_a_request_in_pieces_goes_the_normal_way(front: Front) -> None:
    """Head in two, body apart from its head, the blank line late: each is answered once, and the next is ready."""
    post = b"POST /ready HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n"
    assert bodies(await front.exchange(READY + READY[:9], READY[9:], BYE, pause=0.05)) == [BODY, ANEW, BODY]
    assert bodies(await front.exchange(post, b"ask", BYE, pause=0.05)) == [b'"made ask"', BODY]
    assert bodies(await front.exchange(post + b"ask" + BYE[:-2], BYE[-2:], pause=0.05)) == [BODY, ANEW]


async def test_a_body_is_part_of_what_is_looked_up(front: Front) -> None:
    """POST is ready for one body alone."""
    post = b"POST /ready HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n"
    assert bodies(await front.exchange(post + b"ask" + post + b"say" + BYE)) == [BODY, b'"made say"', ANEW]


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (b"HEAD /ready HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", b""),
        (b"GET /ready HTTP/1.0\r\n\r\n", ANEW),
        (b"GET /ready HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", BODY),
        (b"POST /ready HTTP/1.0\r\nContent-Length: 3\r\n\r\nask", b'"made ask"'),
        (
            b"POST /ready HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nask\r\n0\r\n\r\n",
            b'"made ask"',
        ),
    ],
    ids=["head", "http-1.0", "http-1.0-plain", "http-1.0-post", "chunked"],
)
async def test_other_forms_are_answered_by_their_rules(front: Front, request_bytes: bytes, body: bytes) -> None:
    """What is not plain goes the normal way, which knows of bodies; each of these connections ends."""
    answer = await front.exchange(request_bytes)
    assert bodies(answer) == [body]
    assert b"connection: close\r\n" in answer


async def test_an_expectation_is_met(front: Front) -> None:
    """100 Continue comes before the body is sent, then the answer."""
    head = b"POST /ready HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    answer = await front.exchange(head, b"ask" + BYE, pause=0.05)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert bodies(answer) == [b'"made ask"', ANEW]


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET /ready HTTP/1.1\r\n\r\n"),
        (400, b"GET /ready HTTP/1.1\nHost: x\n\n"),
        (400, b"GET /ready HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
        (400, b"POST /ready HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nask"),
        (400, b"GET /ready HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 40_000),
        (505, b"GET /ready HTTP/2.0\r\n" + HOST + b"\r\n"),
    ],
)
async def test_what_is_refused_stays_refused(front: Front, status: int, request_bytes: bytes) -> None:
    """Also behind an answer that was ready; that one arrives."""
    answer = await front.exchange(READY + request_bytes)
    first, _, second = answer.partition(BODY)
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert second.startswith(b"HTTP/1.1 %d " % status)


async def test_nothing_is_answered_after_the_last_request(front: Front) -> None:
    """Connection: close ends it, whatever stands behind."""
    assert bodies(await front.exchange(BYE + READY + MADE)) == [BODY]


async def test_a_defect_of_the_look_up_goes_the_normal_way(front: Front) -> None:
    """The caller sees nothing of it."""
    answer = await front.exchange(b"GET /broken HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert bodies(answer) == [ANEW]


async def test_a_long_pipeline_is_answered_in_order(front: Front) -> None:
    """What is ready beyond a segment's share goes the normal way."""
    answer = await front.exchange(READY * (MAX_AT_ONCE + 2) + BYE)
    assert bodies(answer) == [BODY] * MAX_AT_ONCE + [ANEW] * 3


async def test_whoever_does_not_read_is_not_written_to_without_end(front: Front) -> None:
    """Once the socket takes no more, requests wait where all others wait; nothing is lost or out of order."""
    ask, count = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n", 60
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
    for _ in range(count):
        writer.write(ask)
        await asyncio.sleep(0.005)
    (held,) = front.state.connections
    assert isinstance(held, BoundedHttpProtocol)
    assert held.flow.write_paused
    assert held.transport.get_write_buffer_size() < 4 * len(LARGE)
    writer.write(BYE)
    answers = await asyncio.wait_for(reader.read(), 20)
    at_once = answers.count(LARGE)
    assert 0 < at_once < count
    assert answers.count(b"HTTP/1.1 200 OK") == count + 1
    assert answers.rindex(LARGE) < answers.index(ANEW)
    writer.close()


async def test_connections_beyond_the_limit_are_told_so() -> None:
    """The fifth of four connections gets 503, also for what is ready."""
    async with serving() as front:
        held = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(4)]
        assert (await front.exchange(READY)).startswith(b"HTTP/1.1 503 ")
        for _, writer in held:
            writer.close()


async def test_a_connection_counts_once(front: Front) -> None:
    """Whichever way it goes; and not at all when it has ended."""
    _, writer = await asyncio.open_connection("127.0.0.1", front.port)
    for request in (READY, MADE, READY):
        writer.write(request)
        await asyncio.sleep(0.05)
        assert len(front.state.connections) == 1
    writer.close()
    await asyncio.sleep(0.05)
    assert not front.state.connections


@pytest.mark.parametrize(
    "parts", [(), (READY[:12],), (READY, READY[:12]), (MADE, READY[:12]), (MADE, READY, READY[:9])]
)
async def test_a_dawdling_head_is_cut_off(parts: tuple[bytes, ...]) -> None:
    """Nothing at all, half a head, half a later head, on either way."""

    class Short(BoundedHttpProtocol):
        head_seconds = 0.2

    async with serving(normal=Short) as front:
        front.config.timeout_keep_alive = 60
        assert (await front.exchange(*parts, pause=0.05)).count(b"HTTP/1.1 ") == max(0, len(parts) - 1)


@pytest.mark.parametrize("parts", [(READY,), (MADE, READY)])
async def test_an_idle_connection_ends(parts: tuple[bytes, ...]) -> None:
    """The keep-alive time begins anew with each answer, whichever way it went."""
    async with serving() as front:
        front.config.timeout_keep_alive = 1
        began = asyncio.get_running_loop().time()
        answer = await front.exchange(*parts, pause=0.6)
        assert answer.count(b"HTTP/1.1 200 OK") == len(parts)
        assert asyncio.get_running_loop().time() - began > 0.55 * (len(parts) - 1) + 0.9


async def test_a_stop_closes_what_is_idle(front: Front) -> None:
    """As uvicorn asks every connection to."""
    connections = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(2)]
    connections[0][1].write(MADE)
    await connections[0][0].readuntil(ANEW)
    for each in list(front.state.connections):
        each.shutdown()
    for reader, writer in connections:
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


def test_prepared_answers_pass_by_no_guard() -> None:
    """An application that guards its routes, or finishes its answers, cannot have any."""
    for hook in ({"guard": lambda _: None}, {"finish": lambda *_: None}):
        app = Application("t", [], problems=ProblemTable({}), metrics=HttpMetrics(CollectorRegistry()), **hook)
        with pytest.raises(ValueError, match="guard"):
            app.prepare(find)
