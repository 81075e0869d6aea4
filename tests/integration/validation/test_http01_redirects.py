"""The redirects of http-01: which are followed, and the guard that each hop passes anew."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.acme.challenges.http01 import Http01
from tests.support.dns_server import DnsSimulator
from tests.support.http01_validation import ATTEMPT, KEY_AUTHORIZATION, PATH, build, refusal
from tests.support.http_challenge import HttpChallengeServer


def self_signed(directory: Path) -> ssl.SSLContext:
    """A TLS server context whose certificate nobody trusts and that names another host."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "untrusted.invalid")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    pem = directory / "both.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.mark.requirement("rfc8555-8.3-06")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_followed(http01: Http01, web: HttpChallengeServer, status: int) -> None:
    """A redirect to another host is looked up and followed."""
    web.redirect(PATH, f"http://other.test:{web.port}/answer?x=1", status)
    web.respond("/answer?x=1", body=KEY_AUTHORIZATION.encode())
    await http01.validate(ATTEMPT)
    assert [request.headers["host"] for request in web.requests] == [f"site.test:{web.port}", f"other.test:{web.port}"]


async def test_redirect_to_a_host_with_a_trailing_dot_is_followed(http01: Http01, web: HttpChallengeServer) -> None:
    """The dot says that a name is complete, as all names are here."""
    web.redirect(PATH, f"http://site.test.:{web.port}/there")
    web.respond("/there", body=KEY_AUTHORIZATION.encode())
    await http01.validate(ATTEMPT)


async def test_relative_redirect_is_followed(http01: Http01, web: HttpChallengeServer) -> None:
    """A Location may be relative to the URL that sent it."""
    web.redirect(PATH, "../elsewhere")
    web.respond("/.well-known/elsewhere", body=KEY_AUTHORIZATION.encode())
    await http01.validate(ATTEMPT)


async def test_ten_redirects_are_followed_and_no_more(http01: Http01, web: HttpChallengeServer) -> None:
    """The tenth redirect is followed, the eleventh is not."""
    web.redirect(PATH, "/1")
    for hop in range(1, 10):
        web.redirect(f"/{hop}", f"/{hop + 1}")
    web.respond("/10", body=KEY_AUTHORIZATION.encode())
    await http01.validate(ATTEMPT)
    web.redirect("/10", "/11")
    error = await refusal(http01)
    assert error.detail == "more than 10 redirects"


async def test_redirect_loop_ends(http01: Http01, web: HttpChallengeServer) -> None:
    """A page that redirects to itself is asked eleven times."""
    web.redirect(PATH, PATH)
    assert (await refusal(http01)).acme_type == "connection"
    assert len(web.requests) == 11


@pytest.mark.parametrize(
    "location",
    [
        "ftp://other.test/x",
        "file:///etc/passwd",
        "gopher://other.test:70/x",
        "javascript:alert(1)",
        "//",
        "http://",
        "http://user:secret@other.test/",
        "http://[::1",
        "http://other.test:banana/",
        "http://other.test:22/",
        "http://other.test:8080/",
        "https://other.test:8443/",
        "http://other.test:0/",
        "http://other.test:+80/",
        "http://other.test: 80/",
        "http://other.test:8_0/",
        "http://other.test:65616/",
        "http://other.test/" + "a" * 2000,
        "http://other.test/\xff",
        "",
    ],
)
async def test_redirect_that_is_not_followed(
    http01: Http01, dns: DnsSimulator, web: HttpChallengeServer, location: str
) -> None:
    """Other schemes, other ports, credentials and nonsense are refused before any look-up."""
    raw = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    web.send(PATH, raw.encode("latin-1"))
    error = await refusal(http01)
    assert error.acme_type == "connection"
    assert "redirects" in error.detail
    assert "other.test" not in [query.name for query in dns.queries]


@pytest.mark.parametrize(
    "target",
    [
        "http://inside.test/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00:ec2::254]/",
        "https://inside.test/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[2002:a9fe:a9fe::]/",
    ],
)
async def test_redirect_to_a_reserved_address_is_refused(
    http01: Http01, dns: DnsSimulator, web: HttpChallengeServer, target: str
) -> None:
    """Each hop passes the guard anew, literal addresses too."""
    dns.set("inside.test", A=["10.0.0.7"])
    web.redirect(PATH, target)
    error = await refusal(http01)
    assert error.acme_type == "connection"
    assert "not dialled" in error.detail


NO_URL = ("0177.0.0.1", "0251.0376.0251.0376", "169\u3002254.169.254")


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "127.1", "localhost"),
        *("2852039166", "0xa9fea9fe", "169.254.43518", "0xa9.0xfe.0xa9.0xfe"),
        *("%31%36%39.254.169.254", *NO_URL),
    ],
)
async def test_odd_spellings_of_addresses_are_names(http01: Http01, web: HttpChallengeServer, host: str) -> None:
    """What C libraries and browsers read as an address is an unknown name here, or no URL at all."""
    web.redirect(PATH, f"http://{host}:{web.port}/")
    error = await refusal(http01)
    assert error.acme_type == ("connection" if host in NO_URL else "dns")
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    "host",
    ["xn--a.test", "xn--0.test", "a b.test", "a%00b.test", "a%0d%0aX: y.test", "*.test", "..", "a\\@b.test", "_", "-"],
)
async def test_redirect_to_an_odd_host(http01: Http01, web: HttpChallengeServer, host: str) -> None:
    """A host that nobody can have ends in a refusal, never in a crash or a second header line."""
    web.redirect(PATH, f"http://{host}/")
    assert (await refusal(http01)).acme_type in {"dns", "connection"}
    assert len(web.requests) == 1


async def test_redirect_to_an_unknown_name(http01: Http01, web: HttpChallengeServer) -> None:
    """A failing look-up of a later hop is a DNS problem that names that hop."""
    web.redirect(PATH, "http://nowhere.test/")
    error = await refusal(http01)
    assert error.acme_type == "dns"
    assert "nowhere.test" in error.detail


async def test_redirect_to_https_with_any_certificate(dns: DnsSimulator, tmp_path: Path) -> None:
    """An https site that has no valid certificate yet can still answer; that is what it wants one for."""
    dns.set("site.test", A=["127.0.0.2"])
    async with HttpChallengeServer("127.0.0.1", tls=self_signed(tmp_path)) as secure:
        insecure = await HttpChallengeServer("127.0.0.2").start(secure.port)
        try:
            insecure.redirect(PATH, f"https://other.test:{secure.port}/x")
            secure.respond("/x", body=KEY_AUTHORIZATION.encode())
            await build(dns, secure.port).validate(ATTEMPT)
        finally:
            await insecure.stop()


async def test_redirect_to_https_where_no_tls_is(dns: DnsSimulator) -> None:
    """A failed handshake is a connection problem that says so."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.site.test ESMTP\r\n")
        await writer.drain()
        writer.close()

    mail = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = mail.sockets[0].getsockname()[1]
    dns.set("site.test", A=["127.0.0.2"])
    web = await HttpChallengeServer("127.0.0.2").start(port)
    try:
        web.redirect(PATH, f"https://other.test:{port}/x")
        error = await refusal(build(dns, port))
    finally:
        mail.close()
        await web.stop()
    assert error.acme_type == "connection"
    assert "TLS failed" in error.detail
