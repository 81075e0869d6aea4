"""http-01 against a hostile web: real sockets, one DNS simulator, web servers that misbehave one way each."""

import os

import pytest

from services.acme.challenges.http01 import Http01
from services.acme.identifiers import Identifier
from tests.support.attempts import TOKEN, attempt
from tests.support.dns_server import DnsSimulator
from tests.support.http01_validation import ATTEMPT, KEY_AUTHORIZATION, PATH, SECONDS, build, refusal
from tests.support.http_challenge import HttpChallengeServer

# answers


@pytest.mark.requirement("rfc8555-8.3-04")
async def test_right_answer(http01: Http01, web: HttpChallengeServer) -> None:
    """The key authorization at the well-known path proves control; the request says who asks and for which host."""
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(ATTEMPT)
    (request,) = web.requests
    assert (request.method, request.path) == ("GET", PATH)
    assert request.headers["host"] == f"site.test:{web.port}"
    assert "pqcpki" in request.headers["user-agent"]
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.requirement("rfc8555-8.3-05")
@pytest.mark.parametrize("tail", ["\n", "\r\n", "  \n\t"])
async def test_trailing_whitespace_is_tolerated(http01: Http01, web: HttpChallengeServer, tail: str) -> None:
    """Editors end files with a newline; RFC 8555 section 8.3 lets the server ignore it."""
    web.answer(TOKEN, KEY_AUTHORIZATION + tail)
    await http01.validate(ATTEMPT)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n",
        TOKEN,
        " " + KEY_AUTHORIZATION,
        KEY_AUTHORIZATION[:-1],
        KEY_AUTHORIZATION + "x",
        KEY_AUTHORIZATION.lower(),
        "\ufeff" + KEY_AUTHORIZATION,
        TOKEN + ".thumbprint-of-another-account-key-0123456789a",
    ],
)
async def test_wrong_answer(http01: Http01, web: HttpChallengeServer, body: str) -> None:
    """Anything but the key authorization is refused; an answer for another account's key is called that."""
    web.answer(TOKEN, body)
    error = await refusal(http01)
    assert error.acme_type == "incorrectResponse"
    what = "for another account's key" if body.startswith(f"{TOKEN}.") else "not the key authorization"
    assert error.detail == f"the answer of site.test ({len(body.encode())} octets) is {what}"


async def test_fetched_content_is_not_echoed(http01: Http01, web: HttpChallengeServer) -> None:
    """A page of the inside that a redirect leads to is not read out to the applicant, not even its beginning."""
    web.redirect(PATH, f"http://site.test:{web.port}/admin")
    for body in (b"AKIA-secret", b"AKIA-secret" * 20):
        web.respond("/admin", body=body)
        assert "AKIA" not in (await refusal(http01)).detail
    for location in (
        "ftp://site.test/AKIA",
        "http://site.test:1/AKIA",
        "http://[AKIA",
        f"http://AKIA@site.test:{web.port}/",
    ):
        web.redirect(PATH, location)
        assert "AKIA" not in (await refusal(http01)).detail


@pytest.mark.parametrize("size", [129, 200_000])
async def test_answer_of_more_than_128_octets(http01: Http01, web: HttpChallengeServer, size: int) -> None:
    """A key authorization has 87 octets; nobody gets a big page read."""
    web.answer(TOKEN, KEY_AUTHORIZATION + "\n" * (size - len(KEY_AUTHORIZATION)))
    error = await refusal(http01)
    assert error.acme_type == "incorrectResponse"
    assert "longer than 128 octets" in error.detail


async def test_answer_of_exactly_128_octets(http01: Http01, web: HttpChallengeServer) -> None:
    """The limit itself is still within it."""
    web.answer(TOKEN, KEY_AUTHORIZATION + " " * (128 - len(KEY_AUTHORIZATION)))
    await http01.validate(ATTEMPT)


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 500, 503])
async def test_other_status(http01: Http01, web: HttpChallengeServer, status: int) -> None:
    """Only 200 counts, even with the right content."""
    web.respond(PATH, status=status, body=b"" if status in {204, 304} else KEY_AUTHORIZATION.encode())
    error = await refusal(http01)
    assert error.acme_type == "incorrectResponse"
    assert error.detail == f"site.test answered with status {status}, not 200"


async def test_compressed_answer_is_not_unpacked(http01: Http01, web: HttpChallengeServer) -> None:
    """A decompression bomb stays packed."""
    web.respond(PATH, body=b"\x1f\x8b\x08" + b"\0" * 60, headers={"Content-Encoding": "gzip"})
    assert (await refusal(http01)).acme_type == "incorrectResponse"


# connections and time


