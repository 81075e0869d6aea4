"""What a listener refuses, with which alert, and what its observer is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from pkicore.errors import HandshakeError
from pkicore.mtls import INTERNAL, PUBLIC, Credentials, TlsClient, TlsListener, TlsTimeouts
from tests.support.clock import ManualClock
from tests.support.tls_pki import CLIENT, SERVER, Authority, TlsPki, now, spiffe
from tests.support.tls_server import CrlPublisher, Recorder, crl_cache, serve
from tests.support.tls_world import CA, World


async def _refusal(world: World, client: TlsClient, listener: TlsListener | None = None) -> str:
    """The reason that the client gets when it asks."""
    async with (
        serve(listener or world.listener()) as port,
        client.http(CA, base_url=f"https://localhost:{port}") as http,
    ):
        with pytest.raises(HandshakeError) as caught:
            await http.get("/")
    return caught.value.reason


async def test_a_peer_that_is_let_in_is_named_to_the_application_and_to_the_observer() -> None:
    """The handler sees the SPIFFE ID of the caller, the observer the hybrid group."""
    world = await World.make()
    async with serve(world.listener()) as port, world.client().http(CA, base_url=f"https://localhost:{port}") as http:
        assert (await http.get("/")).text == spiffe("acme")
    (handshake,) = world.recorder.handshakes
    assert handshake.result == "success"
    assert handshake.peer == spiffe("acme")
    assert handshake.group == "X25519MLKEM768"


async def test_a_revoked_client_certificate_gets_the_alert_certificate_revoked() -> None:
    """Client and observer both learn that the certificate is revoked, the observer also whose it is."""
    world = await World.make()
    credentials = world.pki.service("acme")
    await world.revoke(credentials.certificate.serial_number)
    reason = await _refusal(world, world.client(credentials=credentials))
    assert reason == "refused by peer: certificate revoked"
    heard = await world.recorder.last()
    assert (heard.result, heard.reason, heard.peer) == ("failure", "certificate revoked", spiffe("acme"))


async def test_a_client_of_a_revoked_issuing_ca_is_refused() -> None:
    """Revocation of the CA above a certificate counts as much as its own."""
    world = await World.make()
    world.pki.root.revoked.add(world.pki.issuing.certificate.serial_number)
    other = Authority.make("other", "mldsa", world.pki.root)
    world.publisher.publish(world.pki)
    world.publisher.crls[other.certificate] = other.crl()
    crls = await crl_cache(TlsPki(world.pki.root, world.pki.issuing), world.publisher)
    listener = world.listener(credentials=other.issue(uri=spiffe("ca")), crls=crls, staples=None)
    client = world.client(rules=replace(INTERNAL, check_crl=False), crls=None, require_staple=False)
    assert await _refusal(world, client, listener) == "refused by peer: certificate revoked"


async def test_an_expired_client_certificate_gets_the_alert_certificate_expired() -> None:
    """Expiry has its own alert."""
    world = await World.make()
    credentials = world.pki.issuing.issue(uri=spiffe("acme"), valid=(timedelta(days=-9), timedelta(days=-1)))
    reason = await _refusal(world, world.client(credentials=credentials))
    assert reason == "refused by peer: certificate expired"
    heard = await world.recorder.last()
    assert (heard.reason, heard.peer) == ("certificate has expired", spiffe("acme"))


async def test_a_certificate_of_a_foreign_ca_gets_the_alert_unknown_ca() -> None:
    """A chain that ends in somebody else's root is refused, even if the names are ours."""
    world = await World.make()
    foreign = TlsPki.make().issuing.issue(uri=spiffe("acme"))
    reason = await _refusal(world, world.client(credentials=foreign))
    assert reason == "refused by peer: unknown ca"
    heard = await world.recorder.last()
    assert heard.result == "failure"
    assert "issuer certificate" in heard.reason


async def test_a_ca_that_copies_names_and_key_identifiers_is_still_foreign() -> None:
    """Trust is in the root's key, not in its name."""
    world = await World.make()
    twin = TlsPki.make()
    assert twin.root.certificate.subject == world.pki.root.certificate.subject
    leaf = twin.issuing.issue(uri=spiffe("acme"))
    credentials = Credentials((*leaf.chain, twin.root.certificate), leaf.private_key)
    reason = await _refusal(world, world.client(credentials=credentials))
    assert reason.startswith("refused by peer: ")
    assert (await world.recorder.last()).result == "failure"


