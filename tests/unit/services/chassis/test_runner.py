import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pkicore.mtls.framing import MAX_PIPELINED
from services.chassis.asgi import Application, Request, Response, Route, json_response
from services.chassis.errors import BindError
from services.chassis.http_protocol import HEAD_BYTES, BoundedHttpProtocol
from services.chassis.observability import HttpMetrics
from services.chassis.ops import Readiness, ops_application
from services.chassis.problems import ProblemTable
from services.chassis.runner import BackgroundTask, Listener, bind, run_service, supervise


async def slow(_: Request) -> Response:
    """Takes a while."""
    await asyncio.sleep(0.5)
    return json_response("done")


class Impatient:
    """Stands where a TLS listener does, to bring a protocol class of its own."""

    def __init__(self, protocol_class: type[BoundedHttpProtocol]) -> None:
        self.protocol_class = protocol_class


@asynccontextmanager
async def running(
    state: Path, *background: BackgroundTask, protocol: type[BoundedHttpProtocol] | None = None
) -> AsyncIterator[tuple[dict[str, Any], Readiness]]:
    """A service with a public and an ops listener; stopped by SIGTERM at the end."""
    registry = CollectorRegistry()
    metrics, readiness = HttpMetrics(registry), Readiness("keys")
    public = Application("test", [Route("GET", "/slow", slow)], problems=ProblemTable({}), metrics=metrics)
    listeners = [
        Listener("public", public, bind("127.0.0.1", 0, "port"), Impatient(protocol) if protocol else None),
        Listener("ops", ops_application("test", registry, readiness, metrics), bind("127.0.0.1", 0, "ops_port")),
    ]
    ready = asyncio.Event()
    service = asyncio.create_task(
        run_service("test", listeners, state_dir=state, readiness=readiness, background=background, on_ready=ready.set)
    )
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield json.loads((state / "listeners.json").read_bytes()), readiness
    finally:
        if not service.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(service, 15)


async def test_listeners_answer_and_are_listed(tmp_path: Path) -> None:
    """When `on_ready` is called the file names each URL and the process, and each URL answers."""
    async with running(tmp_path) as (urls, _), httpx.AsyncClient() as client:
        assert urls.keys() == {"public", "ops", "pid"}
        assert urls["pid"] == os.getpid()
        assert (await client.get(urls["public"] + "/slow")).json() == "done"
        assert (await client.get(urls["ops"] + "/healthz")).json() == {"status": "ok"}
        assert "pqcpki_http_requests_total" in (await client.get(urls["ops"] + "/metrics")).text


async def test_readiness_says_what_is_missing(tmp_path: Path) -> None:
    """503 with the unmet conditions, then 200."""
    async with running(tmp_path) as (urls, readiness), httpx.AsyncClient() as client:
        response = await client.get(urls["ops"] + "/readyz")
        assert (response.status_code, response.json()["waiting"]) == (503, {"keys": "not yet"})
        readiness.met("keys")
        assert (await client.get(urls["ops"] + "/readyz")).status_code == 200


async def test_open_requests_finish_while_new_connections_are_refused(tmp_path: Path) -> None:
    """SIGTERM drains: the request under way is answered, the port is closed."""
    async with running(tmp_path) as (urls, readiness), httpx.AsyncClient() as client:
        under_way = asyncio.create_task(client.get(urls["public"] + "/slow"))
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert "running" in readiness.reasons
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient().get(urls["ops"] + "/healthz")
        assert (await under_way).json() == "done"


