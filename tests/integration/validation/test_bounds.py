"""The validator as a whole: methods by name, and slots that bound what runs at once."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest

from pkicore.errors import MalformedError
from services.acme.challenges import CHALLENGE_TYPES, WITHOUT_TOKEN
from services.acme.challenges.attempt import Attempt
from services.acme.challenges.dns01 import account_record_name, txt_value
from services.acme.errors import AcmeError, ValidationError
from services.acme.identifiers import Identifier
from services.acme.perspectives.wire import attempt_of, question_of
from services.acme.validation import Validator
from tests.support.alpn_server import AlpnServer, Certificate, proof
from tests.support.attempts import ACCOUNT, SITE, TOKEN, attempt
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator
from tests.support.http_challenge import CHALLENGE_PATH, HttpChallengeServer


@dataclass(frozen=True)
class Settings:
    """The settings that validation reads."""

    resolver: str
    http01_port: int
    tlsalpn01_port: int = 443
    caa_identities: tuple[str, ...] = ()
    caa: bool = True
    resolvers: Mapping[str, str] = field(default_factory=dict)
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = (ip_network("127.0.0.0/8"),)
    validation_timeout_seconds: float = 2.0


class Gate:
    """A method that waits until it is let go, and counts how many wait in it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def validate(self, attempt: Attempt) -> None:
        """Wait at the gate."""
        assert attempt.identifier == SITE
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.opened.wait()
        self.inside -= 1


async def test_built_validator_knows_every_method(tmp_path: Path) -> None:
    """One validator from the settings carries out every type there is."""
    async with DnsSimulator() as dns, HttpChallengeServer() as web, AlpnServer(tmp_path) as tls:
        await tls.serve(Certificate(["site.test"], proof("token.key")).pem())
        settings = Settings(dns.address, web.port, tls.port, ("ca.test",))
        validator = Validator.build(settings, ManualClock())
        web.answer("token", "token.key")
        dns.set("site.test", A=["127.0.0.1"])
        dns.set("_acme-challenge.site.test", TXT=[txt_value("token.key")])
        dns.set(account_record_name(attempt("dns-account-01")), TXT=[txt_value("token.key")])
        dns.set("_validation-persist.site.test", TXT=[f"ca.test; accounturi={ACCOUNT}"])
        for challenge_type in CHALLENGE_TYPES:
            await validator.validate(attempt(challenge_type, token="token", thumbprint="key"))
        for challenge_type in set(CHALLENGE_TYPES) - WITHOUT_TOKEN:
            with pytest.raises(ValidationError) as failed:
                await validator.validate(attempt(challenge_type, token="token", thumbprint="other"))
            assert failed.value.acme_type == "incorrectResponse"


async def test_types_that_are_not_offered_are_not_validated() -> None:
    """A challenge that was offered before its type was taken from the settings is not tried any more."""
    validator = Validator.build(Settings("127.0.0.1:1", 80), ManualClock(), ("dns-01",))
    with pytest.raises(ValidationError, match="http-01 is not a challenge type"):
        await validator.validate(attempt("http-01"))


def test_resolver_setting_is_checked_at_the_start() -> None:
    """A resolver that is no address stops the start."""
    with pytest.raises(ValueError, match="resolver"):
        Validator.build(Settings("ns.example:53", 80), ManualClock())


async def test_unknown_method() -> None:
    """A challenge type that is not offered is refused."""
    with pytest.raises(ValidationError, match="tls-alpn-01 is not a challenge type") as failed:
        await Validator({}).validate(attempt("tls-alpn-01"))
    assert failed.value.acme_type == "malformed"


@pytest.mark.parametrize(
    ("challenge", "identifier", "wildcard"),
    [
        ("http-01", Identifier("dns", "site.test"), True),
        ("tls-alpn-01", Identifier("dns", "site.test"), True),
        ("dns-01", Identifier("ip", "192.0.2.1"), False),
        ("dns-account-01", Identifier("ip", "192.0.2.1"), False),
        ("dns-persist-01", Identifier("ip", "192.0.2.1"), False),
    ],
)
async def test_challenge_that_cannot_prove_this(challenge: str, identifier: Identifier, *, wildcard: bool) -> None:
    """Whatever asks for it: who runs one host proves no wildcard, and DNS proves no address."""
    gate = Gate()
    with pytest.raises(ValidationError, match="does not prove control"):
        await Validator({challenge: gate}).validate(attempt(challenge, identifier, wildcard=wildcard))
    with pytest.raises(MalformedError, match="does not prove control"):
        attempt_of(question_of(attempt(challenge, identifier, wildcard=wildcard)))
    assert gate.most == 0


