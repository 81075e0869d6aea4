"""What a client refuses before a byte of its own is sent, and what the probe reports of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from pkicore.clock import SystemClock
from pkicore.errors import HandshakeError, MalformedError, PeerMismatchError, StaleStatusError
from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL, PUBLIC, StapleCache, TlsListener
from pkicore.mtls.context import server_context
from pkicore.mtls.openssl import set_groups
from tests.support.tls_pki import Authority, TlsPki, now, spiffe
from tests.support.tls_server import CrlPublisher, Errors, crl_cache, serve
from tests.support.tls_world import CA, World

OTHER = SpiffeId.parse(spiffe("other"))


class FixedStaple(StapleCache):
    """A responder's answer that nobody has checked, as a careless or hostile server would staple it."""

    def __init__(self, der: bytes) -> None:
        async def fetch(_certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
            return der

        super().__init__(fetch, None, SystemClock(), on_error=Errors())
        self._der = der

    def staple(self, certificate: x509.Certificate) -> bytes:  # noqa: ARG002 (the signature of what it stands for)
        """Whatever it was given."""
        return self._der


async def _reason(world: World, listener: TlsListener) -> str:
    async with serve(listener) as port, world.client().http(CA, base_url=f"https://localhost:{port}") as http:
        with pytest.raises(HandshakeError) as caught:
            await http.get("/")
    return caught.value.reason


Make = Callable[[TlsPki, x509.Certificate], bytes]


def _foreign(pki: TlsPki, certificate: x509.Certificate) -> bytes:
    return pki.issuing.staple(certificate, signer=Authority.make("issuing", "mldsa"))


def _expired(pki: TlsPki, certificate: x509.Certificate) -> bytes:
    return pki.issuing.staple(certificate, at=now() - timedelta(hours=3))


def _revoked(pki: TlsPki, certificate: x509.Certificate) -> bytes:
    return pki.issuing.staple(certificate, status=ocsp.OCSPCertStatus.REVOKED)


def _unknown(pki: TlsPki, certificate: x509.Certificate) -> bytes:
    return pki.issuing.staple(certificate, status=ocsp.OCSPCertStatus.UNKNOWN)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _pki, _certificate: b"", "no staple"),
        (_foreign, "staple is not signed by the issuer"),
        (_expired, "staple is stale"),
        (_revoked, "staple says revoked"),
        (_unknown, "staple says unknown, or is about another certificate"),
        (lambda _pki, _certificate: b"\x30\x03\x0a\x01\x03", "staple says unknown, or is about another certificate"),
    ],
)
async def test_a_staple_that_does_not_prove_the_server_good_is_refused(make: Make, reason: str) -> None:
    """The server learns of it by the alert bad_certificate_status_response, the caller by the reason."""
    world = await World.make()
    credentials = world.pki.service("ca")
    staples = FixedStaple(make(world.pki, credentials.certificate))
    assert await _reason(world, world.listener(credentials=credentials, staples=staples)) == reason
    heard = await world.recorder.last()
    assert heard.reason == "refused by peer: bad certificate status response"


async def test_a_client_that_needs_no_staple_does_without() -> None:
    """Stapling is the client's demand, not the protocol's."""
    world = await World.make()
    async with serve(world.listener(staples=None)) as port:
        (await world.client(require_staple=False).connect("localhost", port, expected=CA)).close()


