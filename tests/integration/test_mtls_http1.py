"""The lean client against servers that behave, and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from pkicore.errors import HandshakeError, MalformedError, PeerMismatchError
from pkicore.identity import SpiffeId
from pkicore.mtls import Http1Client, TlsListener
from tests.support.tls_pki import spiffe
from tests.support.tls_server import crl_cache, serve
from tests.support.tls_world import CA, World

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

Respond = Callable[["Accepted"], None]


@dataclass(eq=False)
class Accepted(asyncio.Protocol):
    """A server's end of one connection that does what the test says with each request."""

    listener: TlsListener
    respond: Respond
    everyone: list[Accepted]
    requests: list[bytes] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the ClientHello."""
        self.raw = cast("asyncio.Transport", transport)
        self.engine = self.listener.engine()
        self.shaken = False
        self.everyone.append(self)

    def data_received(self, data: bytes) -> None:
        """Shake hands, then hand over what was decrypted."""
        self.engine.receive(data)
        if not self.shaken:
            self.shaken = self.engine.handshake()
            self.raw.write(self.engine.outgoing())
        while self.shaken and (request := self.engine.incoming()):
            self.requests.append(request)
            self.respond(self)

    def say(self, data: bytes) -> None:
        """Encrypt and send."""
        self.engine.send(data)
        self.raw.write(self.engine.outgoing())

    def close(self) -> None:
        """With a close_notify, as servers close idle connections."""
        self.engine.close()
        self.raw.write(self.engine.outgoing())
        self.raw.close()


@dataclass
class Scripted:
    """A scripted server, its connections, and a client of it."""

    http: Http1Client
    accepted: list[Accepted]


@asynccontextmanager
async def scripted(respond: Respond, *, max_answer: int = 1 << 20) -> AsyncIterator[Scripted]:
    """Serve by script."""
    world = await World.make()
    listener = world.listener()
    await listener.open()
    accepted: list[Accepted] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Accepted(listener, respond, accepted), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tls = world.client()

    async def connect(host: str, to: int):  # type: ignore[no-untyped-def]  # noqa: ANN202 (a TlsConnection)
        return await tls.connect(host, to, expected=CA)

    async with Http1Client(f"https://localhost:{port}", connect, max_answer=max_answer) as http:
        yield Scripted(http, accepted)
    server.close()
    for connection in accepted:
        connection.raw.abort()
    await server.wait_closed()
    await listener.aclose()


async def test_requests_share_a_connection_and_are_counted() -> None:
    """Twenty requests with bodies, one connection; each gets its own body back."""
    world = await World.make()
    events: list[str] = []
    tls = world.client(count=events.append)
    async with serve(world.listener()) as port, tls.http1(CA, f"https://localhost:{port}") as http:
        for number in range(20):
            body = b"%d" % number * 5000
            answer = await http.request("POST", "/echo", content=body, headers={"content-type": "text/plain"})
            assert (answer.status_code, answer.content) == (200, body)
    assert (events.count("connection"), events.count("request")) == (1, 20)


async def test_concurrent_requests_get_their_own_answers_over_a_bounded_pool() -> None:
    """Sixty at once over at most five connections; nobody hears another's answer."""
    world = await World.make()
    events: list[str] = []
    tls = world.client(count=events.append)
    async with serve(world.listener()) as port:
        http = Http1Client(f"https://localhost:{port}", tls.connect, max_connections=5)
        bodies = [b"%d" % number * 100 for number in range(60)]
        answers = await asyncio.gather(*(http.request("POST", "/echo", content=body) for body in bodies))
        await http.aclose()
    assert [answer.content for answer in answers] == bodies
    assert events.count("connection") <= 5


async def test_a_large_answer_arrives_whole_and_a_larger_one_is_refused() -> None:
    """The bound is the whole answer's."""
    world = await World.make()
    async with serve(world.listener()) as port, world.client().http1(CA, f"https://localhost:{port}") as http:
        assert len((await http.request("GET", "/big/3")).content) == 3 << 20
        with pytest.raises(MalformedError, match="longer than"):
            await http.request("GET", "/big/5")
        assert (await http.request("GET", "/")).status_code == 200


