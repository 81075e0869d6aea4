"""dns-persist-01: TXT records that name CA and account, in the syntax of CAA's issue-value."""

from datetime import timedelta

import pytest

from pkicore.clock import unix
from services.acme.challenges.attempt import Attempt
from services.acme.challenges.dns_persist01 import DnsPersist01
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.outbound.resolver import Resolver
from tests.support.attempts import ACCOUNT, attempt
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator

RECORD = "_validation-persist.site.test"
ATTEMPT = attempt("dns-persist-01", token="")
WILDCARD = attempt("dns-persist-01", token="", wildcard=True)
RIGHT = f"ca.test; accounturi={ACCOUNT}"


def build(dns: DnsSimulator, clock: ManualClock | None = None) -> DnsPersist01:
    """The validator of a CA with two names."""
    return DnsPersist01(Resolver.build(dns.address, 0.6), ("ca.test", "ca.example"), 1.0, clock or ManualClock())


async def refusal(dns: DnsSimulator, tried: Attempt = ATTEMPT) -> ValidationError:
    """Validate and return the error, which repeats nothing of what was found."""
    with pytest.raises(ValidationError) as failed:
        await build(dns).validate(tried)
    assert "secret" not in failed.value.detail
    return failed.value


@pytest.mark.requirement(
    "dns-persist-4-02",
    "dns-persist-4-03",
    "dns-persist-4-10",
    "dns-persist-4-11",
    "dns-persist-7.4-01",
    "dns-persist-9.1.1-01",
    "dns-persist-4-06",
    "dns-persist-4-09",
)
@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        f"ca.example;accounturi={ACCOUNT}",
        f" \tCA.Test ; \tACCOUNTURI = {ACCOUNT} \t",
        f"ca.test; x=1; accounturi={ACCOUNT}; y-2=; policy=other",
        f"ca.test; accounturi={ACCOUNT}; policy=wildcard",
        f"ca.test; accounturi={ACCOUNT}; persistUntil=4000000000",
    ],
)
async def test_record_for_the_account(dns: DnsSimulator, text: str) -> None:
    """A record that names one of the CA's names and the account proves; tags have no case, unknown ones no meaning."""
    dns.set(RECORD, TXT=[text])
    await build(dns).validate(ATTEMPT)
    assert [(query.name, query.type) for query in dns.queries] == [(RECORD, "TXT")]


async def test_long_record_in_several_strings(dns: DnsSimulator) -> None:
    """The strings of one record are one value."""
    dns.set(RECORD, TXT=[[RIGHT[:9], RIGHT[9:], "; note=" + "x" * 240, "y" * 255]])
    await build(dns).validate(ATTEMPT)


@pytest.mark.requirement("dns-persist-4-06", "dns-persist-4-07", "dns-persist-5.1-01")
@pytest.mark.parametrize("policy", ["wildcard", "WildCard"])
async def test_wildcard_needs_the_policy(dns: DnsSimulator, policy: str) -> None:
    """Only policy=wildcard, in any case, lets a record stand for the wildcard; other values count as none."""
    for other in ("", "; policy=", "; policy=wildcards", "; policy=none", "; policy=wildcard,none"):
        dns.set(RECORD, TXT=[RIGHT + other])
        error = await refusal(dns, WILDCARD)
        assert (error.acme_type, error.detail) == (
            "unauthorized",
            f"the TXT record of {RECORD} is not for wildcards (policy=wildcard)",
        )
    dns.set(RECORD, TXT=[f"{RIGHT}; Policy={policy}"])
    await build(dns).validate(WILDCARD)


@pytest.mark.requirement("dns-persist-6.2-01", "dns-persist-6.2-02", "dns-persist-6.2-03", "dns-persist-5.1-01")
async def test_record_of_the_domain_above_does_not_count(dns: DnsSimulator) -> None:
    """A wildcard record stands for no deeper name: it is looked for at the very name."""
    dns.set(RECORD, TXT=[f"{RIGHT}; policy=wildcard"])
    for name in ("www.site.test", "a.b.site.test"):
        deeper = attempt("dns-persist-01", Identifier("dns", name), token="")
        assert (await refusal(dns, deeper)).acme_type == "dns"


@pytest.mark.requirement(
    "dns-persist-2-01",
    "dns-persist-4-09",
    "dns-persist-7.8-02",
    "dns-persist-7.9-01",
    "dns-persist-7.9-02",
    "dns-persist-7.10-03",
)
async def test_record_ends_when_it_says(dns: DnsSimulator) -> None:
    """PersistUntil is the last second in which a record proves."""
    clock = ManualClock()
    dns.set(RECORD, TXT=[f"{RIGHT}; persistuntil={unix(clock.now()) + 60}"])
    clock.advance(timedelta(seconds=60))
    await build(dns, clock).validate(ATTEMPT)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(ValidationError, match="has ended") as failed:
        await build(dns, clock).validate(ATTEMPT)
    assert failed.value.acme_type == "unauthorized"


