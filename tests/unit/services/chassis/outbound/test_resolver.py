from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from services.chassis.errors import NotResolvedError
from services.chassis.outbound.resolver import CaaRecord, Resolver, parse_server
from tests.support.dns_server import DnsSimulator


@pytest.fixture
async def dns() -> AsyncIterator[DnsSimulator]:
    """A DNS simulator."""
    async with DnsSimulator() as simulator:
        yield simulator


@pytest.fixture
def resolver(dns: DnsSimulator) -> Resolver:
    """A resolver that asks the simulator."""
    return Resolver.build(dns.address, lifetime=0.6)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5353", "127.0.0.1", 5353),
        ("127.0.0.1", "127.0.0.1", 53),
        ("[::1]:5353", "::1", 5353),
        ("::1", "::1", 53),
        ("2606:4700::1111", "2606:4700::1111", 53),
    ],
)
def test_server_setting_is_an_address_with_an_optional_port(text: str, host: str, port: int) -> None:
    """IPv4 and IPv6 servers are written as in a URL."""
    assert parse_server(text) == (ip_address(host), port)


@pytest.mark.parametrize("text", ["ns.example:53", "127.0.0.1:http", "127.0.0.1:99999", "300.1.1.1", ":53", "[::1"])
def test_server_setting_refuses_what_is_no_address(text: str) -> None:
    """A host name or a bad port stops the start with a sentence that repeats it."""
    with pytest.raises(ValueError, match="resolver"):
        parse_server(text)


async def test_addresses_come_with_ipv6_first(dns: DnsSimulator, resolver: Resolver) -> None:
    """Both families are looked up and IPv6 is tried first."""
    dns.set("both.test", A=["192.0.2.1"], AAAA=["2001:db8::1"])
    assert await resolver.addresses("both.test") == (ip_address("2001:db8::1"), ip_address("192.0.2.1"))


async def test_number_of_addresses_is_bounded(dns: DnsSimulator, resolver: Resolver) -> None:
    """A name with a hundred addresses costs no more attempts than one with four."""
    dns.set("many.test", A=[f"192.0.2.{n}" for n in range(1, 101)])
    assert len(await resolver.addresses("many.test")) == 4


async def test_alias_is_followed(dns: DnsSimulator, resolver: Resolver) -> None:
    """An alias chain for both families is followed by the server."""
    dns.set("alias.test", CNAME="target.test")
    dns.set("target.test", A=["192.0.2.9"])
    assert await resolver.addresses("alias.test") == (ip_address("192.0.2.9"),)


async def test_name_without_addresses(dns: DnsSimulator, resolver: Resolver) -> None:
    """A name that exists without addresses is a DNS failure that says so."""
    dns.set("text.test", TXT=["x"])
    with pytest.raises(NotResolvedError, match="neither an A nor an AAAA record"):
        await resolver.addresses("text.test")


async def test_unknown_name(resolver: Resolver) -> None:
    """NXDOMAIN is named as such."""
    with pytest.raises(NotResolvedError, match=r"^nowhere\.test does not exist \(NXDOMAIN looking up A\)$"):
        await resolver.addresses("nowhere.test")


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
async def test_server_failure(dns: DnsSimulator, resolver: Resolver, rcode: str) -> None:
    """The server's code is repeated, so that the operator of the zone knows where to look."""
    dns.set("broken.test", rcode=rcode)
    with pytest.raises(NotResolvedError, match=rf"looking up TXT of broken\.test failed: {rcode}"):
        await resolver.texts("broken.test")


async def test_silent_server(dns: DnsSimulator, resolver: Resolver) -> None:
    """A server that does not answer costs no more than the lifetime."""
    dns.set("silent.test", drop=True)
    with pytest.raises(NotResolvedError, match="gave no answer in time"):
        await resolver.texts("silent.test")


async def test_closed_port() -> None:
    """A server that is not there is a DNS failure too, not an internal error."""
    async with DnsSimulator() as gone:
        address = gone.address
    with pytest.raises(NotResolvedError):
        await Resolver.build(address, lifetime=0.5).addresses("a.test")


async def test_truncated_answer_is_asked_for_by_tcp(dns: DnsSimulator, resolver: Resolver) -> None:
    """An answer that does not fit a datagram is fetched over TCP."""
    dns.set("long.test", TXT=["x" * 200 + str(n) for n in range(20)])
    dns.set("forced.test", TXT=["y"], truncate=True)
    assert len(await resolver.texts("long.test")) == 20
    assert await resolver.texts("forced.test") == (b"y",)
    assert [query.transport for query in dns.queries] == ["udp", "tcp", "udp", "tcp"]