async def test_closed_port(dns: DnsSimulator, unused_tcp_port: int) -> None:
    """The sentence names host, port, address and the system's reason."""
    error = await refusal(build(dns, unused_tcp_port))
    assert error.acme_type == "connection"
    assert error.detail == f"site.test port {unused_tcp_port} (127.0.0.1): Connection refused"


async def test_server_that_hangs_up(http01: Http01, web: HttpChallengeServer) -> None:
    """A connection closed without an answer is a connection problem."""
    web.hang_up(PATH)
    assert (await refusal(http01)).acme_type == "connection"


async def test_server_that_never_answers(http01: Http01, web: HttpChallengeServer) -> None:
    """The whole validation has one deadline."""
    web.stall(PATH)
    error = await refusal(http01)
    assert error.acme_type == "connection"
    assert error.detail == f"site.test gave no complete answer within {SECONDS:g} seconds"


@pytest.mark.parametrize(
    ("head", "octet"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
)
async def test_server_that_drips(http01: Http01, web: HttpChallengeServer, head: bytes, octet: bytes) -> None:
    """An octet now and then does not extend the deadline."""
    web.drip(PATH, head, octet)
    assert (await refusal(http01)).acme_type == "connection"


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
)
async def test_answer_that_is_not_http(http01: Http01, web: HttpChallengeServer, raw: bytes) -> None:
    """Broken, oversized and endless framing end in a refusal, not in a crash."""
    web.send(PATH, raw)
    assert (await refusal(http01)).acme_type == "connection"


async def test_internationalised_name(dns: DnsSimulator, web: HttpChallengeServer, http01: Http01) -> None:
    """A name with A-labels is looked up and asked for as it is written."""
    dns.set("xn--bcher-kva.test", A=["127.0.0.1"])
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(attempt("http-01", Identifier("dns", "xn--bcher-kva.test")))
    assert web.requests[0].headers["host"] == f"xn--bcher-kva.test:{web.port}"


async def test_ipv6_first_then_ipv4(dns: DnsSimulator, web: HttpChallengeServer, http01: Http01) -> None:
    """Where the IPv6 address refuses, the IPv4 address is tried."""
    dns.set("site.test", A=["127.0.0.1"], AAAA=["::1"])
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(ATTEMPT)
    assert web.connections == 1


async def test_ipv6_only(dns: DnsSimulator) -> None:
    """A site with only an IPv6 address validates."""
    dns.set("site.test", AAAA=["::1"])
    async with HttpChallengeServer("::1") as web:
        web.answer(TOKEN, KEY_AUTHORIZATION)
        await build(dns, web.port).validate(ATTEMPT)


@pytest.mark.requirement("rfc8738-4-01", "rfc8738-4-02", "rfc8738-5-01")
async def test_address_identifier(dns: DnsSimulator, web: HttpChallengeServer, http01: Http01) -> None:
    """An address is dialled itself, without any look-up (RFC 8738)."""
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(attempt("http-01", Identifier("ip", "127.0.0.1")))
    assert web.requests[0].headers["host"] == f"127.0.0.1:{web.port}"
    assert dns.queries == []


@pytest.mark.requirement("rfc8738-4-02", "rfc8738-5-01", "rfc8738-5-02")
async def test_ipv6_address_identifier(dns: DnsSimulator) -> None:
    """An IPv6 address stands in brackets in URL and Host."""
    async with HttpChallengeServer("::1") as web:
        web.answer(TOKEN, KEY_AUTHORIZATION)
        await build(dns, web.port).validate(attempt("http-01", Identifier("ip", "::1")))
        assert web.requests[0].headers["host"] == f"[::1]:{web.port}"


# where it may connect


async def test_loopback_is_refused_by_default(dns: DnsSimulator, web: HttpChallengeServer) -> None:
    """Without the operator's permission nothing is sent to a reserved address."""
    web.answer(TOKEN, KEY_AUTHORIZATION)
    error = await refusal(build(dns, web.port, networks=()))
    assert error.acme_type == "connection"
    assert "127.0.0.1 (loopback)" in error.detail
    assert web.connections == 0


async def test_reserved_address_identifier_is_refused(dns: DnsSimulator, web: HttpChallengeServer) -> None:
    """An address identifier passes the same guard."""
    await refusal(build(dns, web.port, networks=()), Identifier("ip", "127.0.0.1"))
    assert web.connections == 0


async def test_the_checked_address_is_dialled(dns: DnsSimulator, web: HttpChallengeServer, http01: Http01) -> None:
    """One look-up of each family decides; a name that changes its address in between gains nothing."""
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(ATTEMPT)
    assert sorted(query.type for query in dns.queries) == ["A", "AAAA"]


async def test_proxies_of_the_environment_are_ignored(
    http01: Http01, web: HttpChallengeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy setting meant for others does not carry validations."""
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert os.environ["HTTP_PROXY"]
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(ATTEMPT)
