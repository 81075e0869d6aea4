"""Names, answers and redirects made to have the validator dial, read or wait for what it should not."""

import asyncio
import ssl
import time

import pytest

from services.acme.challenges.dns01 import Dns01, txt_value
from services.acme.challenges.dns_persist01 import DnsPersist01
from services.acme.challenges.http01 import Http01
from services.acme.errors import ValidationError
from services.chassis.outbound.resolver import Resolver
from tests.support.attempts import ACCOUNT, TOKEN, attempt
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator
from tests.support.http01_validation import ATTEMPT, KEY_AUTHORIZATION, PATH, build, refusal
from tests.support.http_challenge import HttpChallengeServer

DNS01 = attempt("dns-01")
VALUE = txt_value(DNS01.key_authorization)
RECORD = "_acme-challenge.site.test"
PERSISTENT = "_validation-persist.site.test"


# addresses


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "0.0.0.0", "100.100.100.200", "168.63.129.16", "10.0.0.1", "255.255.255.255"),
        *("::", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
        *("fd00:ec2::254", "fe80::a9fe:a9fe", "ff02::1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
async def test_name_at_an_address_of_the_inside(dns: DnsSimulator, http01: Http01, address: str) -> None:
    """A name at a metadata service, the machine itself or a form that embeds such an address is not dialled.

    That loopback is allowed here allows none of its disguises.
    """
    dns.set("site.test", **{"AAAA" if ":" in address else "A": [address]})
    error = await refusal(http01)
    assert error.acme_type == "connection"
    assert "not dialled" in error.detail


async def test_only_the_permitted_of_several_addresses_are_dialled(
    dns: DnsSimulator, web: HttpChallengeServer, http01: Http01
) -> None:
    """A name with addresses inside and outside is reached outside."""
    dns.set("site.test", A=["169.254.169.254", "127.0.0.1"], AAAA=["::ffff:10.0.0.1", "fd00:ec2::254"])
    web.answer(TOKEN, KEY_AUTHORIZATION)
    await http01.validate(ATTEMPT)


async def test_name_that_moves_inside_between_two_hops(
    dns: DnsSimulator, web: HttpChallengeServer, http01: Http01
) -> None:
    """A name is judged anew at each redirect: one that was outside for the first request may be inside for the next."""
    web.redirect(PATH, PATH)
    first = asyncio.create_task(refusal(http01))
    while not web.requests:  # noqa: ASYNC110 -- the server tells nobody of its requests
        await asyncio.sleep(0)
    dns.set("site.test", A=["169.254.169.254"])
    error = await first
    assert ("not dialled" in error.detail, len(web.requests) <= 11) == (True, True)


async def test_many_addresses_that_refuse(dns: DnsSimulator) -> None:
    """However many addresses a name has, trying them ends within the deadline."""
    addresses = [f"127.0.0.{n}" for n in range(10, 60)]
    dns.set("site.test", A=addresses, AAAA=["::1"] * 2)
    assert (await refusal(build(dns, 1))).acme_type == "connection"


async def test_alias_loop_of_a_web_server(dns: DnsSimulator, http01: Http01) -> None:
    """Aliases in a circle end in a DNS problem."""
    dns.set("site.test", CNAME="loop.test")
    dns.set("loop.test", CNAME="site.test")
    assert (await refusal(http01)).acme_type == "dns"


# records


async def test_more_records_than_anybody_needs(dns: DnsSimulator) -> None:
    """Of an answer full of records the first 64 are looked at, so that a look-up stays cheap."""
    method = Dns01(Resolver.build(dns.address, 1.5), 2.0)
    dns.set(RECORD, TXT=[f"{n:040}" for n in range(1000)])
    with pytest.raises(ValidationError, match="64 TXT records, none with the expected value"):
        await method.validate(DNS01)


async def test_record_of_255_strings(dns: DnsSimulator) -> None:
    """A record as long as DNS can carry is read as one value; the value in many small strings is the value."""
    method = Dns01(Resolver.build(dns.address, 1.5), 2.0)
    dns.set(RECORD, TXT=[["x" * 255] * 250])
    with pytest.raises(ValidationError, match="1 TXT record, none"):
        await method.validate(DNS01)
    dns.set(RECORD, TXT=[list(VALUE)])
    await method.validate(DNS01)


@pytest.mark.parametrize(
    "text",
    [
        "ca.test;" + "x=;" * 20_000 + f"accounturi={ACCOUNT}",
        "ca.test;" + "-" * 60_000,
        "ca.test;a" + "-" * 60_000 + "=",
        "ca.test; accounturi" + " " * 60_000 + "!",
        "ca.test" + "-a" * 30_000 + "_;",
        "ca.test; persistUntil=" + "9" * 60_000,
    ],
    ids=["parameters", "dashes", "tag", "blanks", "label", "digits"],
)
async def test_record_that_is_meant_to_keep_the_parser_busy(dns: DnsSimulator, text: str) -> None:
    """Sixty thousand characters are judged in no time, whatever they repeat."""
    dns.set(PERSISTENT, TXT=[[text[start : start + 255] for start in range(0, len(text), 255)]])
    method = DnsPersist01(Resolver.build(dns.address, 4), ("ca.test",), 5, ManualClock())
    begin = time.process_time()
    with pytest.raises(ValidationError) as failed:
        await method.validate(attempt("dns-persist-01", token=""))
    assert failed.value.acme_type in {"malformed", "unauthorized"}
    assert time.process_time() - begin < 2


# answers


async def test_redirect_with_an_endless_body(http01: Http01, web: HttpChallengeServer) -> None:
    """Of a redirect nothing but its head is read: the next hop does not wait for the rest."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nTransfer-Encoding: chunked\r\n\r\n"
    web.drip(PATH, head, b"1\r\na\r\n")
    web.respond("/there", body=KEY_AUTHORIZATION.encode())
    await http01.validate(ATTEMPT)


async def test_one_answer_per_question(http01: Http01, web: HttpChallengeServer) -> None:
    """A second answer behind the first, and an upgrade to another protocol, are not taken for the answer."""
    wrong = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    right = f"HTTP/1.1 200 OK\r\nContent-Length: {len(KEY_AUTHORIZATION)}\r\n\r\n{KEY_AUTHORIZATION}".encode()
    web.send(PATH, wrong + right)
    assert "status 404" in (await refusal(http01)).detail
    web.send(PATH, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + right)
    assert (await refusal(http01)).acme_type in {"connection", "incorrectResponse"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "x" * 500])
async def test_content_coding_is_never_undone(http01: Http01, web: HttpChallengeServer, coding: str) -> None:
    """Nothing is unpacked, whatever coding an answer claims: what came is compared as it came."""
    web.respond(PATH, body=KEY_AUTHORIZATION.encode(), headers={"Content-Encoding": coding})
    await http01.validate(ATTEMPT)


async def test_secure_site_that_never_shakes_hands(dns: DnsSimulator) -> None:
    """A redirect to a port that accepts and says nothing ends at the deadline, and its connection with it."""
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            closed.set()
            writer.transport.abort()

    quiet = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = quiet.sockets[0].getsockname()[1]
    dns.set("site.test", A=["127.0.0.2"])
    web = await HttpChallengeServer("127.0.0.2").start(port)
    try:
        web.redirect(PATH, f"https://other.test:{port}/x")
        error = await refusal(build(dns, port))
        assert (error.acme_type, "no complete answer within" in error.detail) == ("connection", True)
        async with asyncio.timeout(5):
            await closed.wait()
    finally:
        quiet.close()
        await web.stop()