async def test_strings_of_a_txt_record_are_joined(dns: DnsSimulator, resolver: Resolver) -> None:
    """A TXT record is the concatenation of its strings (RFC 8555 section 8.4 by way of RFC 7208's rule)."""
    dns.set("parts.test", TXT=[["abc", "def"], "ghi"])
    assert sorted(await resolver.texts("parts.test")) == [b"abcdef", b"ghi"]


async def test_number_of_texts_is_bounded(dns: DnsSimulator, resolver: Resolver) -> None:
    """More records than any client needs are not looked at."""
    dns.set("flood.test", TXT=[f"value-{n}" for n in range(300)])
    assert len(await resolver.texts("flood.test")) == 64


async def test_answers_are_not_cached(dns: DnsSimulator, resolver: Resolver) -> None:
    """A record that was corrected a moment ago is seen at once."""
    dns.set("a.test", TXT=["old"])
    assert await resolver.texts("a.test") == (b"old",)
    dns.set("a.test", TXT=["new"])
    assert await resolver.texts("a.test") == (b"new",)


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test", "a." * 130 + "test"])
async def test_impossible_name(resolver: Resolver, name: str) -> None:
    """A name that DNS cannot carry is refused before anything is sent."""
    with pytest.raises(NotResolvedError, match="not allow"):
        await resolver.addresses(name)


async def test_caa_records_come_with_flags_tag_and_value(dns: DnsSimulator, resolver: Resolver) -> None:
    """All three parts of RFC 8659 §4.1 are read, through aliases, and by TCP where the set is long."""
    dns.set("caa.test", CAA=['0 issue "ca.example"', '128 Tbs "x"'])
    dns.set("alias.test", CNAME="caa.test")
    dns.set("long.test", CAA=[f'0 issue "{n:03}.ca.example"' for n in range(100)])
    found = (CaaRecord(0, b"issue", b"ca.example"), CaaRecord(128, b"Tbs", b"x"))
    assert set(await resolver.caa("caa.test")) == set(await resolver.caa("alias.test")) == set(found)
    assert len(await resolver.caa("long.test")) == 100
    assert [query.transport for query in dns.queries] == ["udp", "udp", "udp", "tcp"]


async def test_no_caa_records_are_no_failure(dns: DnsSimulator, resolver: Resolver) -> None:
    """A name without such records, one that does not exist, and an alias to nowhere have an empty set."""
    dns.set("other.test", A=["192.0.2.1"])
    dns.set("dangling.test", CNAME="nowhere.test")
    for name in ("other.test", "missing.test", "dangling.test"):
        assert await resolver.caa(name) == ()


@pytest.mark.parametrize("behaviour", [{"rcode": "SERVFAIL"}, {"rcode": "REFUSED"}, {"drop": True}])
async def test_caa_that_cannot_be_looked_up_is_a_failure(
    dns: DnsSimulator, resolver: Resolver, behaviour: dict[str, object]
) -> None:
    """No answer is not an empty set."""
    dns.set("bad.test", **behaviour)
    with pytest.raises(NotResolvedError, match="CAA"):
        await resolver.caa("bad.test")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("corp.example", "192.0.2.2"),
        ("www.corp.example", "192.0.2.2"),
        ("WWW.Corp.Example", "192.0.2.2"),
        ("www.lab.corp.example", "192.0.2.3"),
        ("notcorp.example", "192.0.2.1"),
        ("corp.example.test", "192.0.2.1"),
    ],
)
async def test_a_zone_may_have_a_resolver_of_its_own(name: str, answer: str) -> None:
    """The longest zone that has the name decides who is asked, at whole labels; the others go to the default."""
    async with DnsSimulator() as default, DnsSimulator() as corp, DnsSimulator() as lab:
        for simulator, address in ((default, "192.0.2.1"), (corp, "192.0.2.2"), (lab, "192.0.2.3")):
            simulator.set(name, A=[address])
        zones = {"corp.example": corp.address, "lab.corp.example": lab.address}
        resolver = Resolver.build(default.address, 0.6, zones)
        assert await resolver.addresses(name) == (ip_address(answer),)
