"""Listeners and clients over time: revocation and rotation while connections are open, load, drain, slow peers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvloop
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.errors import HandshakeError
from pkicore.mtls import CredentialsSource, CrlCache, StapleCache, TlsConnection, TlsListener, TlsTimeouts
from tests.support.clock import ManualClock
from tests.support.tls_pki import Authority, TlsPki, now, spiffe, write_credentials
from tests.support.tls_server import Errors, crl_cache, serve
from tests.support.tls_world import CA, World

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_connection_whose_peer_becomes_revoked_is_closed_at_once_and_others_go_on() -> None:
    """The revoked client's pooled connection dies with the CRL; the other client keeps its own."""
    world = await World.make()
    bad = world.pki.service("bad")
    events: list[str] = []
    server_crls = await crl_cache(world.pki, world.publisher)
    async with serve(world.listener(crls=server_crls)) as port:
        url = f"https://localhost:{port}"
        async with (
            world.client(credentials=bad).http(CA, base_url=url) as revoked,
            world.client(count=events.append).http(CA, base_url=url) as good,
        ):
            await revoked.get("/")
            await good.get("/")
            held = await world.client(credentials=bad).connect("localhost", port, expected=CA)
            world.pki.issuing.revoked.add(bad.certificate.serial_number)
            world.publisher.publish(world.pki)
            await server_crls.refresh()
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(2):
                    await held.read(1)
            with pytest.raises(HandshakeError, match="refused by peer: certificate revoked"):
                await revoked.get("/")
            assert (await good.get("/")).status_code == 200
    assert events.count("connection") == 1


async def test_a_client_closes_its_connection_to_a_server_that_becomes_revoked() -> None:
    """A request under way fails with the reason; the next one is refused in the handshake."""
    world = await World.make()
    credentials = world.pki.service("ca")
    client_crls = await crl_cache(world.pki, world.publisher)
    client = world.client(crls=client_crls)
    async with serve(world.listener(credentials=credentials)) as port, client.http(CA) as http:
        url = f"https://localhost:{port}"
        await http.get(url)
        slow = asyncio.create_task(http.get(f"{url}/slow"))
        await asyncio.sleep(0.05)
        world.pki.issuing.revoked.add(credentials.certificate.serial_number)
        world.publisher.publish(world.pki)
        await client_crls.refresh()
        with pytest.raises(httpx.ReadError, match="certificate revoked"):
            await slow
        with pytest.raises(HandshakeError, match="certificate revoked"):
            await http.get(url)


async def test_revoking_the_issuing_ca_closes_its_clients() -> None:
    """A CA above the peer counts as the peer itself."""
    world = await World.make()
    other = Authority.make("other", "mldsa", world.pki.root)
    world.publisher.crls[other.certificate] = other.crl()
    crls = await crl_cache(world.pki, world.publisher, also=(other.certificate,))
    async with serve(world.listener(crls=crls)) as port:
        client = world.client(credentials=other.issue(uri=spiffe("acme")))
        connection = await client.connect("localhost", port, expected=CA)
        await _ask(connection)
        world.pki.root.revoked.add(other.certificate.serial_number)
        world.publisher.publish(world.pki)
        await crls.refresh()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(2):
                await connection.read(1)


async def _answer(connection: TlsConnection) -> bytes:
    """What is answered first; nothing where the connection is closed or refused."""
    try:
        await connection.write(REQUEST)
        return await connection.read(1)
    except (HandshakeError, ConnectionError):
        return b""


async def no_shards(_issuer: x509.Certificate, shard: int) -> bytes:
    """This PKI has none."""
    raise AssertionError(shard)


async def named_crls(world: World) -> CrlCache:
    """A cache of the root's list, and of those that certificates name."""
    hour = timedelta(hours=1)
    fetch = world.publisher.fetch
    cache = CrlCache(world.pki.issuers, fetch, None, SystemClock(), hour, on_error=Errors(), fetch_shard=no_shards)
    await cache.refresh()
    return cache


async def test_lists_that_certificates_name_are_had_in_the_handshake_that_needs_them() -> None:
    """On both ends, once; who is revoked is refused already then, and in every later handshake by the alert for it."""
    world = await World.make()
    bad = world.pki.service("bad")
    world.pki.issuing.revoked.add(bad.certificate.serial_number)
    world.publisher.publish(world.pki)
    server_crls, client_crls = await named_crls(world), await named_crls(world)
    before = world.publisher.fetched
    async with serve(world.listener(crls=server_crls)) as port:
        assert await _answer(await world.client(credentials=bad).connect("localhost", port, expected=CA)) == b""
        assert (await world.recorder.last()).reason == "certificate revoked"
        assert world.publisher.fetched == before + 1
        for _ in range(2):
            await _ask(await world.client(crls=client_crls).connect("localhost", port, expected=CA))
        assert world.publisher.fetched == before + 2
        connection = await world.client(credentials=bad).connect("localhost", port, expected=CA)
        with pytest.raises(HandshakeError, match="refused by peer: certificate revoked"):
            await connection.read(1)