async def test_another_service_than_the_expected_one_gets_nothing() -> None:
    """The checks of the handshake are TlsClient's, whatever carries the requests."""
    world = await World.make()
    other = SpiffeId.parse(spiffe("other"))
    async with serve(world.listener()) as port, world.client().http1(other, f"https://localhost:{port}") as http:
        with pytest.raises(PeerMismatchError):
            await http.request("GET", "/")
        with pytest.raises(PeerMismatchError):
            await http.request("GET", "/")


async def test_a_server_that_is_down_is_an_os_error() -> None:
    """TCP refused."""
    world = await World.make()
    async with serve(world.listener()) as port:
        pass
    async with world.client().http1(CA, f"https://localhost:{port}") as http:
        with pytest.raises(ConnectionError):
            await http.request("GET", "/")


async def test_a_connection_that_the_server_closed_while_idle_is_replaced() -> None:
    """The server's keep-alive ends before the client's; the next request does not notice."""
    world = await World.make()
    events: list[str] = []
    tls = world.client(count=events.append)
    async with serve(world.listener(), keep_alive=0) as port, tls.http1(CA, f"https://localhost:{port}") as http:
        await http.request("GET", "/")
        await asyncio.sleep(0.1)
        assert (await http.request("GET", "/")).status_code == 200
    assert events.count("connection") == 2


async def test_a_request_that_crosses_an_orderly_close_is_sent_again_once() -> None:
    """The server closes with close_notify just as the second request arrives, and has answered nothing of it."""

    def respond(connection: Accepted) -> None:
        if len(connection.requests) == 1:
            connection.say(HELLO)
        else:
            connection.close()

    async with scripted(respond) as server:
        for _ in range(3):
            assert (await server.http.request("GET", "/")).content == b"hello"
        assert [len(connection.requests) for connection in server.accepted] == [2, 2, 1]


async def test_a_server_that_answers_nothing_is_asked_no_third_time() -> None:
    """A fresh connection that is closed instead of an answer is an error."""

    def respond(connection: Accepted) -> None:
        if connection is connection.everyone[0] and len(connection.requests) == 1:
            connection.say(HELLO)
        else:
            connection.close()

    async with scripted(respond) as server:
        await server.http.request("GET", "/")
        with pytest.raises(ConnectionResetError, match="instead of an answer"):
            await server.http.request("POST", "/", content=b"x")
        assert [len(connection.requests) for connection in server.accepted] == [2, 1]


async def test_a_request_whose_connection_breaks_is_not_repeated() -> None:
    """Without close_notify the server may have acted on it: the caller decides."""

    def respond(connection: Accepted) -> None:
        if len(connection.requests) == 1:
            connection.say(HELLO)
        else:
            connection.raw.abort()

    async with scripted(respond) as server:
        await server.http.request("GET", "/")
        with pytest.raises(ConnectionError):
            await server.http.request("POST", "/", content=b"x")
        assert len(server.accepted) == 1


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (HELLO[:-2], MalformedError),
        (CHUNKED[:-5], MalformedError),
        (OK, MalformedError),
        (b"220 smtp.example ESMTP\r\n", MalformedError),
        (OK + b"Content-Length: 9999999\r\n\r\n" + b"a" * (1 << 20), MalformedError),
    ],
)
async def test_a_truncated_oversized_or_foreign_answer_is_an_error_and_ends_the_connection(
    said: bytes, error: type[Exception]
) -> None:
    """Nothing of it is taken for an answer, and it is not asked for again."""

    def respond(connection: Accepted) -> None:
        connection.say(said)
        connection.close()

    async with scripted(respond) as server:
        with pytest.raises(error):
            await server.http.request("GET", "/")
        assert len(server.accepted) == 1


@pytest.mark.parametrize("said", [CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO])
async def test_chunks_and_interim_answers_are_read(said: bytes) -> None:
    """Bit by bit, over one connection."""

    def respond(connection: Accepted) -> None:
        for octet in said:
            connection.say(bytes([octet]))

    async with scripted(respond) as server:
        for _ in range(2):
            assert (await server.http.request("GET", "/")).content == b"hello"
        assert len(server.accepted) == 1


async def test_an_answer_that_nobody_asked_for_is_not_given_to_the_next_request() -> None:
    """Two answers to one request: the connection is dropped with the second."""
    async with scripted(lambda connection: connection.say(HELLO + HELLO.replace(b"hello", b"wrong"))) as server:
        for _ in range(2):
            assert (await server.http.request("GET", "/")).content == b"hello"
        assert len(server.accepted) == 2


