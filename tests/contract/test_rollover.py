"""What `ztca ca` does to a stopped deployment: issuing CAs and roots come and go, also where a step is killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import KeyNotFoundError
from pkicore.ocsp import build_request, verify_response
from pkicore.x509.certificate import load_chain, to_pem
from pkicore.x509.names import Names
from services.ca.block_list.wire import BlockRequest, IssuedByRoot
from services.ca.cli.roots import renew_crl, revoke_by_root
from services.ca.client.trust import ACTIVE
from services.ca.core import Core
from services.ca.errors import CeremonyError
from services.ca.key_places import Wanted
from services.ca.rollover import Rollover
from services.ca.root_rollover import RootRollover
from services.ca.store import CaStore
from services.ca.subordinate import Subordination, Terms
from services.ca.wire import CertificateRequest, Identifier, format_serial
from services.chassis.database import Database
from tests.support.ca_world import OPERATOR
from tests.support.openssl import openssl
from tests.support.pki import make_csr
from tests.support.stopped_world import BACKEND, StoppedWorld

OLD, NEW = "issuing-mldsa", "issuing-mldsa-2"
OLD_ROOT, NEW_ROOT = "root-mldsa", "root-mldsa-2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with file keys, fresh from its ceremony; tests work on copies."""
    directory = tmp_path_factory.mktemp("ceremony") / "pki"
    asyncio.run(StoppedWorld.make(directory))
    return directory


@pytest.fixture
def world(made: Path, tmp_path: Path) -> StoppedWorld:
    """File keys, no signer-hsm."""
    return StoppedWorld.copied(made, tmp_path / "pki")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Where slow keys are used."""
    with ThreadPoolExecutor(2) as found:
        yield found


@pytest.fixture
def issuing(world: StoppedWorld, pool: ThreadPoolExecutor) -> Rollover:
    """The steps of issuing CAs."""
    return world.rollover(pool)


@pytest.fixture
def roots(world: StoppedWorld, pool: ThreadPoolExecutor) -> RootRollover:
    """The steps of roots."""
    return world.root_rollover(pool)


async def issue(core: Core, name: str, key: str = "ml-dsa-65") -> tuple[x509.Certificate, ...]:
    """The chain of a server's certificate, as an operator asks for it."""
    csr = make_csr(generate_private_key(ALGORITHMS[key]), names=Names.build(dns=[name]))
    wanted = CertificateRequest(csr, "server", (Identifier("dns", name),), name)
    answer = (await core.issuance.issue(OPERATOR, wanted)).answer
    return load_chain(answer.chain.encode())


@asynccontextmanager
async def started(world: StoppedWorld) -> AsyncIterator[Core]:
    """The deployment's CA, a moment later."""
    world.clock.advance(timedelta(seconds=2))
    async with world.ca() as core:
        yield core


async def has_status(core: Core, world: StoppedWorld, name: str, serial_of: x509.Certificate) -> bool:
    """Its CRL is there, and its OCSP answer is good."""
    issuer = core.hierarchy.cas[name].issuer.certificate
    answer = (await core.answers.answer(build_request(serial_of, issuer))).der
    return verify_response(answer, serial_of, issuer, world.clock.now()).serial == serial_of.serial_number


def states(world: StoppedWorld) -> dict[str, str]:
    """Of issuing CAs and roots of the ML-DSA family."""
    settings = world.settings
    issuers = {item.id: item.state for item in settings.issuers if "mldsa" in item.id}
    return issuers | {item.id: item.state for item in settings.roots if "mldsa" in item.id}


async def test_an_issuing_ca_is_prepared_activated_and_back(world: StoppedWorld, issuing: Rollover) -> None:
    """Prepared it has CRL and responder and issues nothing; active it issues; the former one answers on."""
    changed = await issuing.prepare("mldsa")
    assert (changed.id, changed.state, changed.changed) == (NEW, "prepared", True)
    assert states(world) == {OLD: "active", NEW: "prepared", OLD_ROOT: "active"}
    async with started(world) as core:
        old = await issue(core, "old.example")
        assert old[0].issuer == core.hierarchy.cas[OLD].issuer.certificate.subject
        assert core.publisher.current[NEW].number >= 1
        core.responders.of(NEW).certificate.verify_directly_issued_by(core.hierarchy.cas[NEW].issuer.certificate)
    assert (await issuing.activate(NEW)).former == OLD
    assert (world.layout.issuers / ACTIVE).read_text().split() == ["issuing-ecdsa", NEW]
    async with started(world) as core:
        new = await issue(core, "new.example")
        assert new[0].issuer == core.hierarchy.cas[NEW].issuer.certificate.subject
        assert core.hierarchy.is_superseded(old[0])
        assert not core.hierarchy.is_superseded(new[0])
        assert await has_status(core, world, OLD, old[0])
        assert await has_status(core, world, NEW, new[0])
    assert (await issuing.activate(OLD)).former == NEW
    assert states(world) == {OLD: "active", NEW: "retired", OLD_ROOT: "active"}


