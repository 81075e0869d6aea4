import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from services.chassis.asgi import Application, Request, Response, Route, json_response
from services.chassis.bodies import read_body
from services.chassis.errors import BodyTooLargeError, ClientGoneError, ForbiddenError
from services.chassis.log_budget import LINES
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable

SECRET = "hunter2"


async def echo(request: Request) -> Response:
    """Answers the body's length and what the path captured."""
    body = await request.body()
    return json_response({"length": len(body), **request.params})


async def parsed(request: Request) -> Response:
    """Answers the JSON body."""
    return json_response(await request.json(), 201)


async def broken(_: Request) -> Response:
    """Fails as a bug would."""
    raise RuntimeError(SECRET)


async def unchanged(_: Request) -> Response:
    """Answers that the caller has it."""
    return Response(304)


async def created(_: Request) -> Response:
    """Answers without a body."""
    return Response(204)


def guard(request: Request) -> None:
    """Nobody may use the closed route."""
    if request.route == "/closed":
        raise ForbiddenError("not you")


def finish(_: Request, response: Response) -> None:
    """What ACME uses for its nonces."""
    response.headers.append((b"replay-nonce", b"n"))


ROUTES = [
    Route("POST", "/echo", echo, body_limit=1000, body_seconds=0.2),
    Route("POST", "/echo/{name}", echo),
    Route("GET", "/echo/{name}", echo),
    Route("POST", "/json", parsed, ("application/json", "application/jose+json")),
    Route("GET", "/broken", broken),
    Route("GET", "/empty", created),
    Route("GET", "/unchanged", unchanged),
    Route("POST", "/closed", echo, ("application/json",)),
]


@pytest.fixture
def registry() -> CollectorRegistry:
    """The metrics of one test."""
    return CollectorRegistry()


@pytest.fixture
async def client(registry: CollectorRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without sockets."""
    application = Application(
        "test", ROUTES, problems=ProblemTable({}), metrics=HttpMetrics(registry), guard=guard, finish=finish
    )
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def problem_name(response: httpx.Response) -> str:
    """The last part of a problem's type."""
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["type"]).rpartition(":")[2]


async def test_a_handler_gets_body_and_captures(client: httpx.AsyncClient) -> None:
    """One start, one body, with the length stated."""
    response = await client.post("/echo/rye", content=b"12345")
    assert response.json() == {"length": 5, "name": "rye"}
    assert response.headers["content-length"] == str(len(response.content))


async def test_head_is_answered_by_get_without_a_body(client: httpx.AsyncClient) -> None:
    """HEAD has GET's headers, its length included, and nothing else."""
    response = await client.head("/echo/rye")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len((await client.get("/echo/rye")).content))


async def test_a_204_states_no_length(client: httpx.AsyncClient) -> None:
    """RFC 9110 §8.6 forbids it."""
    assert "content-length" not in (await client.get("/empty")).headers


@pytest.mark.parametrize("path", ["/", "/nope", "/echo/", "/echo/a/b", "/ECHO"])
async def test_an_unknown_path_is_a_404_problem(client: httpx.AsyncClient, path: str) -> None:
    """Nothing is matched loosely."""
    response = await client.get(path)
    assert (response.status_code, problem_name(response)) == (404, "not-found")


async def test_an_unknown_method_is_a_405_that_names_the_others(client: httpx.AsyncClient) -> None:
    """Allow lists what the resource answers, HEAD with GET."""
    response = await client.delete("/echo/rye")
    assert (response.status_code, problem_name(response)) == (405, "method-not-allowed")
    assert sorted(response.headers["allow"].split(", ")) == ["GET", "HEAD", "POST"]


@pytest.mark.parametrize("given", ["text/plain", "", "application/jsonx", "application/json/x", "*/*"])
async def test_another_content_type_is_415(client: httpx.AsyncClient, given: str) -> None:
    """Only the listed types pass."""
    response = await client.post("/json", content=b"{}", headers={"content-type": given})
    assert (response.status_code, problem_name(response)) == (415, "unsupported-media-type")


@pytest.mark.parametrize("given", ["application/json", "Application/JSON; charset=utf-8", "application/jose+json"])
async def test_a_listed_content_type_passes(client: httpx.AsyncClient, given: str) -> None:
    """Case and parameters do not matter."""
    response = await client.post("/json", content=b"[1]", headers={"content-type": given})
    assert (response.status_code, response.json()) == (201, [1])


