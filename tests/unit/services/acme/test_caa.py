"""The rules of RFC 8659 and RFC 8657 over record sets; DNS is asked in tests/integration/validation/test_caa.py."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from services.acme.caa import Caa, CaaChecked, IssueProperty
from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.errors import NotResolvedError
from services.chassis.outbound.resolver import CaaRecord
from tests.support.attempts import ACCOUNT, attempt

OURS = ("ca.example", "acme.ca.example")
OTHER_ACCOUNT = "https://acme.test/acme/acct/4712"


class Zone:
    """Record sets by name; whatever is not named has none, and those in `failing` cannot be looked up."""

    def __init__(self, sets: Mapping[str, Sequence[CaaRecord]], failing: Sequence[str] = ()) -> None:
        self._sets = sets
        self._failing = failing
        self.asked: list[str] = []

    async def caa(self, name: str) -> tuple[CaaRecord, ...]:
        """The set of this name."""
        self.asked.append(name)
        if name in self._failing:
            raise NotResolvedError(f"looking up CAA of {name} failed: SERVFAIL")
        return tuple(self._sets.get(name, ()))


def issue(value: str, tag: str = "issue", flags: int = 0) -> CaaRecord:
    """A record."""
    return CaaRecord(flags, tag.encode(), value.encode())


async def check(zone: Zone, name: str = "www.site.test", *, wildcard: bool = False, method: str = "http-01") -> None:
    """Check a name for the usual account."""
    caa = Caa(zone, OURS, seconds=5)
    await caa.check(Identifier("dns", name), wildcard=wildcard, method=method, account_url=ACCOUNT)


async def refused(*records: CaaRecord, wildcard: bool = False, method: str = "http-01") -> str:
    """The sentence with which this record set at the name itself forbids issuance."""
    with pytest.raises(ValidationError) as refusal:
        await check(Zone({"www.site.test": records}), wildcard=wildcard, method=method)
    assert refusal.value.acme_type == "caa"
    return refusal.value.detail


@pytest.mark.parametrize(
    ("value", "issuer", "parameters"),
    [
        ("ca.example", "ca.example", ()),
        (" \tCA.Example\t ", "ca.example", ()),
        ("ca.example;", "ca.example", ()),
        ("ca.example ; ", "ca.example", ()),
        ("ca.example; account=230123", "ca.example", (("account", "230123"),)),
        ("ca.example;a=1;b-2 = x=y ; A=", "ca.example", (("a", "1"), ("b-2", "x=y"), ("a", ""))),
        ("localhost", "localhost", ()),
        ("a--b.example", "a--b.example", ()),
        (";", "", ()),
        ("", "", ()),
        ("; accounturi=x", "", (("accounturi", "x"),)),
    ],
)
def test_property_values_are_read_by_the_grammar(
    value: str, issuer: str, parameters: tuple[tuple[str, str], ...]
) -> None:
    """White space stands where RFC 8659 §4.2 lets it, names are lower case, and parameters keep their order."""
    assert IssueProperty.parse(value.encode()) == IssueProperty(issuer, parameters)


@pytest.mark.requirement("rfc8659-4.2-01")
@pytest.mark.parametrize(
    "value",
    [
        "ca.example policy=ev",
        "ca.example; policy",
        "ca.example; policy=ev;",
        "ca.example;;",
        "ca.example; =x",
        "ca.example; a b=x",
        "ca.example; a=x y",
        "ca.example; -a=x",
        "ca..example",
        ".ca.example",
        "ca.example.",
        "-ca.example",
        "ca_.example",
        "%%%%%",
        "ca.example\n",
        "ca.example; a=\x7f",
        "cá.example",
    ],
)
async def test_values_that_break_the_grammar_name_nobody(value: str) -> None:
    """RFC 8659 §4.2: a malformed value is as one with an empty issuer, which lets nobody issue."""
    assert IssueProperty.parse(value.encode()) == IssueProperty("")
    assert await refused(issue(value)) == "the CAA records at www.site.test do not name this server as an issuer"


@pytest.mark.requirement("rfc8659-4.1-03", "rfc8657-3.1-01", "rfc8657-4-02")
@pytest.mark.parametrize(
    "records",
    [
        (),
        (issue("ca.example"),),
        (issue("CA.EXAMPLE"),),
        (issue("ca.example", tag="IsSuE"),),
        (issue("acme.ca.example"),),
        (issue("other.example"), issue("ca.example")),
        (issue(";"), issue("ca.example")),
        (issue("ca.example", flags=128),),
        (issue(";", tag="issuewild"),),
        (issue("mailto:security@site.test", tag="iodef"),),
        (issue("mailto:security@site.test", tag="iodef", flags=128),),
        (issue(";", tag="issuemail"),),
        (issue("unknown", tag="tbs"),),
        (issue("unknown", tag="tbs", flags=127),),
        (issue("ca.example; unknown=parameter"),),
        (issue(f"ca.example; accounturi={ACCOUNT}"),),
        (issue(f"ca.example; accounturi={OTHER_ACCOUNT}"), issue(f"ca.example; accounturi={ACCOUNT}")),
        (issue("ca.example; validationmethods=http-01"),),
        (issue("ca.example; validationmethods=dns-01,http-01"),),
        (issue(f"ca.example; validationmethods=http-01; accounturi={ACCOUNT}"),),
    ],
)
async def test_record_sets_that_let_this_server_issue(records: tuple[CaaRecord, ...]) -> None:
    """One property for this server is enough, and what restricts something else restricts nothing here."""
    zone = Zone({"www.site.test": records})
    await check(zone)
    assert zone.asked[0] == "www.site.test"


@pytest.mark.requirement(
    "rfc8659-3-02", "rfc8659-4.1-01", "rfc8659-4.5-01", "rfc8657-3-02", "rfc8657-3-03", "rfc8657-4-02", "rfc8657-4-06"
)
@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ((issue("other.example"),), "do not name this server as an issuer"),
        ((issue(";"),), "do not name this server as an issuer"),
        ((issue(f"other.example; accounturi={ACCOUNT}"),), "do not name this server as an issuer"),
        ((issue("ca.example.attacker.test"),), "do not name this server as an issuer"),
        ((issue("ca.example"), issue("1", "tbs", 128)), "have a critical property that this server does not know"),
        ((issue("ca.example"), issue("1", "tbs", 255)), "have a critical property that this server does not know"),
        ((issue("1", "tbs", 128),), "have a critical property that this server does not know"),
        (
            (issue(f"ca.example; accounturi={OTHER_ACCOUNT}"),),
            "name this server for other accounts only (accounturi)",
        ),
        ((issue(f"ca.example; accounturi={ACCOUNT}0"),), "name this server for other accounts only (accounturi)"),
        (
            (issue(f"ca.example; accounturi={ACCOUNT.upper()}"),),
            "name this server for other accounts only (accounturi)",
        ),
        ((issue("ca.example; accounturi="),), "name this server for other accounts only (accounturi)"),
        ((issue(f"ca.example; AccountURI={OTHER_ACCOUNT}"),), "name this server for other accounts only (accounturi)"),
        (
            (issue(f"ca.example; accounturi={ACCOUNT}; accounturi={ACCOUNT}"),),
            "name this server for other accounts only (accounturi)",
        ),
        (
            (issue("ca.example; validationmethods=dns-01"),),
            "do not let http-01 prove control (validationmethods)",
        ),
        ((issue("ca.example; validationmethods="),), "do not let http-01 prove control (validationmethods)"),
        (
            (issue("ca.example; validationmethods=http-01,"),),
            "do not let http-01 prove control (validationmethods)",
        ),
        (
            (issue("ca.example; validationmethods=http-01; validationmethods=http-01"),),
            "do not let http-01 prove control (validationmethods)",
        ),
        (
            (
                issue(f"ca.example; accounturi={OTHER_ACCOUNT}; validationmethods=http-01"),
                issue(f"ca.example; accounturi={ACCOUNT}; validationmethods=dns-01"),
            ),
            "do not let http-01 prove control (validationmethods)",
        ),
    ],
)
async def test_record_sets_that_forbid(records: tuple[CaaRecord, ...], reason: str) -> None:
    """Issuer, account and challenge type must fit in one property; the refusal says where and why, not what it read."""
    assert await refused(*records) == f"the CAA records at www.site.test {reason}"


@pytest.mark.requirement("rfc8659-4.3-01", "rfc8659-4.3-02")
async def test_a_wildcard_follows_issuewild_where_there_is_one() -> None:
    """RFC 8659 §4.3: issuewild takes the place of issue for wildcards, and has no say for other names."""
    ours, nobody = issue("ca.example"), issue(";", tag="issuewild")
    only_wild = {"www.site.test": (issue(";"), issue("ca.example", tag="issuewild"))}
    await check(Zone({"www.site.test": (ours, nobody)}))
    await check(Zone(only_wild), wildcard=True)
    await check(Zone({"www.site.test": (ours,)}), wildcard=True)
    assert "issuer of wildcards" in await refused(ours, nobody, wildcard=True)
    with pytest.raises(ValidationError, match="do not name this server"):
        await check(Zone(only_wild))


@pytest.mark.requirement("rfc8659-3-01")
async def test_the_closest_set_counts_and_those_above_are_not_asked() -> None:
    """RFC 8659 §3: the climb ends at the first set that is not empty, and never reaches the root."""
    zone = Zone({"site.test": (issue("ca.example"),), "test": (issue(";"),)})
    await check(zone, "a.b.site.test")
    assert zone.asked == ["a.b.site.test", "b.site.test", "site.test"]
    empty = Zone({})
    await check(empty, "a.b.site.test")
    assert empty.asked == ["a.b.site.test", "b.site.test", "site.test", "test"]


async def test_a_set_without_issue_properties_ends_the_climb() -> None:
    """A set that only says whom to write to restricts nothing, and neither does what lies above it."""
    zone = Zone({"site.test": (issue("mailto:a@site.test", tag="iodef"),), "test": (issue(";"),)})
    await check(zone)
    assert zone.asked == ["www.site.test", "site.test"]


async def test_a_set_above_the_name_is_told_of_by_its_own_domain() -> None:
    """The refusal names the domain whose owner can change it."""
    with pytest.raises(ValidationError, match=r"^the CAA records at test do not"):
        await check(Zone({"test": (issue("other.example"),)}))


async def test_a_single_label_is_looked_up_too() -> None:
    """Names of private networks may have one label, with a set of its own."""
    with pytest.raises(ValidationError, match="at printer do not"):
        await check(Zone({"printer": (issue(";"),)}), "printer")


@pytest.mark.requirement("rfc8659-3-02")
@pytest.mark.parametrize("failing", ["www.site.test", "site.test", "test"])
async def test_a_failing_look_up_forbids(failing: str) -> None:
    """Where DNS does not say whether there are records, nothing is issued."""
    with pytest.raises(ValidationError, match=f"CAA of {failing} failed") as refusal:
        await check(Zone({}, [failing]))
    assert refusal.value.acme_type == "dns"


async def test_a_failure_above_the_relevant_set_does_not_matter() -> None:
    """Who has a set of his own does not depend on the name servers above him."""
    await check(Zone({"www.site.test": (issue("ca.example"),)}, ["site.test", "test"]))


async def test_all_look_ups_share_one_deadline() -> None:
    """A name with many labels takes no longer than one with few."""

    class Slow:
        async def caa(self, name: str) -> tuple[CaaRecord, ...]:
            await asyncio.sleep(0.03 if name else 0)
            return ()

    with pytest.raises(ValidationError, match=r"^no answer for CAA of .* within 0\.05 seconds$") as refusal:
        await Caa(Slow(), OURS, 0.05).check(
            Identifier("dns", ".".join("a" * 60)), wildcard=False, method="dns-01", account_url=ACCOUNT
        )
    assert refusal.value.acme_type == "dns"


async def test_addresses_have_no_records() -> None:
    """An IP identifier is not looked up."""
    zone = Zone({})
    identifier = Identifier("ip", "2001:db8::1")
    await Caa(zone, OURS, 5).check(identifier, wildcard=False, method="http-01", account_url=ACCOUNT)
    assert zone.asked == []


class Method:
    """A challenge method that ends as it is told, after a turn of the loop or later."""

    def __init__(self, error: ValidationError | None = None, pause: float = 0) -> None:
        self._error = error
        self._pause = pause

    async def validate(self, attempt: Attempt) -> None:
        """End."""
        assert attempt.type == "http-01"
        await asyncio.sleep(self._pause)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("pause", [0, 0.02])
async def test_the_challenge_is_told_of_before_the_records(pause: float) -> None:
    """Where both fail, the client hears of the challenge, whichever was first to fail."""
    caa = Caa(Zone({"site.test": (issue(";"),)}), OURS, 5)
    failing = ValidationError("incorrectResponse", "no proof")
    with pytest.raises(ValidationError, match="no proof"):
        await CaaChecked(Method(failing, pause), caa).validate(attempt("http-01"))
    with pytest.raises(ValidationError, match=r"the CAA records at site\.test"):
        await CaaChecked(Method(pause=pause), caa).validate(attempt("http-01"))


@pytest.mark.requirement("rfc8659-3-03", "rfc8657-3.1-01", "rfc8657-4-02")
async def test_what_is_checked_is_what_is_attempted() -> None:
    """Wildcard, challenge type and account of the attempt are those that the records are held against."""
    records = (issue(";"), issue(f"ca.example; accounturi={ACCOUNT}; validationmethods=http-01", tag="issuewild"))
    checked = CaaChecked(Method(), Caa(Zone({"site.test": records}), OURS, 5))
    await checked.validate(attempt("http-01", wildcard=True))
    for other in (attempt("http-01"), attempt("http-01", wildcard=True, account=OTHER_ACCOUNT)):
        with pytest.raises(ValidationError):
            await checked.validate(other)


@pytest.mark.parametrize("tag", ["issue", "iodef"])
async def test_a_set_of_hostile_size_forbids(tag: str) -> None:
    """More records than anybody has are not read, even if one of them would let this server issue."""
    assert "more than 64" in await refused(*[issue("other.example", tag)] * 64, issue("ca.example"))