async def test_a_listener_without_any_staple_does_not_open() -> None:
    """Nothing on disk and no responder: the listener says so instead of opening."""
    world = await World.make()

    async def fetch(_certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
        raise ConnectionRefusedError

    listener = world.listener(staples=StapleCache(fetch, None, SystemClock(), on_error=Errors()))
    with pytest.raises(StaleStatusError, match="no good OCSP staple"):
        await listener.open()
    with pytest.raises(StaleStatusError, match="no good OCSP staple"):
        _ = listener.protocol_class


async def test_another_service_than_the_expected_one_gets_nothing() -> None:
    """The server's certificate is good, but it is not the service that was meant."""
    world = await World.make()
    async with (
        serve(world.listener()) as port,
        world.client().http(OTHER, base_url=f"https://localhost:{port}") as http,
    ):
        with pytest.raises(PeerMismatchError, match=r"expected spiffe://pqcpki.test/service/other, .*service/ca"):
            await http.get("/")
        assert (await world.recorder.last()).peer is None


async def test_without_an_expected_id_the_host_of_the_url_must_be_in_the_certificate() -> None:
    """DNS name and address both count; another name does not."""
    world = await World.make()
    named = world.pki.issuing.issue(uri=spiffe("ca"), dns=("a.test",))
    async with serve(world.listener()) as port, world.client().http() as http:
        assert (await http.get(f"https://localhost:{port}/")).status_code == 200
        assert (await http.get(f"https://127.0.0.1:{port}/")).status_code == 200
    async with serve(world.listener(credentials=named)) as port, world.client().http() as http:
        with pytest.raises(PeerMismatchError, match="expected localhost"):
            await http.get(f"https://localhost:{port}/")


async def test_a_revoked_server_is_refused_with_the_alert() -> None:
    """The client's CRLs are enough, whatever the server staples."""
    world = await World.make()
    credentials = world.pki.service("ca")
    listener = world.listener(credentials=credentials, staples=None)
    await world.revoke(credentials.certificate.serial_number)
    assert await _reason(world, listener) == "certificate revoked"
    assert (await world.recorder.last()).reason == "refused by peer: certificate revoked"


async def test_an_expired_and_a_foreign_server_are_refused() -> None:
    """Each for its own reason."""
    world = await World.make()
    expired = world.pki.issuing.issue(uri=spiffe("ca"), valid=(timedelta(days=-9), timedelta(days=-1)))
    assert await _reason(world, world.listener(credentials=expired, staples=None)) == "certificate has expired"
    foreign = TlsPki.make().service("ca")
    assert "issuer certificate" in await _reason(world, world.listener(credentials=foreign, staples=None))


async def test_a_client_without_crls_at_hand_trusts_no_server() -> None:
    """Fail closed, on this end too."""
    world = await World.make()
    client = world.client(crls=await crl_cache(world.pki, CrlPublisher()))
    async with serve(world.listener()) as port:
        with pytest.raises(HandshakeError, match="unable to get certificate CRL"):
            await client.connect("localhost", port, expected=CA)
    with pytest.raises(ValueError, match="needs CRLs"):
        world.client(crls=None)


async def test_a_classical_server_is_refused_by_an_internal_client() -> None:
    """The client insists on the hybrid group as the listener does."""
    world = await World.make()
    listener = world.listener(rules=replace(INTERNAL, groups=("X25519",)))
    assert await _reason(world, listener) == "refused by peer: handshake failure"


async def test_a_server_that_never_answers_the_hello_times_out() -> None:
    """TCP accepts, TLS stays silent."""
    world = await World.make()
    stop = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(HandshakeError, match="handshake timeout"):
        await world.client(handshake_timeout=0.2).connect("localhost", port)
    stop.set()
    server.close()
    await server.wait_closed()


async def test_httpx_errors_keep_their_names() -> None:
    """Refused TCP, plain http and a late answer are what users of httpx expect."""
    world = await World.make()
    async with serve(world.listener()) as port:
        url = f"https://localhost:{port}"
        async with world.client().http(CA, base_url=url, timeout=0.1) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get("/slow")
        async with world.client().http(CA) as http:
            with pytest.raises(httpx.UnsupportedProtocol):
                await http.get("http://localhost/")
    async with world.client().http(CA) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{url}/")


async def test_the_pool_reuses_its_connection_and_counts() -> None:
    """Twenty requests, one connection."""
    world = await World.make()
    events: list[str] = []
    client = world.client(count=events.append)
    async with serve(world.listener()) as port, client.http(CA, base_url=f"https://localhost:{port}") as http:
        for _ in range(20):
            await http.get("/")
    assert (events.count("connection"), events.count("request")) == (1, 20)


async def test_the_probe_reports_a_good_server() -> None:
    """Everything that a person would want to see of a handshake."""
    world = await World.make()
    async with serve(world.listener()) as port:
        report = await world.client().probe(f"https://localhost:{port}", CA)
    assert report.accepted
    assert (report.verdict, report.protocol, report.cipher) == ("accepted", "TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert report.group == "X25519MLKEM768"
    assert report.peer_names == (spiffe("ca"), "localhost", "127.0.0.1")
    assert report.key_algorithm == "ml-dsa-65"
    assert report.staple.startswith("good until 20")
    assert report.crl == "not revoked"
    assert len(report.chain) == 2
    assert report.to_json()["chain"][1] == "CN=issuing"


async def test_the_probe_reports_the_alert_of_a_server_that_refuses_us() -> None:
    """No exception: the verdict names the alert, and the server is described all the same."""
    world = await World.make()
    mine = world.pki.service("acme")
    await world.revoke(mine.certificate.serial_number)
    async with serve(world.listener()) as port:
        revoked = await world.client(credentials=mine).probe(f"https://localhost:{port}", CA)
        nobody = await world.client(credentials=None).probe(f"https://localhost:{port}", CA)
    assert (revoked.accepted, revoked.verdict) == (False, "refused by peer: certificate revoked")
    assert (nobody.accepted, nobody.verdict) == (False, "refused by peer: certificate required")
    assert revoked.group == nobody.group == "X25519MLKEM768"
    assert revoked.staple.startswith("good until")


async def test_the_probe_describes_servers_that_are_not_trusted() -> None:
    """Revoked, unstapled, misnamed, foreign: each with its verdict and its certificate."""
    world = await World.make()
    credentials = world.pki.service("ca")
    client = world.client()
    async with serve(world.listener(credentials=credentials, staples=None)) as port:
        unstapled = await client.probe(f"https://localhost:{port}", CA)
        misnamed = await world.client(require_staple=False).probe(f"https://localhost:{port}", OTHER)
        await world.revoke(credentials.certificate.serial_number)
        revoked = await client.probe(f"https://localhost:{port}", CA)
    foreign = TlsPki.make().service("ca")
    async with serve(world.listener(credentials=foreign, staples=None)) as port:
        stranger = await client.probe(f"https://localhost:{port}", CA)
    assert (unstapled.verdict, unstapled.staple, unstapled.crl) == ("no staple", "no staple", "not revoked")
    assert misnamed.verdict == "another peer than expected"
    assert (revoked.verdict, revoked.crl) == ("certificate revoked", "certificate revoked")
    assert "issuer certificate" in stranger.verdict
    assert stranger.crl == "revocation status is unknown"
    serial = f"{credentials.certificate.serial_number:x}"
    assert unstapled.serial == misnamed.serial == revoked.serial == serial
    assert not any(report.accepted for report in (unstapled, misnamed, revoked, stranger))


async def test_the_probe_takes_https_urls_only() -> None:
    """Other schemes have no handshake."""
    world = await World.make()
    for url in ("http://localhost/", "localhost:443", "https://", "https://localhost:99999/"):
        with pytest.raises(MalformedError):
            await world.client().probe(url)


def test_groups_that_openssl_does_not_know_are_refused() -> None:
    """A misspelt group must not become the default list in silence."""
    pki = TlsPki.make("ecdsa")
    context = server_context(replace(PUBLIC, client_certificate="none"), pki.service("ca"), pki.trust, [], None)
    with pytest.raises(Exception, match="refuses the key exchange groups"):
        set_groups(context, ("X25519MLKEM7680",))
