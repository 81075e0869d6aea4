"""CAA over real DNS, beside a real challenge; the rules themselves are in tests/unit/services/acme/test_caa.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.acme.challenges.dns01 import txt_value
from services.acme.errors import ValidationError
from services.acme.perspectives.settings import PerspectiveSettings
from services.acme.validation import Validator
from tests.support.attempts import attempt
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator
from tests.support.validation_settings import validation_settings


@pytest.fixture
async def zone() -> AsyncIterator[DnsSimulator]:
    """DNS in which dns-01 is met at site.test and at its alias."""
    async with DnsSimulator() as simulator:
        proof = txt_value(attempt("dns-01").key_authorization)
        simulator.set("_acme-challenge.site.test", TXT=[proof])
        yield simulator


def settings(tmp_path: Path, zone: DnsSimulator, **changed: object) -> PerspectiveSettings:
    """Validation that asks this zone and stands for ca.example."""
    told = {"resolver": zone.address, "caa_identities": ("ca.example",), "validation_timeout_seconds": 1.0}
    return validation_settings(tmp_path, **(told | changed))


async def outcome(found: PerspectiveSettings) -> str:
    """What comes of dns-01 for site.test: "valid", or the error type."""
    try:
        await Validator.build(found, ManualClock()).validate(attempt("dns-01"))
    except ValidationError as error:
        return error.acme_type
    return "valid"


@pytest.mark.requirement("rfc8659-3-01", "rfc8659-3-02", "rfc8659-5.1-02")
@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("site.test", {}, "valid"),
        ("site.test", {"CAA": ['0 issue "ca.example"']}, "valid"),
        ("site.test", {"CAA": ['0 issue ";"']}, "caa"),
        ("site.test", {"CAA": ['0 issue "other.example"', '0 iodef "mailto:a@site.test"']}, "caa"),
        ("test", {"CAA": ['0 issue "other.example"']}, "caa"),
        ("site.test", {"CAA": ['0 issue "ca.example; validationmethods=http-01"']}, "caa"),
        ("site.test", {"CNAME": "policy.test"}, "caa"),
        ("site.test", {"rcode": "SERVFAIL"}, "dns"),
        ("test", {"rcode": "REFUSED"}, "dns"),
        ("site.test", {"drop": True}, "dns"),
    ],
)
async def test_records_decide_beside_the_challenge(
    tmp_path: Path, zone: DnsSimulator, name: str, entry: dict[str, object], expected: str
) -> None:
    """A met challenge is not enough where CAA records, an alias to some, or a failing name server stand against it."""
    zone.set("policy.test", CAA=['0 issue "other.example"'])
    zone.set(name, **entry)
    assert await outcome(settings(tmp_path, zone)) == expected


@pytest.mark.parametrize("changed", [{"caa": False}, {"caa_identities": ()}])
async def test_a_deployment_may_leave_caa_alone(tmp_path: Path, zone: DnsSimulator, changed: dict[str, object]) -> None:
    """Where the check is off, or no record could name this server, nothing is looked up for it."""
    zone.set("site.test", CAA=['0 issue ";"'])
    assert await outcome(settings(tmp_path, zone, **changed)) == "valid"
    assert {query.type for query in zone.queries} == {"TXT"}


async def test_each_domain_is_asked_once(tmp_path: Path, zone: DnsSimulator) -> None:
    """One look-up per label, and none of the root."""
    assert await outcome(settings(tmp_path, zone)) == "valid"
    assert sorted(query.name for query in zone.queries if query.type == "CAA") == ["site.test", "test"]


async def test_a_zone_with_its_own_resolver_has_its_records_there(tmp_path: Path, zone: DnsSimulator) -> None:
    """Split horizon: challenge and CAA of an internal zone come from its own resolver, and the usual is not asked."""
    async with DnsSimulator() as public:
        public.set("site.test", rcode="SERVFAIL")
        zone.set("site.test", CAA=['0 issue "ca.example"'])
        found = settings(tmp_path, public, resolvers={"site.test": zone.address})
        assert await outcome(found) == "valid"
        assert public.queries == []