async def test_each_step_is_on_record(world: StoppedWorld, issuing: Rollover, roots: RootRollover) -> None:
    """What is about to be done and what was done are events of the CA's audit log, with key and fingerprint."""
    await issuing.prepare("mldsa")
    await issuing.activate(NEW)
    await issuing.retire(OLD)
    events = await world.events("issuer.")
    begun = ["preparation-begun", "prepared", "activation-begun", "activated", "retired"]
    assert [event for event, _ in events] == [f"issuer.{name}" for name in begun]
    assert events[2][1]["former"] == OLD
    assert all(len(detail["sha256"]) == 64 for _, detail in events[1:])
    await roots.prepare("mldsa")
    await roots.activate(NEW_ROOT)
    assert [event for event, _ in await world.events("root.")][-4:] == [
        "root.preparation-begun",
        "root.prepared",
        "root.activation-begun",
        "root.activated",
    ]


async def test_a_step_that_was_done_says_so(world: StoppedWorld, issuing: Rollover) -> None:
    """Prepared, activated or retired twice: the second changes nothing, and --another is what makes one more."""
    await issuing.prepare("mldsa")
    assert not (await issuing.prepare("mldsa")).changed
    assert (await issuing.prepare("mldsa", another=True)).id == "issuing-mldsa-3"
    await issuing.activate(NEW)
    before = world.layout.settings("ca").read_text()
    assert not (await issuing.activate(NEW)).changed
    assert not (await issuing.retire(OLD)).changed
    assert world.layout.settings("ca").read_text() == before


async def test_what_cannot_be_done_is_a_sentence(world: StoppedWorld, issuing: Rollover, roots: RootRollover) -> None:
    """Unknown names, the last one of a family, a family without a root, another algorithm: nothing is changed."""
    before = world.layout.settings("ca").read_text()
    with pytest.raises(CeremonyError, match=r"no issuing CA nobody; there are: issuing-ecdsa, issuing-mldsa"):
        await issuing.retire("nobody")
    with pytest.raises(CeremonyError, match=r"profiles .*service.* need it: `ztca ca prepare --family mldsa`"):
        await issuing.retire(OLD)
    with pytest.raises(CeremonyError, match=r"no active root: `ztca ca prepare-root --family rsa`"):
        await issuing.prepare("rsa")
    with pytest.raises(CeremonyError, match="no signer-hsm"):
        await issuing.prepare("mldsa", place=Wanted(at_signer=True))
    with pytest.raises(CeremonyError, match="no root nobody"):
        await roots.retire("nobody")
    with pytest.raises(CeremonyError, match="is active"):
        await roots.retire(OLD_ROOT)
    assert world.layout.settings("ca").read_text() == before
    await issuing.retire(OLD, force=True)
    with pytest.raises(CeremonyError, match="only issuing CA that is active"):
        await issuing.retire("issuing-ecdsa", force=True)


async def test_without_the_roots_key_nothing_begins(
    world: StoppedWorld, issuing: Rollover, roots: RootRollover
) -> None:
    """It lies elsewhere: the sentence says where it was looked for, and names the option."""
    world.layout.root_key("mldsa").rename(world.layout.root / "away.key")
    for step in (issuing.prepare("mldsa"), roots.prepare("mldsa")):
        with pytest.raises(KeyNotFoundError, match=r"root-mldsa\.key.*--offline"):
            await step
    assert states(world) == {OLD: "active", OLD_ROOT: "active"}
    assert not await world.events("issuer.")