async def test_no_certificate_gets_the_alert_certificate_required() -> None:
    """An internal listener talks to nobody it does not know."""
    world = await World.make()
    reason = await _refusal(world, world.client(credentials=None))
    assert reason == "refused by peer: certificate required"
    heard = await world.recorder.last()
    assert (heard.reason, heard.peer) == ("no client certificate", None)


async def test_a_certificate_for_servers_only_does_not_authenticate_a_client() -> None:
    """The extended key usage must say clientAuth."""
    world = await World.make()
    credentials = world.pki.issuing.issue(uri=spiffe("acme"), usages=(SERVER,))
    reason = await _refusal(world, world.client(credentials=credentials))
    assert reason.startswith("refused by peer: ")
    heard = await world.recorder.last()
    assert heard.reason in {"unsuitable certificate purpose", "unsupported certificate purpose"}


async def test_a_ca_certificate_does_not_authenticate_a_peer() -> None:
    """Whoever holds a CA key still is no service."""
    world = await World.make()
    chain = (world.pki.issuing.certificate,)
    client = world.client(credentials=Credentials(chain, world.pki.issuing.key))
    async with serve(world.listener()) as port, client.http(CA, base_url=f"https://localhost:{port}") as http:
        with pytest.raises((HandshakeError, httpx.TransportError)):
            await http.get("/")
    heard = await world.recorder.last()
    assert (heard.result, heard.reason) == ("failure", "unsuitable certificate purpose")


async def test_two_uri_names_are_refused() -> None:
    """X509-SVID §2: more than one URI name is no identity."""
    world = await World.make()
    two = world.pki.issuing.issue(uri=spiffe("acme"), dns=("localhost",), extra_uris=(spiffe("ca"),))
    async with serve(world.listener()) as port:
        connection = await world.client(credentials=two).connect("localhost", port, expected=CA)
        assert await connection.read(1) == b""
        connection.close()
    heard = await world.recorder.last()
    assert (heard.result, heard.reason) == ("failure", "names are not acceptable")


async def test_classical_key_exchange_is_refused_on_an_internal_listener() -> None:
    """A client that offers only X25519 gets no connection."""
    world = await World.make()
    client = world.client(rules=replace(INTERNAL, groups=("X25519",)))
    assert await _refusal(world, client) == "refused by peer: handshake failure"
    assert (await world.recorder.last()).reason == "group not allowed"


async def test_tls_1_2_is_refused_on_an_internal_listener() -> None:
    """Internal means TLS 1.3; a public listener with the same certificate takes 1.2."""
    world = await World.make("ecdsa")
    openssl = ["openssl", "s_client", "-tls1_2", "-connect"]
    internal = world.listener(rules=replace(INTERNAL, client_certificate="none"))
    async with serve(internal) as port:
        assert b"Cipher is (NONE)" in await _run([*openssl, f"127.0.0.1:{port}"])
    assert (await world.recorder.last()).reason == "unsupported protocol"
    async with serve(world.listener(rules=PUBLIC)) as port:
        answer = await _run([*openssl, f"127.0.0.1:{port}"])
    assert b"Cipher is ECDHE-ECDSA-AES256-GCM-SHA384" in answer
    assert b"Secure Renegotiation IS supported" in answer
    assert b"Compression: NONE" in answer