@pytest.mark.parametrize("body", [b"", b"{", b"{'a':1}", b"\xff", b"NaN", b"[" * 5000])
async def test_a_body_that_is_not_json_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    """Deep nesting and non-UTF-8 included."""
    response = await client.post("/json", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, problem_name(response)) == (400, "malformed")


async def test_a_declared_length_beyond_the_limit_is_413_before_reading(client: httpx.AsyncClient) -> None:
    """The connection is closed, since the body stays unread."""
    response = await client.post("/echo", content=b"x" * 1001)
    assert (response.status_code, problem_name(response)) == (413, "body-too-large")
    assert response.headers["connection"] == "close"


async def test_a_chunked_body_is_cut_off_at_the_limit(client: httpx.AsyncClient) -> None:
    """Without a declared length the reading stops where the limit is passed."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            yield b"x" * 100

    response = await client.post("/echo", content=endless())
    assert response.status_code == 413
    assert sent <= 1200


async def test_a_body_at_the_limit_passes(client: httpx.AsyncClient) -> None:
    """The limit itself is allowed."""
    assert (await client.post("/echo", content=b"x" * 1000)).json() == {"length": 1000}


async def test_a_body_that_stalls_is_408(client: httpx.AsyncClient) -> None:
    """A slow caller holds a request for the route's time only."""

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    response = await client.post("/echo", content=stalled())
    assert (response.status_code, problem_name(response)) == (408, "body-timeout")


async def test_the_guard_comes_before_the_body_and_the_content_type(client: httpx.AsyncClient) -> None:
    """Who may not call learns nothing else."""
    response = await client.post("/closed", content=b"x", headers={"content-type": "text/plain"})
    assert (response.status_code, problem_name(response)) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/echo"), ("OPTIONS", "/echo"), ("GET", "/nope")])
async def test_the_guard_comes_before_404_and_405(registry: CollectorRegistry, method: str, path: str) -> None:
    """Who may not call learns neither which paths there are, nor which methods they have."""

    def closed(_: Request) -> None:
        raise ForbiddenError("not you")

    application = Application("test", ROUTES, problems=ProblemTable({}), metrics=HttpMetrics(registry), guard=closed)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test") as client:
        response = await client.request(method, path)
    assert (response.status_code, response.headers.get("allow")) == (403, None)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/echo"), ("GET", "/nope"), ("GET", "/broken"), ("PUT", "/echo")]
)
async def test_finish_adds_its_headers_to_every_response(client: httpx.AsyncClient, method: str, path: str) -> None:
    """Errors included: ACME needs a fresh nonce on each."""
    assert (await client.request(method, path)).headers["replay-nonce"] == "n"


async def test_a_bug_is_an_internal_error_and_all_of_it_is_in_the_log(client: httpx.AsyncClient) -> None:
    """The caller reads nothing of the exception; the log has it with route and request id."""
    with capture_logs() as lines:
        response = await client.get("/broken", headers={"x-request-id": "abc-1"})
    assert (response.status_code, problem_name(response)) == (500, "internal-error")
    assert SECRET not in response.text
    (line,) = lines
    assert (line["log_level"], line["route"], line["status"]) == ("error", "/broken", 500)
    assert isinstance(line["exc_info"], RuntimeError)


async def test_a_refusal_is_one_line_without_the_body(client: httpx.AsyncClient) -> None:
    """The line says who, where and why, and holds nothing of what was sent."""
    with capture_logs() as lines:
        await client.post("/json", content=SECRET.encode(), headers={"content-type": "application/json"})
    (line,) = lines
    assert (line["event"], line["route"], line["error"]) == ("request refused", "/json", "BodyMalformedError")
    assert SECRET not in str(line)


async def test_that_nothing_has_changed_is_no_refusal(client: httpx.AsyncClient) -> None:
    """A caller that asks again for what it has is not written of."""
    with capture_logs() as lines:
        assert (await client.get("/unchanged")).status_code == 304
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == []


async def test_a_flood_of_refusals_does_not_fill_the_log(client: httpx.AsyncClient) -> None:
    """The first of a second have their lines, the others are one; a failure among them still has its own."""
    with capture_logs() as lines:
        for _ in range(LINES + 30):
            await client.get("/nowhere")
        await client.get("/broken")
        assert [line["event"] for line in lines] == ["request refused"] * LINES + ["request failed"]
        await asyncio.sleep(1.2)
    assert (lines[-1]["event"], lines[-1]["left_out"]) == ("more requests refused or failed", 30)
    assert lines[-1]["caller"] == lines[0]["client"]


@pytest.mark.parametrize("given", ["abc-1", "A.b_c-9", "x" * 64])
async def test_a_sane_request_id_is_kept(client: httpx.AsyncClient, given: str) -> None:
    """A caller's id goes through, so that two services' logs can be joined."""
    assert (await client.get("/empty", headers={"x-request-id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "ä".encode("latin-1"), b"a\tb"])
async def test_another_request_id_is_replaced(client: httpx.AsyncClient, given: str | bytes) -> None:
    """What could forge a log line or a header is not repeated."""
    value = given if isinstance(given, bytes) else given.encode()
    answers = [
        (await client.get("/empty", headers=[(b"x-request-id", value)])).headers["x-request-id"] for _ in range(2)
    ]
    assert value.decode("latin-1") not in answers
    assert len(set(answers)) == 2


async def test_metrics_count_by_pattern_and_never_by_path(
    client: httpx.AsyncClient, registry: CollectorRegistry
) -> None:
    """A caller cannot make up label values, whatever path or method it sends."""
    for n in range(5):
        await client.get(f"/echo/{n}")
        await client.get(f"/nope/{n}")
        await client.request(f"M{n}", "/echo")
    text = generate_latest(registry).decode()
    total = 'pqcpki_http_requests_total{method="%s",route="%s",service="test",status="%d"} 5.0'
    for line in (("GET", "/echo/{name}", 200), ("GET", "unmatched", 404), ("other", "unmatched", 405)):
        assert total % line in text
    assert "M0" not in text
    assert "/nope" not in text


async def test_successes_are_logged_at_debug_level_only(registry: CollectorRegistry) -> None:
    """At info a success writes no line; at debug it writes one."""
    for level, expected in ((10, 1), (20, 0)):
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
        try:
            application = Application(
                "test", ROUTES, problems=ProblemTable({}), metrics=HttpMetrics(CollectorRegistry())
            )
            with capture_logs() as lines:
                await call(application, "GET", "/empty")
        finally:
            structlog.reset_defaults()
        assert len(lines) == expected
    del registry


async def call(application: Application, method: str, path: str, **scope: Any) -> list[Any]:  # noqa: ANN401 - ASGI values
    """Sends one request by hand; answers the messages."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        sent.append(message)

    await application({"type": "http", "method": method, "path": path, "headers": [], **scope}, receive, send)
    return sent


async def test_one_start_and_one_body_are_sent(registry: CollectorRegistry) -> None:
    """The shape of the hot path: two messages for a response."""
    application = Application("test", ROUTES, problems=ProblemTable({}), metrics=HttpMetrics(registry))
    messages = await call(application, "GET", "/echo/x")
    assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]


async def test_other_scopes_are_refused(registry: CollectorRegistry) -> None:
    """WebSockets and lifespan are not for this application."""
    application = Application("test", ROUTES, problems=ProblemTable({}), metrics=HttpMetrics(registry))
    with pytest.raises(RuntimeError, match="not websocket"):
        await call(application, "GET", "/", type="websocket")


def receiver(messages: Iterable[dict[str, Any]]) -> Any:  # noqa: ANN401 - an ASGI receive
    """An ASGI receive that hands out these messages."""
    iterator = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(iterator)

    return receive


async def test_a_caller_that_hangs_up_within_its_body_is_noticed() -> None:
    """Half a body is never taken for a whole one."""
    half: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    with pytest.raises(ClientGoneError):
        await read_body(receiver(half), 100)


async def test_reading_stops_at_the_first_byte_too_many() -> None:
    """The message after the limit was passed is never asked for."""
    chunks: list[dict[str, Any]] = [{"type": "http.request", "body": b"x" * 60, "more_body": True}] * 2
    with pytest.raises(BodyTooLargeError):
        await read_body(receiver(chunks), 119)