@pytest.mark.requirement("dns-persist-4.1.2-01", "dns-persist-4.1.2-02")
async def test_several_records_are_independent(dns: DnsSimulator) -> None:
    """Records for other CAs, broken ones and ones for other accounts do not hide the right one."""
    others = ["other.test; accounturi=secret", "secret", "", "ca.test;;;", "ca.test; accounturi=https://acme.test/2"]
    dns.set(RECORD, TXT=[*others, RIGHT])
    await build(dns).validate(ATTEMPT)


@pytest.mark.requirement(
    "dns-persist-4-01",
    "dns-persist-4-04",
    "dns-persist-4-05",
    "dns-persist-4-08",
    "dns-persist-7.10-02",
    "dns-persist-9.2.1-01",
    "dns-persist-9.2.1-02",
    "dns-persist-9.2.1-03",
)
@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("", "unauthorized", "has no TXT record for this CA (1 for others)"),
        ("secret.test; accounturi=secret", "unauthorized", "has no TXT record for this CA (1 for others)"),
        (f"sub.ca.test; accounturi={ACCOUNT}", "unauthorized", "has no TXT record for this CA"),
        (f"accounturi={ACCOUNT}", "unauthorized", "has no TXT record for this CA"),
        ("ca.test; accounturi=https://acme.test/acme/acct/secret", "unauthorized", "for another account"),
        (f"ca.test; accounturi={ACCOUNT.upper()}", "unauthorized", "for another account"),
        (f"ca.test; accounturi={ACCOUNT}/", "unauthorized", "for another account"),
        (f"{RIGHT}; persistUntil=1", "unauthorized", "has ended"),
        ("ca.test", "malformed", "has no accounturi"),
        ("ca.test; account=1", "malformed", "has no accounturi"),
        ("ca.test; accounturi", "malformed", "no issue-value"),
        (f"{RIGHT}; accounturi=secret", "malformed", "no issue-value"),
        (f"{RIGHT}; ACCOUNTURI={ACCOUNT}", "malformed", "no issue-value"),
        (f"{RIGHT}; persistUntil=9999999999; persistUntil=1", "malformed", "no issue-value"),
        (f"{RIGHT}; policy", "malformed", "no issue-value"),
        (f"{RIGHT};", "malformed", "no issue-value"),
        (f"{RIGHT} x", "malformed", "no issue-value"),
        (f"{RIGHT}; x=\u00e9", "malformed", "no issue-value"),
        (f"{RIGHT}; persistUntil=", "malformed", "no Unix time"),
        (f"{RIGHT}; persistUntil=-1", "malformed", "no Unix time"),
        (f"{RIGHT}; persistUntil=1e99", "malformed", "no Unix time"),
        (f"{RIGHT}; persistUntil=2030-01-01", "malformed", "no Unix time"),
        (f"{RIGHT}; persistUntil={'9' * 60}", "malformed", "no Unix time"),
    ],
)
async def test_record_that_proves_nothing(dns: DnsSimulator, text: str, kind: str, sentence: str) -> None:
    """What is for others is unauthorized, what breaks the syntax malformed; nothing of the record is repeated."""
    dns.set(RECORD, TXT=[text])
    error = await refusal(dns)
    assert (error.acme_type, sentence in error.detail) == (kind, True)


@pytest.mark.requirement("dns-persist-4.1.2-03", "dns-persist-7.10-02", "dns-persist-7.10-04")
async def test_name_without_record(dns: DnsSimulator) -> None:
    """No TXT record, and no such name, are told apart."""
    dns.set(RECORD, A=["127.0.0.1"])
    assert (await refusal(dns)).detail == f"{RECORD} has no TXT record for this CA (0 for others)"
    dns.remove(RECORD)
    assert (await refusal(dns)).acme_type == "dns"


@pytest.mark.requirement("dns-persist-7.4-01")
async def test_ca_without_names_is_never_meant(dns: DnsSimulator) -> None:
    """A CA that has no issuer domain name is not the one that an empty name stands for."""
    dns.set(RECORD, TXT=[f"; accounturi={ACCOUNT}", RIGHT])
    method = DnsPersist01(Resolver.build(dns.address, 0.6), (), 1.0, ManualClock())
    with pytest.raises(ValidationError, match="2 for others"):
        await method.validate(ATTEMPT)