async def test_bytes_that_arrive_while_idle_spoil_the_connection() -> None:
    """Likewise where the second answer comes late."""
    async with scripted(lambda connection: connection.say(HELLO)) as server:
        await server.http.request("GET", "/")
        server.accepted[0].say(HELLO.replace(b"hello", b"wrong"))
        await asyncio.sleep(0.05)
        assert (await server.http.request("GET", "/")).content == b"hello"
        assert len(server.accepted) == 2


async def test_a_slow_answer_times_out_and_is_never_given_to_another_request() -> None:
    """The time is for the whole exchange; the connection of a late answer is closed."""

    def respond(connection: Accepted) -> None:
        if b"/slow" not in connection.requests[-1]:
            connection.say(HELLO)

    async with scripted(respond) as server:
        with pytest.raises(TimeoutError, match=r"no whole answer within 0\.1 seconds"):
            await server.http.request("GET", "/slow", timeout=0.1)
        assert (await server.http.request("GET", "/")).content == b"hello"
        assert len(server.accepted) == 2


async def test_an_answer_that_trickles_does_not_stretch_the_time() -> None:
    """Each octet in time, the whole not."""

    def respond(connection: Accepted) -> None:
        async def trickle() -> None:
            while not connection.raw.is_closing():
                connection.say(b"a")
                await asyncio.sleep(0.01)

        connection.say(OK + b"Content-Length: 100000\r\n\r\n")
        connection.trickle = asyncio.create_task(trickle())  # type: ignore[attr-defined] # kept from the collector

    async with scripted(respond) as server:
        with pytest.raises(TimeoutError):
            await server.http.request("GET", "/", timeout=0.2)


async def test_a_cancelled_request_leaves_no_answer_behind() -> None:
    """Its connection is closed, and its place in the pool is free again."""
    world = await World.make()
    async with serve(world.listener()) as port:
        http = Http1Client(f"https://localhost:{port}", world.client().connect, max_connections=1)
        slow = asyncio.create_task(http.request("GET", "/slow"))
        await asyncio.sleep(0.1)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await http.request("POST", "/echo", content=b"mine")).content == b"mine"
        await http.aclose()


async def test_the_wait_for_a_place_in_the_pool_counts_too() -> None:
    """A full pool is a time-out, not a hang."""
    world = await World.make()
    async with serve(world.listener()) as port:
        http = Http1Client(f"https://localhost:{port}", world.client().connect, max_connections=1)
        slow = asyncio.create_task(http.request("GET", "/slow"))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await http.request("GET", "/", timeout=0.05)
        assert (await slow).status_code == 200
        await http.aclose()


async def test_a_pooled_connection_to_a_server_that_becomes_revoked_is_not_used_again() -> None:
    """One request is under way and fails with the reason; one connection is idle and closed; the next is refused."""
    world = await World.make()
    credentials = world.pki.service("ca")
    client_crls = await crl_cache(world.pki, world.publisher)
    tls = world.client(crls=client_crls)
    listener = world.listener(credentials=credentials)
    async with serve(listener) as port, tls.http1(CA, f"https://localhost:{port}") as http:
        await asyncio.gather(http.request("GET", "/"), http.request("GET", "/"))
        slow = asyncio.create_task(http.request("GET", "/slow"))
        await asyncio.sleep(0.05)
        world.pki.issuing.revoked.add(credentials.certificate.serial_number)
        world.publisher.publish(world.pki)
        await client_crls.refresh()
        with pytest.raises(ConnectionAbortedError, match="certificate revoked"):
            await slow
        with pytest.raises(HandshakeError, match="certificate revoked"):
            await http.request("GET", "/")


async def test_after_close_nothing_is_kept() -> None:
    """A request may still be made; its connection does not outlive it."""
    async with scripted(lambda connection: connection.say(HELLO)) as server:
        await server.http.request("GET", "/")
        await server.http.aclose()
        await server.http.request("GET", "/")
        await server.http.request("GET", "/")
        assert len(server.accepted) == 3


@pytest.mark.parametrize("url", ["http://localhost:1", "localhost", "https://", "https://localhost/base"])
async def test_a_base_url_is_an_https_origin(url: str) -> None:
    """Anything else is refused before the first request."""
    world = await World.make()
    with pytest.raises(MalformedError, match="https URL"):
        world.client().http1(CA, url)