async def test_no_more_than_the_slots_run_at_once() -> None:
    """Validations beyond the slots wait and run when one is free."""
    gate = Gate()
    validator = Validator({"http-01": gate}, concurrent=3, waiting=10)
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(validator.validate(attempt("http-01")))
        await asyncio.sleep(0.05)
        assert gate.inside == 3
        gate.opened.set()
    assert (gate.inside, gate.most) == (0, 3)


async def test_slow_method_does_not_hold_up_the_other() -> None:
    """Each method has its own slots."""
    slow, quick = Gate(), Gate()
    quick.opened.set()
    validator = Validator({"http-01": slow, "dns-01": quick}, concurrent=1, waiting=1)
    stuck = asyncio.create_task(validator.validate(attempt("http-01")))
    await validator.validate(attempt("dns-01"))
    slow.opened.set()
    await stuck


async def test_too_many_waiting_are_told_to_come_back() -> None:
    """Beyond the queue nothing is tried; the refusal says when to come back and is no verdict on the identifier."""
    gate = Gate()
    validator = Validator({"http-01": gate}, concurrent=1, waiting=2)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(validator.validate(attempt("http-01")))
        await asyncio.sleep(0.05)
        with pytest.raises(AcmeError, match="try again") as refused:
            await validator.validate(attempt("http-01"))
        gate.opened.set()
    assert not isinstance(refused.value, ValidationError)
    assert refused.value.acme_type == "rateLimited"
    assert dict(refused.value.headers)[b"retry-after"] == b"5"


async def test_cancelled_validation_gives_its_slot_back() -> None:
    """A caller that goes away leaves neither its slot nor its place in the queue taken."""
    gate = Gate()
    validator = Validator({"http-01": gate}, concurrent=1, waiting=0)
    gone = asyncio.create_task(validator.validate(attempt("http-01")))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    gate.opened.set()
    await validator.validate(attempt("http-01"))


async def test_many_stalled_sites_leave_no_task_behind() -> None:
    """After fifty validations of sites that never answer, no task and no connection of the validator is left."""
    async with DnsSimulator() as dns, HttpChallengeServer() as web:
        dns.set("site.test", A=["127.0.0.1"])
        web.stall(CHALLENGE_PATH + TOKEN)
        validator = Validator.build(Settings(dns.address, web.port, validation_timeout_seconds=0.5), ManualClock())
        before = asyncio.all_tasks()
        attempts = (validator.validate(attempt("http-01")) for _ in range(50))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(result) for result in results} == {ValidationError}
        await web.stop()
        await dns.stop()  # a busy machine's simulator may have questions left that nobody waits for
        assert asyncio.all_tasks() == before


async def test_one_account_takes_no_more_than_its_share() -> None:
    """An account whose names never answer keeps its own slots busy, and another account is validated at once."""
    gate = Gate()
    validator = Validator({"http-01": gate, "dns-01": gate}, concurrent=8, waiting=0, per_account=2)
    async with asyncio.TaskGroup() as group:
        for challenge_type in ("http-01", "dns-01") * 10:
            group.create_task(validator.validate(attempt(challenge_type, account="https://acme.test/hostile")))
        await asyncio.sleep(0.05)
        assert gate.inside == 2
        group.create_task(validator.validate(attempt("http-01", account="https://acme.test/honest")))
        await asyncio.sleep(0.05)
        assert gate.inside == 3
        gate.opened.set()
    assert (gate.inside, gate.most) == (0, 3)


async def test_too_many_of_one_account_are_told_to_come_back() -> None:
    """Beyond an account's queue nothing is tried, and the refusal says that it is the account's own doing."""
    gate = Gate()
    validator = Validator({"http-01": gate}, per_account=1, waiting_per_account=1)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(validator.validate(attempt("http-01")))
        await asyncio.sleep(0.05)
        with pytest.raises(AcmeError, match="too many validations of this account are waiting") as refused:
            await validator.validate(attempt("http-01"))
        gate.opened.set()
    assert (refused.value.acme_type, refused.value.status) == ("rateLimited", 429)
    await validator.validate(attempt("http-01"))