async def test_a_list_that_cannot_be_had_is_asked_for_by_nobody_but_peers_and_missed_by_one_alone() -> None:
    """A stranger under the issuer's name makes nobody fetch; a peer is refused as unknown until the list is there."""
    world = await World.make()
    crls = await named_crls(world)
    served = world.publisher.crls.pop(world.pki.issuing.certificate)
    before = world.publisher.fetched
    stranger = TlsPki.make("mldsa").service("acme")
    async with serve(world.listener(crls=crls)) as port:
        for credentials, reason, fetched in (
            (stranger, None, 0),
            (world.pki.service("acme"), "revocation status is unknown", 1),
        ):
            connection = await world.client(credentials=credentials).connect("localhost", port, expected=CA)
            assert await _answer(connection) == b""
            assert world.publisher.fetched == before + fetched
            assert reason in {None, (await world.recorder.last()).reason}
        crls.current()
        world.publisher.crls[world.pki.issuing.certificate] = served
        await _ask(await world.client().connect("localhost", port, expected=CA))


async def test_a_crl_that_rolls_back_changes_nothing() -> None:
    """A replayed older CRL does not bring a revoked certificate back."""
    world = await World.make()
    credentials = world.pki.service("acme")
    errors = Errors()
    before = dict(world.publisher.crls)
    crls = await crl_cache(world.pki, world.publisher, errors=errors)
    world.pki.issuing.revoked.add(credentials.certificate.serial_number)
    world.publisher.publish(world.pki)
    await crls.refresh()
    world.publisher.crls = before
    await crls.refresh()
    assert all("replay" in str(error) for error in errors.seen)
    assert len(errors.seen) == 2
    async with serve(world.listener(crls=crls)) as port:
        connection = await world.client(credentials=credentials).connect("localhost", port, expected=CA)
        with pytest.raises(HandshakeError, match="certificate revoked"):
            await connection.read(1)


async def test_rotation_under_traffic_fails_no_request(tmp_path: Path) -> None:
    """New files become the new certificate for new connections, with a staple of its own; nothing breaks."""
    world = await World.make()
    listener, source = _rotating(world, tmp_path)
    serials: set[str] = set()
    stop = asyncio.Event()

    async def traffic(port: int) -> int:
        count = 0
        while not stop.is_set():
            async with world.client().http(CA, base_url=f"https://localhost:{port}") as http:
                for _ in range(5):
                    assert (await http.get("/")).text == spiffe("acme")
                    count += 1
        return count

    async with serve(listener) as port:
        workers = [asyncio.create_task(traffic(port)) for _ in range(4)]
        for turn in range(3):
            await asyncio.sleep(0.15)
            _switch(tmp_path, world, turn)
            source.reload()
            async with asyncio.timeout(2):
                while listener.serving is not source.current():  # noqa: ASYNC110 (the listener offers no event)
                    await asyncio.sleep(0.01)
            serials.add((await world.client().probe(f"https://localhost:{port}", CA)).serial or "")
        stop.set()
        assert sum(await asyncio.gather(*workers)) > 20
    assert len(serials) == 3


async def test_a_new_certificate_waits_for_its_staple(tmp_path: Path) -> None:
    """As long as the responder does not know the new certificate, the old one is shown."""
    world = await World.make()
    listener, source = _rotating(world, tmp_path, knows_new=False)
    async with serve(listener) as port:
        old = listener.serving
        _switch(tmp_path, world, 0)
        source.reload()
        await asyncio.sleep(0.1)
        assert listener.serving is old
        assert (await world.client().probe(f"https://localhost:{port}", CA)).accepted