async def test_background_tasks_end_with_the_service(tmp_path: Path) -> None:
    """They are cancelled, and waited for, after the last request."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running(tmp_path, BackgroundTask("work", work)):
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_crashing_background_task_is_run_again() -> None:
    """In between, the service is not ready and says why."""
    readiness, runs, seen = Readiness(), 0, []

    async def work() -> None:
        nonlocal runs
        runs += 1
        seen.append(dict(readiness.reasons))
        if runs < 3:
            raise RuntimeError("crash")

    task = asyncio.create_task(supervise(BackgroundTask("work", work), readiness, first_wait=0.05))
    await asyncio.sleep(0.01)
    assert readiness.reasons == {"work": "the background task crashed"}
    await asyncio.wait_for(task, 5)
    assert (runs, readiness.reasons, seen) == (3, {}, [{}, {}, {}])


def test_a_taken_port_is_named_with_its_setting() -> None:
    """The sentence says what to do."""
    with bind("127.0.0.1", 0, "port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=rf"port {port} on 127\.0\.0\.1 is taken: .*set PQCPKI_CA_PORT"):
            bind("127.0.0.1", port, "PQCPKI_CA_PORT")


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "256.1.1.1"])
def test_an_address_that_is_not_ours_is_named_with_its_setting(host: str) -> None:
    """Foreign addresses and names that resolve to nothing."""
    with pytest.raises(BindError, match=r"PQCPKI_CA_HOST"):
        bind(host, 0, "PQCPKI_CA_HOST")


def test_urls_are_those_that_certificates_name() -> None:
    """Loopback with TLS is localhost; IPv6 stands in brackets."""

    class Tls:
        protocol_class = asyncio.Protocol

    with bind("127.0.0.1", 0, "port") as four, bind("::1", 0, "port") as six:
        assert Listener("x", _nothing, four, Tls()).url == f"https://localhost:{four.getsockname()[1]}"
        assert Listener("x", _nothing, six).url == f"http://[::1]:{six.getsockname()[1]}"


async def _nothing(*_: object) -> None:
    """An application that is never called."""


async def exchange(url: str, *parts: bytes, wait: float = 5.0) -> bytes:
    """Sends raw bytes, answers everything that comes back until the connection closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), wait)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_an_endless_head_is_cut_off(tmp_path: Path) -> None:
    """A request whose headers never end is refused at the bound, before they are kept."""
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["ops"], b"GET /healthz HTTP/1.1\r\nX: ", *[b"y" * 8192] * (HEAD_BYTES // 8192 + 2))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"head is too long" in answer


async def test_trailers_are_no_headers_and_end(tmp_path: Path) -> None:
    """What comes after a chunked body changes nothing; without end it ends the connection."""
    head = b"GET /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    last = b"X-Request-Id: from-a-trailer\r\n\r\nGET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["public"], head + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert b"from-a-trailer" not in answer
        endless = await exchange(urls["public"], head, *[b"A: b\r\n" * 4096] * 20)
    assert b"HTTP/1.1 2" not in endless


async def test_a_pipelined_pair_and_a_large_body_are_not_taken_for_a_long_head(tmp_path: Path) -> None:
    """The bound counts heads only."""
    body = b"z" * (HEAD_BYTES + 10_000)
    post = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["ops"], post, get, last)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"HTTP/1.1 405 ") == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: x\n\n",
    ],
    ids=["tls-hello", "version", "smuggling", "two-lengths", "negative", "bare-lf"],
)
async def test_what_is_no_unambiguous_http_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    """Nothing that two parsers could read in two ways is answered with success."""
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["ops"], request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")


GET_SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
GET_READY = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /healthz HTTP/1.1\r\nHost: x\r\n"
BODY = b"\r\n2\r\nhi\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET /healthz HTTP/1.1\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nHost: x\r\nHOST: x\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n"),
        (505, b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n"),
        (505, b"GET /healthz\r\n\r\n"),
        (501, POST + b"Transfer-Encoding: gzip, chunked\r\n" + BODY),
        (501, POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n" + BODY),
        (501, POST + b"Transfer-Encoding: gzip\r\n" + BODY),
        (400, b"POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + BODY),
        (400, POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi"),
        (400, POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n" + BODY),
        (400, POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
    ],
)
async def test_what_the_parser_lets_through_is_refused(tmp_path: Path, status: int, request_bytes: bytes) -> None:
    """RFC 9112 §2.3, §3.2, §6.1: one answer with the right status, and the connection ends."""
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["ops"], request_bytes + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize("host", [b"localhost:6000", b"[::1]:6000", b"", b"a-b_c.example"])
async def test_hosts_are_taken(tmp_path: Path, host: bytes) -> None:
    """RFC 3986 §3.2.2: names, addresses, ports, none at all; HTTP/1.0 may leave the field out."""
    async with running(tmp_path) as (urls, _):
        request = b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        assert (await exchange(urls["ops"], request)).startswith(b"HTTP/1.1 200 ")
        assert (await exchange(urls["ops"], b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_an_upgrade_is_ignored_and_ends_the_connection(tmp_path: Path) -> None:
    """RFC 9110 §7.8: the answer is that of HTTP/1.1, and says that no other request is read."""
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["ops"], ask)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()


async def test_garbage_behind_a_request_is_not_answered_in_its_place(tmp_path: Path) -> None:
    """While the answer to a good request is due, a 400 would be taken for it: the connection just ends."""
    async with running(tmp_path) as (urls, _):
        answer = await exchange(urls["public"], GET_SLOW + b"GARBAGE\r\n\r\n")
    assert answer == b""


async def test_a_pipeline_has_an_end(tmp_path: Path) -> None:
    """So many requests may wait; with one more the connection ends before most of them are kept."""
    async with running(tmp_path) as (urls, _):
        last = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        fitting = await exchange(urls["ops"], GET_READY * MAX_PIPELINED + last.replace(b"slow", b"healthz"))
        assert fitting.count(b"HTTP/1.1 200 ") == MAX_PIPELINED + 1
        assert await exchange(urls["public"], GET_SLOW * (MAX_PIPELINED + 2)) == b""


def test_sockets_are_ready_to_accept_at_once() -> None:
    """A bound socket queues connections from the start, so that a peer that is early waits instead of failing."""
    with bind("127.0.0.1", 0, "port") as bound, socket.create_connection(bound.getsockname(), 2):
        assert not bound.getblocking()


@pytest.mark.parametrize("parts", [(), (b"GET /slow HT",), (b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /sl")])
async def test_a_dawdling_head_is_cut_off(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    """A connection that sends nothing, half a head, or half a second head does not stay."""

    class Short(BoundedHttpProtocol):
        head_seconds = 0.2

    async with running(tmp_path, protocol=Short) as (urls, _):
        answer = await exchange("http://127.0.0.1:" + urls["public"].rpartition(":")[2], *parts, wait=3)
    assert answer.count(b"HTTP/1.1") == (1 if len(parts) == 2 else 0)