async def test_what_has_ended_issues_never_again(world: StoppedWorld, issuing: Rollover) -> None:
    """An issuing CA whose certificate is over is not activated, and nothing is changed."""
    await issuing.prepare("mldsa")
    before = world.layout.settings("ca").read_text()
    world.clock.advance(timedelta(days=3700))
    with pytest.raises(CeremonyError, match=f"{NEW} has ended: `ztca ca prepare --family mldsa` makes another"):
        await issuing.activate(NEW)
    assert world.layout.settings("ca").read_text() == before


@pytest.mark.parametrize("state", ["prepared", "retired"])
async def test_what_was_revoked_issues_never_again(world: StoppedWorld, issuing: Rollover, state: str) -> None:
    """An issuing CA on its root's CRL is not activated, be it new or a former one that is to come back."""
    await issuing.prepare("mldsa")
    name = NEW
    if state == "retired":
        await issuing.activate(NEW)
        name = OLD
    await revoke(world, name)
    before = world.layout.settings("ca").read_text()
    with pytest.raises(CeremonyError, match=f"{name} was revoked: `ztca ca prepare --family mldsa` makes another"):
        await issuing.activate(name)
    assert world.layout.settings("ca").read_text() == before


async def test_an_issuing_cas_blocked_key(world: StoppedWorld) -> None:
    """Its certificate is named as its root's to revoke, and the key is overdue until that has been done."""
    async with started(world) as core:
        old = core.hierarchy.issuing["mldsa"].certificate
        spki = old.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        blocked = BlockRequest(hashlib.sha256(spki).digest())
        answer = await core.block_list.add(OPERATOR, blocked)
        assert (answer.serials, answer.unrevoked) == ([], [IssuedByRoot(format_serial(old.serial_number), OLD_ROOT)])
        assert "mldsa" not in core.hierarchy.issuing
        for _ in range(2):
            assert await core.block_list.sweep() == 0
            assert core.block_list.metrics.overdue._value.get() == 1
        await revoke(world, OLD, "keyCompromise")
        assert await core.block_list.sweep() == 0
        assert core.block_list.metrics.overdue._value.get() == 0
        assert not (await core.block_list.add(OPERATOR, blocked)).unrevoked


async def revoke(world: StoppedWorld, name: str, reason: str = "cACompromise") -> None:
    """As `ztca ca root-crl --revoke` does, which asks the machine for the time."""
    item = next(item for item in world.settings.issuers if item.id == name)
    serial = load_chain(item.certificate.read_bytes())[0].serial_number
    database = await Database.open(world.settings.database_url, clock=world.clock)
    try:
        await revoke_by_root(CaStore(database), item.root, serial, reason, world.clock)
    finally:
        await database.close()


async def test_a_roots_crl_is_younger_than_the_one_before(world: StoppedWorld) -> None:
    """Where the machine's clock was moved back, the sentence says so, and nothing is signed or revoked."""
    (issuing,) = load_chain(world.layout.issuer_certificate("mldsa").read_bytes())
    world.clock.advance(timedelta(hours=-1))
    with pytest.raises(CeremonyError, match=r"CRL 1 of root-mldsa is of 2030-01-01 00:00:00 UTC, which is yet to come"):
        await renew_crl(world.layout, OLD_ROOT, "", f"{issuing.serial_number:x}", "superseded", world.clock)
    database = await Database.open(world.settings.database_url, clock=world.clock)
    row = await CaStore(database).by_serial(issuing.serial_number)
    await database.close()
    assert row is not None
    assert row.revoked_at is None


async def test_a_new_family_begins_with_a_root(world: StoppedWorld, issuing: Rollover, roots: RootRollover) -> None:
    """RSA keys have had certificates by the ECDSA issuer; once RSA has one, that is theirs."""
    assert (await roots.prepare("rsa")).id == "root-rsa"
    await roots.activate("root-rsa")
    assert (await issuing.prepare("rsa")).id == "issuing-rsa"
    await issuing.activate("issuing-rsa")
    async with started(world) as core:
        leaf, issuer = await issue(core, "rsa.example", "rsa-2048")
        assert issuer == core.hierarchy.cas["issuing-rsa"].issuer.certificate
        assert await has_status(core, world, "issuing-rsa", leaf)
    assert len(load_chain(world.layout.tls_ca_bundle.read_bytes())) == 2