def _rotating(world: World, tmp_path: Path, *, knows_new: bool = True) -> tuple[TlsListener, CredentialsSource]:
    first = _switch(tmp_path, world, -1)

    async def fetch(certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
        if not knows_new and certificate.serial_number != first:
            raise ConnectionRefusedError
        return world.pki.issuing.staple(certificate)

    current = tmp_path / "current"
    source = CredentialsSource(current / "cert.pem", current / "key.pem", on_error=_raise)
    staples = StapleCache(fetch, None, SystemClock(), on_error=Errors())
    return world.listener(credentials=source, staples=staples), source


def _raise(error: Exception) -> None:
    raise error


def _switch(tmp_path: Path, world: World, turn: int) -> int:
    """Write a new pair into a directory of its own and point `current` at it, in one step."""
    directory = tmp_path / f"version{turn}"
    directory.mkdir()
    credentials = world.pki.service("ca")
    write_credentials(credentials, directory)
    link = tmp_path / "next"
    link.symlink_to(directory)
    link.replace(tmp_path / "current")
    return credentials.certificate.serial_number


async def test_large_bodies_go_both_ways() -> None:
    """40 MiB up, 40 MiB down, byte for byte in number, in bounded pieces."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port, world.client().http(CA, base_url=f"https://localhost:{port}") as http:
        assert (await http.post("/count", content=bytes(40 << 20))).text == str(40 << 20)
        received = 0
        async with http.stream("GET", "/big/40") as response:
            async for part in response.aiter_bytes():
                received += len(part)
        assert received == 40 << 20
        body = os.urandom(1 << 20)
        assert (await http.post("/echo", content=body)).content == body


async def test_two_hundred_connections_at_once() -> None:
    """Each gets its own answer, none waits for another."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        client = world.client(handshake_timeout=30.0)
        connections = await asyncio.gather(*(client.connect("localhost", port, expected=CA) for _ in range(200)))
        answers = await asyncio.gather(*(_ask(connection) for connection in connections))
        for connection in connections:
            connection.close()
    assert all(spiffe("acme").encode() in answer for answer in answers)
    assert len(world.recorder.handshakes) == 200


async def test_a_client_that_reads_nothing_grows_no_memory_and_is_cut_off() -> None:
    """The application is paused after some 64 KiB, and the connection ends when nothing moves any more."""
    world = await World.make("ecdsa")
    listener = world.listener(timeouts=TlsTimeouts(stall=0.5))
    async with serve(listener) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        connection.transport.pause_reading()
        await connection.write(b"GET /big/512 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        (server_side,) = listener.connections
        assert server_side.buffered < 3 << 20
        async with asyncio.timeout(5):
            while listener.connections:  # noqa: ASYNC110 (the listener offers no event)
                await asyncio.sleep(0.02)
        connection.abort(ConnectionAbortedError())


async def test_a_reader_that_does_not_read_stops_the_sender() -> None:
    """On the client's end, too, decrypted bytes wait in bounded memory."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(b"GET /big/64 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.3)
        assert connection.buffered < 1 << 20
        received = 0
        while part := await connection.read(1 << 20):
            received += len(part)
        assert received > 64 << 20
        connection.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: ", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12"]
)
async def test_a_client_that_dawdles_after_the_handshake_is_cut_off(sent: bytes) -> None:
    """No request, half a head, half a body: each has its time."""
    world = await World.make("ecdsa")
    async with serve(world.listener(timeouts=TlsTimeouts(request_head=0.2, stall=0.2))) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(sent)
        async with asyncio.timeout(3):
            with pytest.raises(ConnectionError):
                await connection.read(1)


async def test_a_head_without_end_is_cut_off() -> None:
    """Headers are bounded in bytes."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 4096 + b"\r\n") * 100)
        with pytest.raises(ConnectionError):
            await connection.read(1)


CHUNKED = b"HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("head", [b"GET / " + CHUNKED, b"POST /echo " + CHUNKED + b"1\r\nx\r\n"])
@pytest.mark.parametrize(("first", "more"), [(b"0\r\n", b"A: b\r\n"), (b"0\r\nA: ", b"b"), (b"1;", b"ext")])
async def test_framing_without_end_is_cut_off(head: bytes, first: bytes, more: bytes) -> None:
    """Trailers, one trailer or a chunk extension that never ends: none of it is kept, and the connection ends."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(head + first)
        with pytest.raises(ConnectionError):
            await _pour(connection, more * (16_384 // len(more)))


async def _pour(connection: TlsConnection, part: bytes) -> None:
    """Write a mebibyte, and read on; ends with the connection."""
    async with asyncio.timeout(10):
        for _ in range(64):
            await connection.write(part)
        while await connection.read(1 << 16):
            pass
    raise ConnectionResetError


async def test_small_chunks_are_no_endless_framing() -> None:
    """A body in chunks of one octet is a body, however long it is."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(b"POST /count " + CHUNKED + b"1\r\nx\r\n" * 60_000 + b"0\r\nA: b\r\n\r\n")
        async with asyncio.timeout(10):
            assert b"60000" in await connection.read(1 << 16)
        connection.close()


async def test_a_request_before_a_close_notify_is_still_answered() -> None:
    """RFC 8446 §6.1: closing one direction does not close the other."""
    world = await World.make("ecdsa")
    async with serve(world.listener()) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.engine.close()
        connection.transport.write(connection.engine.outgoing())
        answer = b""
        while part := await connection.read(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        connection.close()


async def test_an_aborted_upload_leaves_nothing_behind() -> None:
    """The socket dies in the middle of a body: the handler hears of it and the connection is forgotten."""
    world = await World.make("ecdsa")
    listener = world.listener()
    async with serve(listener) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await connection.write(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
        await asyncio.sleep(0.05)
        assert len(listener.connections) == 1
        connection.transport.abort()
        async with asyncio.timeout(2):
            while listener.connections:  # noqa: ASYNC110 (the listener offers no event)
                await asyncio.sleep(0.01)


async def test_a_truncated_answer_is_an_error() -> None:
    """An end without close_notify is not the end of an answer (RFC 8446 §6.1)."""
    world = await World.make("ecdsa")
    listener = world.listener()
    async with serve(listener) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await _ask(connection)
        for server_side in tuple(listener.connections):
            server_side.abort()
        with pytest.raises(ConnectionError):
            await connection.read(1)


async def test_draining_finishes_what_is_under_way_and_closes_the_rest() -> None:
    """On shutdown a request in progress is answered; idle and half-made connections do not hold it up."""
    world = await World.make("ecdsa")
    async with contextlib.AsyncExitStack() as stack:
        server = contextlib.AsyncExitStack()
        port = await server.enter_async_context(serve(world.listener()))
        http = await stack.enter_async_context(world.client().http(CA, base_url=f"https://localhost:{port}"))
        idle = await world.client().connect("localhost", port, expected=CA)
        _, half_made = await asyncio.open_connection("127.0.0.1", port)
        slow = asyncio.create_task(http.get("/slow"))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(3):
            await server.aclose()
        assert (await slow).status_code == 200
        assert await idle.read(1) == b""
        idle.close()
        half_made.close()


async def test_connections_are_freed() -> None:
    """Fifty connections later there are no engines left over but the collector's due."""
    world = await World.make("ecdsa")
    listener = world.listener()
    async with serve(listener) as port:
        for _ in range(50):
            connection = await world.client().connect("localhost", port, expected=CA)
            await _ask(connection)
            connection.close()
        await asyncio.sleep(0.1)
        gc.collect()
        assert not listener.connections
        assert sum(isinstance(item, TlsConnection) for item in gc.get_objects()) <= 1


def test_everything_works_under_uvloop() -> None:
    """Services run on uvloop; requests, refusals and large bodies behave as under asyncio's own loop."""

    async def scenario() -> None:
        world = await World.make()
        bad = world.pki.service("bad")
        await world.revoke(bad.certificate.serial_number)
        async with serve(world.listener()) as port:
            url = f"https://localhost:{port}"
            async with world.client().http(CA, base_url=url) as http:
                assert (await http.get("/")).text == spiffe("acme")
                assert (await http.post("/count", content=bytes(8 << 20))).text == str(8 << 20)
                assert len((await http.get("/big/8")).content) == 8 << 20
            async with world.client(credentials=bad).http(CA, base_url=url) as http:
                with pytest.raises(HandshakeError, match="refused by peer: certificate revoked"):
                    await http.get("/")

    uvloop.run(scenario())


async def test_a_handshake_that_began_before_a_rotation_ends_after_it(tmp_path: Path) -> None:
    """It shows the old certificate, with the old certificate's staple."""
    world = await World.make()
    listener, source = _rotating(world, tmp_path)
    async with serve(listener):
        old = listener.serving
        server = listener.engine()
        _switch(tmp_path, world, 0)
        source.reload()
        async with asyncio.timeout(2):
            while listener.serving is old:  # noqa: ASYNC110 (the listener offers no event)
                await asyncio.sleep(0.01)
        client = world.client()
        engine = client.engine("localhost", on_staple=client.judge_staple)
        for _ in range(3):
            engine.handshake()
            server.receive(engine.outgoing())
            server.handshake()
            engine.receive(server.outgoing())
        peer = client.admission(CA)(engine)
    assert peer.certificate == old.certificate


async def test_a_connection_ends_with_its_certificate() -> None:
    """A kept connection does not outlive the identity that opened it."""
    world = await World.make("ecdsa")
    clock = ManualClock(now())
    listener = world.listener(clock=clock, timeouts=TlsTimeouts(close=0.1))
    async with serve(listener) as port:
        connection = await world.client().connect("localhost", port, expected=CA)
        await _ask(connection)
        clock.advance(timedelta(days=31))
        async with asyncio.timeout(2):
            assert await connection.read(1) == b""
        connection.close()


async def _ask(connection: TlsConnection) -> bytes:
    await connection.write(REQUEST)
    answer = b""
    while b"service/acme" not in answer:
        answer += await connection.read(65536)
    return answer
