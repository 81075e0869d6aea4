"""dns-account-01: as dns-01, at a name with a label of the account's own."""

import pytest

from services.acme.challenges.dns01 import Dns01, account_record_name, txt_value
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.outbound.resolver import Resolver
from tests.support.attempts import attempt
from tests.support.dns_server import DnsSimulator

ATTEMPT = attempt("dns-account-01", account="https://example.com/acme/acct/ExampleAccount")
RECORD = "_ujmmovf2vn55tgye._acme-challenge.site.test"
VALUE = txt_value(ATTEMPT.key_authorization)


def build(dns: DnsSimulator) -> Dns01:
    """The validator, which asks the simulator."""
    return Dns01(Resolver.build(dns.address, 0.6), 1.0, account_record_name)


@pytest.mark.requirement("dns-account-3.5-02")
def test_label_is_that_of_the_draft() -> None:
    """The label is the beginning of the account URL's digest; the example is that of the draft's section 3.1."""
    assert account_record_name(ATTEMPT) == RECORD


@pytest.mark.parametrize("wildcard", [False, True])
async def test_record_below_the_accounts_label(dns: DnsSimulator, *, wildcard: bool) -> None:
    """The digest of the key authorization at the account's name proves control of a name, and of its wildcard."""
    dns.set(RECORD, CNAME="delegated.test")
    dns.set("delegated.test", TXT=["another", VALUE])
    await build(dns).validate(attempt("dns-account-01", account=ATTEMPT.account_url, wildcard=wildcard))


@pytest.mark.requirement("dns-account-3.3-01", "dns-account-3.4-01", "dns-account-3.4-02", "dns-account-3.5-02")
async def test_record_of_dns01_and_of_other_accounts_proves_nothing(dns: DnsSimulator) -> None:
    """Neither the name without account label nor another account's label is looked at."""
    dns.set("_acme-challenge.site.test", TXT=[VALUE])
    dns.set(RECORD, TXT=[VALUE])
    with pytest.raises(ValidationError) as failed:
        await build(dns).validate(attempt("dns-account-01", account=ATTEMPT.account_url + "2"))
    assert failed.value.acme_type == "dns"
    assert "._acme-challenge.site.test does not exist" in failed.value.detail
    assert f"account {ATTEMPT.account_url}2" in failed.value.detail
    assert len(dns.queries) == 1


@pytest.mark.requirement("dns-account-3.3-01", "dns-account-3.4-01")
async def test_other_value(dns: DnsSimulator) -> None:
    """A record with another digest is refused and not repeated; the sentence names the account URL of the label."""
    dns.set(RECORD, TXT=["secret"])
    with pytest.raises(ValidationError) as failed:
        await build(dns).validate(ATTEMPT)
    assert failed.value.acme_type == "incorrectResponse"
    assert failed.value.detail == (
        f"{RECORD} has 1 TXT record, none with the expected value"
        " (the label is that of the account https://example.com/acme/acct/ExampleAccount)"
    )


async def test_name_that_leaves_no_room_for_the_label(dns: DnsSimulator) -> None:
    """A name so long that the labels do not fit before it is a DNS problem."""
    name = Identifier("dns", ".".join(["a" * 60] * 4))
    with pytest.raises(ValidationError) as failed:
        await build(dns).validate(attempt("dns-account-01", name))
    assert (failed.value.acme_type, dns.queries) == ("dns", [])