async def test_a_new_issuing_ca_of_signer_hsm(made: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Its key is where the active one's is; it is made and proven under the deployment's key policy."""
    world = StoppedWorld.copied(made, tmp_path / "pki")
    await world.migration.migrate(BACKEND, rehearse_only=False, backends=world.backends, only=[OLD])
    await world.rollover(pool).prepare("mldsa")
    assert next(item.key for item in world.settings.issuers if item.id == NEW) == f"signer-hsm:ca.{NEW}/1"
    await world.rollover(pool).activate(NEW)
    async with started(world) as core:
        leaf, _ = await issue(core, "new.example")
        assert await has_status(core, world, NEW, leaf)
    with pytest.raises(CeremonyError, match=f"no back end nowhere; there are: {BACKEND}"):
        await world.rollover(pool).prepare("mldsa", place=Wanted(at_signer=True, backend="nowhere"))


def chains(trusted: x509.Certificate, leaf: x509.Certificate, others: list[x509.Certificate]) -> int:
    """How long the path is that cryptography's validator finds."""
    builder = verification.PolicyBuilder().store(verification.Store([trusted]))
    verifier = builder.time(leaf.not_valid_before_utc + timedelta(hours=2)).build_server_verifier(
        x509.DNSName(leaf.subject.rfc4514_string().removeprefix("CN="))
    )
    return len(verifier.verify(leaf, others))


@pytest.mark.parametrize("family", ["ecdsa", "mldsa"])
async def test_old_and_new_root_vouch_for_each_other(
    world: StoppedWorld, issuing: Rollover, roots: RootRollover, family: str
) -> None:
    """Who trusts one root alone believes chains of the other, by the validators that know the algorithm."""
    key = {"ecdsa": "ecdsa-p256", "mldsa": "ml-dsa-65"}[family]
    async with started(world) as core:
        old = await issue(core, "old.example", key)
    for step in (roots.prepare(family), roots.activate(f"root-{family}-2"), issuing.prepare(family)):
        await step
    await issuing.activate(f"issuing-{family}-2")
    async with started(world) as core:
        new = await issue(core, "new.example", key)
    trust = world.layout.trust
    old_root, new_root = (load_chain((trust / f"root-{family}{end}.pem").read_bytes())[0] for end in ("", "-2"))
    reverse = load_chain((trust / "cross" / f"root-{family}-by-root-{family}-2.pem").read_bytes())[0]
    assert new[2].issuer == old_root.subject  # the cross-certificate goes with the chain
    assert (chains(old_root, new[0], list(new[1:])), chains(new_root, new[0], list(new[1:]))) == (4, 3)
    assert (chains(new_root, old[0], [*old[1:], reverse]), chains(old_root, old[0], list(old[1:]))) == (4, 3)
    if family == "ecdsa":  # the machine's own openssl knows no ML-DSA
        by_openssl(world.layout.root, old_root, new)
        by_openssl(world.layout.root, new_root, (*old, reverse))


def by_openssl(directory: Path, root: x509.Certificate, chain: tuple[x509.Certificate, ...]) -> None:
    """`openssl verify -x509_strict` accepts the chain."""
    files = {name: directory / f"{name}.pem" for name in ("root", "leaf", "above")}
    files["root"].write_bytes(to_pem([root]))
    files["leaf"].write_bytes(to_pem([chain[0]]))
    files["above"].write_bytes(to_pem(chain[1:]))
    at = str(int((chain[0].not_valid_before_utc + timedelta(hours=2)).timestamp()))
    told = openssl(
        "verify", "-x509_strict", "-attime", at, "-CAfile", files["root"], "-untrusted", files["above"], files["leaf"]
    )
    assert "leaf.pem: OK" in told


async def test_a_root_is_retired_when_nothing_needs_it(
    world: StoppedWorld, issuing: Rollover, roots: RootRollover
) -> None:
    """Not before its issuing CAs are, identities are renewed and the last certificate has ended; then all forget it."""
    other = make_csr(generate_private_key(ALGORITHMS["ml-dsa-65"]), common_name="Team CA")
    await Subordination(world.deployment, roots.pool).certify(other, Terms(name="Team CA"))
    await roots.prepare("mldsa")
    await roots.activate(NEW_ROOT)
    with pytest.raises(CeremonyError, match=f"{OLD} is below {OLD_ROOT} and not retired"):
        await roots.retire(OLD_ROOT)
    await issuing.prepare("mldsa")
    await issuing.activate(NEW)
    with pytest.raises(CeremonyError, match="the services renew theirs"):
        await roots.retire(OLD_ROOT, force=True)
    renew_identities(world)
    with pytest.raises(CeremonyError, match="are valid until") as caught:
        await roots.retire(OLD_ROOT)
    assert re.search(
        rf"valid until 2034-12-30 22:59 UTC.*: 1 sub-ca of {OLD_ROOT} until 2034-12-30 22:59, "
        rf"\d client of {OLD} until .*, \d service of {OLD} until .*Wait: superseded, {OLD_ROOT} certifies nothing",
        str(caught.value),
    ), caught.value
    assert (await roots.retire(OLD_ROOT, force=True)).changed
    assert not (await roots.retire(OLD_ROOT)).changed
    assert not (world.layout.trust / f"{OLD_ROOT}.pem").exists()
    assert not (world.layout.issuers / f"{OLD}.pem").exists()
    assert len(load_chain(world.layout.trust_bundle.read_bytes())) == 2
    async with started(world) as core:
        chain = await issue(core, "last.example")
        assert len(chain) == 2
        assert core.publisher.current[OLD].number >= 1
        assert core.publisher.current[OLD_ROOT].number == 1
    with pytest.raises(CeremonyError, match="trusted no more"):
        await roots.activate(OLD_ROOT)


def renew_identities(world: StoppedWorld) -> None:
    """As the services do: whoever has shown the old issuer's certificates shows the new one's."""

    async def renew() -> None:
        async with started(world) as core:
            chain = to_pem(await issue(core, "identity.example"))
        for path in world.layout.root.glob("**/cert.pem"):
            path.write_bytes(chain)

    with ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, renew()).result()


