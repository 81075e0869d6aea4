"""dns-01 against a DNS simulator over real sockets."""

import time
from collections.abc import AsyncIterator

import pytest

from services.acme.challenges.attempt import Attempt
from services.acme.challenges.dns01 import Dns01, txt_value
from services.acme.errors import ValidationError
from services.chassis.outbound.resolver import Resolver
from tests.support.attempts import TOKEN, attempt
from tests.support.dns_server import DnsSimulator

ATTEMPT = attempt("dns-01")
KEY_AUTHORIZATION = ATTEMPT.key_authorization
VALUE = txt_value(KEY_AUTHORIZATION)
RECORD = "_acme-challenge.site.test"
SECONDS = 1.0


@pytest.fixture
async def dns() -> AsyncIterator[DnsSimulator]:
    """A DNS simulator without names."""
    async with DnsSimulator() as simulator:
        yield simulator


@pytest.fixture
def dns01(dns: DnsSimulator) -> Dns01:
    """The validator, which asks the simulator."""
    return Dns01(Resolver.build(dns.address, SECONDS * 0.6), SECONDS)


async def refusal(dns01: Dns01, tried: Attempt = ATTEMPT) -> ValidationError:
    """Validate and return the error, which must come within the deadline."""
    begin = time.monotonic()
    with pytest.raises(ValidationError) as failed:
        await dns01.validate(tried)
    assert time.monotonic() - begin < SECONDS + 0.5
    assert failed.value.detail.isprintable()
    return failed.value


async def test_right_record(dns: DnsSimulator, dns01: Dns01) -> None:
    """The digest of the key authorization at the challenge name proves control, with one question."""
    dns.set(RECORD, TXT=[VALUE])
    await dns01.validate(ATTEMPT)
    assert [(query.name, query.type) for query in dns.queries] == [(RECORD, "TXT")]


async def test_wildcard_uses_the_base_name(dns: DnsSimulator, dns01: Dns01) -> None:
    """A wildcard is proven at its base name."""
    dns.set(RECORD, TXT=[VALUE])
    await dns01.validate(attempt("dns-01", wildcard=True))


async def test_right_record_among_others(dns: DnsSimulator, dns01: Dns01) -> None:
    """A name and its wildcard, or several clients, leave several records; one right one is enough."""
    dns.set(RECORD, TXT=["another-clients-value", VALUE, ""])
    await dns01.validate(ATTEMPT)


async def test_record_in_several_strings(dns: DnsSimulator, dns01: Dns01) -> None:
    """The strings of one record belong together."""
    dns.set(RECORD, TXT=[[VALUE[:20], VALUE[20:]]])
    await dns01.validate(ATTEMPT)


async def test_strings_of_different_records_are_not_joined(dns: DnsSimulator, dns01: Dns01) -> None:
    """Two records with half the value each prove nothing."""
    dns.set(RECORD, TXT=[VALUE[:20], VALUE[20:]])
    assert (await refusal(dns01)).acme_type == "incorrectResponse"


async def test_delegation_by_cname(dns: DnsSimulator, dns01: Dns01) -> None:
    """The challenge name may be an alias into a zone made for it."""
    dns.set(RECORD, CNAME="hop.acme.test")
    dns.set("hop.acme.test", CNAME="site.acme.test")
    dns.set("site.acme.test", TXT=[VALUE])
    await dns01.validate(ATTEMPT)


async def test_large_answer_comes_by_tcp(dns: DnsSimulator, dns01: Dns01) -> None:
    """The right record is found in an answer too large for a datagram."""
    dns.set(RECORD, TXT=[*("x" * 200 + str(n) for n in range(20)), VALUE])
    await dns01.validate(ATTEMPT)


@pytest.mark.parametrize(
    "value", ["", "x", VALUE[:-1], VALUE + "=", VALUE.lower(), f" {VALUE}", KEY_AUTHORIZATION, TOKEN]
)
async def test_wrong_record(dns: DnsSimulator, dns01: Dns01, value: str) -> None:
    """Anything but the exact value is refused."""
    dns.set(RECORD, TXT=[value])
    error = await refusal(dns01)
    assert error.acme_type == "incorrectResponse"
    assert error.detail == f"{RECORD} has 1 TXT record, none with the expected value"


async def test_detail_counts_what_was_found(dns: DnsSimulator, dns01: Dns01) -> None:
    """Records are counted but not repeated: an alias may lead to ones that are not for the applicant."""
    dns.set(RECORD, CNAME="inside.test")
    dns.set("inside.test", TXT=["secret one", "secret two"])
    error = await refusal(dns01)
    assert error.detail == f"{RECORD} has 2 TXT records, none with the expected value"


async def test_name_without_record(dns: DnsSimulator, dns01: Dns01) -> None:
    """A name that exists without TXT records is told apart from one that does not exist."""
    dns.set(RECORD, A=["192.0.2.1"])
    error = await refusal(dns01)
    assert (error.acme_type, error.detail) == ("incorrectResponse", f"{RECORD} has no TXT record")


async def test_unknown_name(dns01: Dns01) -> None:
    """NXDOMAIN is a DNS problem that names the record looked for."""
    error = await refusal(dns01)
    assert (error.acme_type, error.detail) == ("dns", f"{RECORD} does not exist (NXDOMAIN looking up TXT)")


async def test_dangling_delegation(dns: DnsSimulator, dns01: Dns01) -> None:
    """An alias to a name that does not exist is a DNS problem."""
    dns.set(RECORD, CNAME="gone.test")
    assert (await refusal(dns01)).acme_type == "dns"


async def test_delegation_loop(dns: DnsSimulator, dns01: Dns01) -> None:
    """Aliases in a circle end in a DNS problem."""
    dns.set(RECORD, CNAME="loop.test")
    dns.set("loop.test", CNAME=RECORD)
    assert (await refusal(dns01)).acme_type == "dns"


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"])
async def test_server_failure(dns: DnsSimulator, dns01: Dns01, rcode: str) -> None:
    """The server's code is in the sentence."""
    dns.set(RECORD, rcode=rcode)
    error = await refusal(dns01)
    assert error.acme_type == "dns"
    assert rcode in error.detail


@pytest.mark.parametrize("behaviour", [{"drop": True}, {"delay": 30}])
async def test_silent_server(dns: DnsSimulator, dns01: Dns01, behaviour: dict[str, object]) -> None:
    """A server that is silent or slow ends in a DNS problem within the deadline."""
    dns.set(RECORD, TXT=[VALUE], **behaviour)
    error = await refusal(dns01)
    assert error.acme_type == "dns"
    assert "in time" in error.detail