@pytest.mark.parametrize("cipher", ["AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
async def test_weak_tls_1_2_ciphers_are_not_offered(cipher: str) -> None:
    """A public listener takes only ECDHE with AEAD."""
    world = await World.make("ecdsa")
    async with serve(world.listener(rules=PUBLIC)) as port:
        command = ["openssl", "s_client", "-tls1_2", "-cipher", cipher, "-connect", f"127.0.0.1:{port}"]
        assert b"Cipher is (NONE)" in await _run(command)


async def test_a_public_listener_serves_strangers_and_checks_those_who_show_a_certificate() -> None:
    """No certificate: nobody. A good one: its owner. A revoked one: refused."""
    world = await World.make("ecdsa")
    friend, revoked = world.pki.service("friend"), world.pki.service("bad")
    await world.revoke(revoked.certificate.serial_number)
    public = replace(PUBLIC, client_certificate="optional")
    async with serve(world.listener(rules=public)) as port:
        url = f"https://localhost:{port}/"
        async with world.client(credentials=None, rules=PUBLIC).http() as http:
            assert (await http.get(url)).text == "nobody"
        async with world.client(credentials=friend, rules=PUBLIC).http() as http:
            assert (await http.get(url)).text == spiffe("friend")
        async with world.client(credentials=revoked, rules=PUBLIC).http() as http:
            with pytest.raises(HandshakeError, match="certificate revoked"):
                await http.get(url)


async def test_a_public_listener_prefers_the_hybrid_group_and_takes_classical_ones() -> None:
    """X25519MLKEM768 where the client can, X25519 where it cannot."""
    world = await World.make("ecdsa")
    async with serve(world.listener(rules=PUBLIC)) as port:
        for groups in (("X25519", "X25519MLKEM768"), ("X25519",), ("P-256",)):
            client = world.client(rules=replace(PUBLIC, groups=groups))
            (await client.connect("localhost", port)).close()
    assert [heard.group for heard in world.recorder.handshakes] == ["X25519MLKEM768", "x25519", "secp256r1"]


async def test_without_crls_nobody_is_let_in() -> None:
    """A listener whose CRLs could never be fetched refuses every client certificate."""
    world = await World.make()
    crls = await crl_cache(world.pki, CrlPublisher())
    await _refusal(world, world.client(), world.listener(crls=crls))
    assert (await world.recorder.last()).result == "failure"


async def test_stale_crls_let_nobody_in() -> None:
    """Once the publisher was unreachable for longer than allowed, good certificates are refused, too."""
    world = await World.make()
    clock = ManualClock(now())
    crls = await crl_cache(world.pki, world.publisher, clock=clock, max_staleness=timedelta(minutes=10))
    async with serve(world.listener(crls=crls)) as port:
        (await world.client().connect("localhost", port, expected=CA)).close()
        clock.advance(timedelta(minutes=11))
        connection = await world.client().connect("localhost", port, expected=CA)
        with pytest.raises(HandshakeError, match="refused by peer"):
            await connection.read(1)
    assert (await world.recorder.last()).reason == "revocation status is stale"


async def test_garbage_instead_of_tls_is_refused_and_counted() -> None:
    """Plain HTTP and noise end the connection at once."""
    world = await World.make()
    async with serve(world.listener()) as port:
        for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 8):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            async with asyncio.timeout(2):
                assert b"HTTP" not in await reader.read()
            writer.close()
    assert [heard.reason for heard in world.recorder.handshakes] == ["plain HTTP", "not TLS"]


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x05\x00\x01"])
async def test_a_client_that_dawdles_over_the_handshake_is_cut_off(first: bytes) -> None:
    """Silence and half a ClientHello both end with the handshake timer."""
    world = await World.make()
    async with serve(world.listener(timeouts=TlsTimeouts(handshake=0.2))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        async with asyncio.timeout(2):
            assert await reader.read() == b""
        writer.close()
        assert (await world.recorder.last()).reason == "handshake timeout"


async def test_a_connection_that_ends_during_the_handshake_is_counted() -> None:
    """Port scanners show up in the metrics, once each."""
    world = await World.make()
    async with serve(world.listener()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        heard = await world.recorder.last()
        assert (heard.reason, heard.client) == ("connection closed during the handshake", "127.0.0.1")
    assert len(world.recorder.handshakes) == 1


async def test_tls_1_2_sessions_are_not_resumed() -> None:
    """Neither tickets nor session ids: revocation and identity are checked on every connection."""
    world = await World.make("ecdsa")
    async with serve(world.listener(rules=PUBLIC)) as port:
        output = await _run(["openssl", "s_client", "-reconnect", "-tls1_2", "-connect", f"127.0.0.1:{port}"])
    assert output.count(b"New, TLSv1.2") == 6
    assert b"Reused" not in output


async def _run(command: list[str]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(10):
        output, _ = await process.communicate()
    return output


def test_a_listener_that_checks_clients_needs_crls() -> None:
    """The rules cannot be had with nothing to check against."""
    pki = TlsPki.make("ecdsa")
    with pytest.raises(ValueError, match="needs CRLs"):
        TlsListener(
            name="x",
            credentials=pki.service("ca"),
            rules=INTERNAL,
            trust=pki.trust,
            crls=None,
            staples=None,
            observer=Recorder(),
            clock=ManualClock(),
        )


async def test_a_client_only_certificate_does_not_serve() -> None:
    """The client refuses a server whose certificate is for clients only."""
    world = await World.make()
    listener = world.listener(credentials=world.pki.issuing.issue(uri=spiffe("ca"), usages=(CLIENT,)), staples=None)
    reason = await _refusal(world, world.client(require_staple=False), listener)
    assert reason in {"unsuitable certificate purpose", "unsupported certificate purpose"}