Step = Callable[[StoppedWorld, ThreadPoolExecutor], Awaitable[object]]
STEPS: dict[str, Step] = {
    "prepare-root": lambda world, pool: world.root_rollover(pool).prepare("mldsa"),
    "activate-root": lambda world, pool: world.root_rollover(pool).activate(NEW_ROOT),
    "prepare": lambda world, pool: world.rollover(pool).prepare("mldsa"),
    "activate": lambda world, pool: world.rollover(pool).activate(NEW),
    "retire": lambda world, pool: world.rollover(pool).retire(OLD),
}
SAID = {"prepare-root": 8, "activate-root": 2, "prepare": 4, "activate": 3, "retire": 1}

DONE = {  # the event of each step, and how many issuing CAs and roots there are then
    "prepare-root": ("root.prepared", 3),
    "activate-root": ("root.activated", 3),
    "prepare": ("issuer.prepared", 4),
    "activate": ("issuer.activated", 4),
    "retire": ("issuer.retired", 4),
}


class Killing(list[str]):
    """Takes the lines that a step says, and kills the process at one of them: each follows something durable."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last

    def append(self, line: str) -> None:
        """Take a line."""
        super().append(line)
        if len(self) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(world: StoppedWorld, name: str, last: int) -> int:
    """Run a step in a process that is killed at this line; the signal that ended it."""
    child = os.fork()
    if child == 0:
        world.said = Killing(last)
        with ThreadPoolExecutor(2) as pool:
            asyncio.run(_awaited(STEPS[name](world, pool)))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def _awaited(step: Awaitable[object]) -> None:
    await step


@pytest.fixture(scope="module")
def before(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The deployment as it is before each step."""
    found, directory = {}, made
    for name, step in STEPS.items():
        found[name] = directory
        world = StoppedWorld.copied(directory, tmp_path_factory.mktemp(name) / "pki")
        with ThreadPoolExecutor(2) as pool:
            asyncio.run(_awaited(step(world, pool)))
        assert len(world.said) == SAID[name], world.said
        directory = world.layout.root
    return found


@pytest.mark.parametrize(("name", "line"), [(name, n + 1) for name, count in SAID.items() for n in range(count)])
def test_a_killed_step_is_repeated(before: dict[str, Path], tmp_path: Path, name: str, line: int) -> None:
    """SIGKILL behind each durable part: the CA starts as it is, and the same command completes it, once."""
    world = StoppedWorld.copied(before[name], tmp_path / "pki")
    assert killed(world, name, line) == -signal.SIGKILL

    async def go_on() -> None:
        if line >= SAID[name] - 1:  # the settings are changed
            async with started(world) as core:
                await issue(core, "meanwhile.example")
        with ThreadPoolExecutor(2) as pool:
            await STEPS[name](world, pool)

    asyncio.run(go_on())
    event, count = DONE[name]
    assert len(states(world)) == count
    assert asyncio.run(world.events(event))
