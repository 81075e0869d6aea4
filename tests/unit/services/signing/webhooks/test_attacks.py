"""Receivers that want more than to be told: into the network, into the memory, or into the time of the service."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.chassis.database import AuditEvent
from services.signing.store.outbox import Webhook
from services.signing.webhooks.secrets import new_secret
from tests.support.webhook_receiver import WebhookReceiver, is_signed
from tests.support.webhook_world import BOX, WebhookWorld, webhook_world


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """Something on loopback that listens."""
    async with WebhookReceiver() as made:
        yield made


async def failure(world: WebhookWorld, url: str) -> str:
    """Deliver to a URL that stands in the database, however it came there; why it was not taken."""
    webhook = Webhook("wh_1", "acme", url, ("signature.created",), "enabled", b"", None, 0, 0, "eve")
    sealed = BOX.seal("wh_1", new_secret())
    kept = Webhook(**{name: getattr(webhook, name) for name in Webhook.__slots__} | {"secret": sealed})
    await world.store.register(kept, 3, AuditEvent("webhook.registered", "eve"))
    await world.happens("evt_1")
    await world.deliver()
    return str((await world.one()).last_error)


# into the network


@pytest.mark.parametrize("addresses", [{"A": ["127.0.0.1"]}, {"AAAA": ["::1"]}, {"AAAA": ["::ffff:127.0.0.1"]}])
async def test_name_of_the_inside_is_not_dialled(
    tmp_path: Path, receiver: WebhookReceiver, addresses: dict[str, list[str]]
) -> None:
    """A public name whose addresses are of the inside gets nothing, in IPv6 and its mapped form too."""
    async with webhook_world(tmp_path, allowed=()) as world:
        world.dns.set("hook.test", **addresses)
        assert "not dialled" in await failure(world, f"https://hook.test:{receiver.port}/")
    assert receiver.connections == 0


async def test_mapped_form_of_an_allowed_address_is_not_dialled(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """Allowing 127.0.0.0/8 does not allow it in an IPv6 disguise."""
    async with webhook_world(tmp_path, allowed=[ip_network("127.0.0.0/8")]) as world:
        world.dns.set("hook.test", AAAA=["::ffff:127.0.0.1"])
        assert "not dialled" in await failure(world, f"https://hook.test:{receiver.port}/")
    assert receiver.connections == 0


async def test_name_that_moves_inside_after_registration_is_not_dialled(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    """DNS rebinding: addresses are checked at each attempt, and what was checked is what is dialled."""
    async with webhook_world(tmp_path, allowed=[ip_network("127.0.0.1/32")]) as world:
        await world.receiver(f"http://hook.test:{receiver.port}/")
        await world.happens("evt_1")
        await world.deliver()
        asked = len(world.dns.queries)
        assert asked == 2  # AAAA and A, once: nothing is looked up between the check and the dialling
        world.dns.set("hook.test", A=["127.0.0.2"])
        await world.happens("evt_2")
        await world.deliver()
        assert "not dialled" in str((await world.one()).last_error)
    assert [got.id for got in receiver.received] == ["evt_1"]


async def test_among_several_addresses_only_permitted_ones_are_dialled(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    """A name with a forbidden address among its own is dialled at the permitted one."""
    async with webhook_world(tmp_path, allowed=[ip_network("127.0.0.1/32")]) as world:
        world.dns.set("hook.test", A=["127.0.0.2", "127.0.0.1"], AAAA=["::1"])
        await world.receiver(f"http://hook.test:{receiver.port}/")
        await world.happens("evt_1")
        await world.deliver()
        assert world.outcomes == ["delivered"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_the_inside_is_not_followed(tmp_path: Path, receiver: WebhookReceiver, status: int) -> None:
    """A redirect is an answer like any other that is no success."""
    async with webhook_world(tmp_path) as world, WebhookReceiver() as inside:
        receiver.answer(status, f"Location: http://127.0.0.1:{inside.port}/admin")
        assert (
            await failure(world, f"http://hook.test:{receiver.port}/") == f"the receiver answered with status {status}"
        )
        assert (receiver.connections, inside.connections) == (1, 0)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "u:p@127.0.0.1", "127.0.0.1."])
async def test_disguised_address_in_the_database_is_not_dialled(
    tmp_path: Path, receiver: WebhookReceiver, host: str
) -> None:
    """The URL is checked again before each attempt, so a row that was written by other means gains nothing."""
    async with webhook_world(tmp_path) as world:
        assert "url" in await failure(world, f"http://{host}:{receiver.port}/")
        assert world.dns.queries == []
    assert receiver.connections == 0


async def test_plain_http_leaves_loopback_never(tmp_path: Path) -> None:
    """Where tests may use http, it is for loopback alone, whatever networks are allowed."""
    async with webhook_world(tmp_path, allowed=[ip_network("192.0.2.0/24")]) as world:
        world.dns.set("hook.test", A=["192.0.2.1"])
        assert "only there is plain http sent" in await failure(world, "http://hook.test:8080/")


async def test_name_without_addresses_says_so(tmp_path: Path) -> None:
    """A receiver whose name is not known waits for the next attempt, with the reason."""
    async with webhook_world(tmp_path) as world:
        assert "NXDOMAIN" in await failure(world, "https://nowhere.test/")


# into the time and the memory


@pytest.mark.parametrize("octets", [b"H", b"HTTP/1.1 200 OK\r\nX: a\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_dripping_receiver_is_cut_off(tmp_path: Path, receiver: WebhookReceiver, octets: bytes) -> None:
    """An octet now and then does not lengthen the attempt."""
    receiver.drip(octets)
    async with webhook_world(tmp_path, seconds=0.3) as world:
        begin = time.monotonic()
        assert await failure(world, f"http://hook.test:{receiver.port}/")
        assert time.monotonic() - begin < 1.5


async def test_silent_receiver_is_cut_off(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """A receiver that never answers costs the time of one attempt."""
    receiver.stall()
    async with webhook_world(tmp_path, seconds=0.3) as world:
        reason = await failure(world, f"http://hook.test:{receiver.port}/")
    assert reason == "hook.test gave no answer within 0.3 seconds"


async def test_endless_body_is_not_read(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """The status decides; of the body nothing is waited for."""
    receiver.flood()
    async with webhook_world(tmp_path) as world:
        await world.receiver(f"http://hook.test:{receiver.port}/")
        await world.happens("evt_1")
        await world.deliver()
        assert world.outcomes == ["delivered"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_answer_that_is_not_http_is_a_failure(tmp_path: Path, receiver: WebhookReceiver, raw: bytes) -> None:
    """Broken and huge heads end the attempt, not the courier; what came is not repeated."""
    receiver.send(raw)
    async with webhook_world(tmp_path) as world:
        reason = await failure(world, f"http://hook.test:{receiver.port}/")
        assert world.outcomes == ["failed"]
    assert reason.isprintable()
    assert "OpenSSH" not in reason


# TLS


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a self-signed certificate, and the file that a sender would trust it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = directory / "receiver.pem", directory / "receiver.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, pem


async def test_https_with_a_trusted_certificate(tmp_path: Path) -> None:
    """A receiver under the operator's roots is delivered to."""
    context, roots = certificate(tmp_path, "hook.test")
    async with WebhookReceiver(tls=context) as receiver, webhook_world(tmp_path, ca_file=roots, seconds=2) as world:
        made = await world.receiver(f"https://hook.test:{receiver.port}/")
        await world.happens("evt_1")
        await world.deliver()
        assert is_signed(receiver.received[0], made.secret)


@pytest.mark.parametrize(("name", "trusted"), [("other.test", True), ("hook.test", False)])
async def test_certificate_that_does_not_verify_gets_nothing(tmp_path: Path, name: str, *, trusted: bool) -> None:
    """A certificate for another name, or by nobody known, ends the attempt before a word is said."""
    context, roots = certificate(tmp_path, name)
    async with (
        WebhookReceiver(tls=context) as receiver,
        webhook_world(tmp_path, ca_file=roots if trusted else None, seconds=2) as world,
    ):
        assert "TLS failed" in await failure(world, f"https://hook.test:{receiver.port}/")
        await asyncio.sleep(0)
        assert receiver.received == []
