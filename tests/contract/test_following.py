"""A running CA follows its settings: what comes has CRL and OCSP before it issues, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.crl import VerifiedCrl
from pkicore.errors import KeyAccessError, KeyNotFoundError
from pkicore.keys.passphrase import read_passphrase
from pkicore.x509.certificate import crl_urls, load_chain
from pkicore.x509.names import Names
from services.ca.app import status_application
from services.ca.cli.roots import revoke_by_root
from services.ca.core import Core
from services.ca.errors import UnknownProfileError
from services.ca.following import Following
from services.ca.hierarchy import KeyRing
from services.ca.transport import Standing
from services.ca.wire import CertificateRequest, Identifier, RevocationRequest, parse_serial
from services.chassis.errors import SettingsError
from services.chassis.observability import HttpMetrics
from tests.support.ca_world import OPERATOR
from tests.support.pki import make_csr
from tests.support.stopped_world import StoppedWorld

OLD, NEW = "issuing-mldsa", "issuing-mldsa-2"


@dataclass
class Live:
    """A CA that runs, without listeners, and its deployment's files."""

    world: StoppedWorld
    core: Core
    standing: Standing
    following: Following
    pool: ThreadPoolExecutor

    def status(self) -> httpx.AsyncClient:
        """Its status listener."""
        app = status_application(self.core, 60, HttpMetrics(CollectorRegistry()), self.world.clock)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ca")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment, fresh from its ceremony; tests work on copies."""
    directory = tmp_path_factory.mktemp("ceremony") / "pki"
    asyncio.run(StoppedWorld.make(directory))
    return directory


@asynccontextmanager
async def running(made: Path, directory: Path) -> AsyncIterator[Live]:
    """The CA of a copy."""
    world = StoppedWorld.copied(made, directory)
    world.clock.advance(timedelta(seconds=2))
    settings = world.settings
    with ThreadPoolExecutor(2) as pool:
        async with world.ca() as core:
            standing = Standing.of(settings, core.store, world.clock)
            await standing.crls.refresh()
            passphrase = read_passphrase(settings.passphrase_file)
            ring = KeyRing(lambda _uri: passphrase, pool)
            publishing = asyncio.create_task(core.publisher.run())
            try:
                yield Live(world, core, standing, Following(settings, settings.status_url, ring, core, standing), pool)
            finally:
                publishing.cancel()


def request(name: str) -> CertificateRequest:
    """For an ML-DSA key."""
    csr = make_csr(generate_private_key(ALGORITHMS["ml-dsa-65"]), names=Names.build(dns=[name]))
    return CertificateRequest(csr, "server", (Identifier("dns", name),), name)


async def issuer_of(core: Core, wanted: CertificateRequest) -> str:
    """Who issues it."""
    (leaf, issuer, *_) = load_chain((await core.issuance.issue(OPERATOR, wanted)).answer.chain.encode())
    leaf.verify_directly_issued_by(issuer)
    return next(name for name, ca in core.hierarchy.cas.items() if ca.issuer.certificate == issuer)


async def test_a_running_ca_takes_up_what_is_prepared_and_activated(made: Path, tmp_path: Path) -> None:
    """CRL, responder and its own trust come with the preparation; requests go to the new one after the activation."""
    async with running(made, tmp_path / "pki") as live:
        first = request("first.example")
        assert await issuer_of(live.core, first) == OLD
        assert not await live.following.look()
        await live.world.rollover(live.pool).prepare("mldsa")
        assert await live.following.look()
        assert live.core.publisher.current[NEW].number == 1
        live.core.responders.of(NEW).certificate.verify_directly_issued_by(
            live.core.hierarchy.cas[NEW].issuer.certificate
        )
        assert len(live.standing.crls.current()) == 5
        assert await issuer_of(live.core, request("still.example")) == OLD
        await live.world.rollover(live.pool).activate(NEW)
        assert await live.following.look()
        assert await issuer_of(live.core, request("new.example")) == NEW
        assert await issuer_of(live.core, first) == OLD  # asked again, it is the same certificate
        async with live.status() as http:
            assert (await http.get("/crl/mldsa")).content == (await http.get(f"/crl/{NEW}")).content
            assert (await http.get(f"/crl/{OLD}")).status_code == 200
            assert (await http.get(f"/aia/{NEW}")).status_code == 200


async def test_shards_are_published_before_a_certificate_names_them(made: Path, tmp_path: Path) -> None:
    """With four, with one again, and after a restart: whatever list a certificate names is there and speaks for it."""

    async def set_shards(live: Live, line: str, lists: dict[str, str]) -> None:
        file = live.world.layout.settings("ca")
        file.write_text(re.sub(rf'(crl_shards = .\n)?id = "{OLD}"', f'{line}id = "{OLD}"', file.read_text(), count=1))
        looking = asyncio.create_task(live.following.look())
        await asyncio.sleep(0.1)  # in this second no CRL can follow the last one
        lists |= await named_lists(live.core, f"during-{len(lists)}.example", 1)
        live.world.clock.advance(timedelta(seconds=1))
        assert await looking

    lists = dict[str, str]()
    async with running(made, tmp_path / "pki") as live:
        await set_shards(live, "crl_shards = 4\n", lists)
        assert set(lists) == {OLD}
        lists |= await named_lists(live.core, "sharded.example", 6)
        assert len(lists) > 1
        sharded = dict(lists)
        await set_shards(live, "", lists)
        assert set(await named_lists(live.core, "again.example", 2)) == {OLD}
        assert lists.keys() <= live.core.publisher.current.keys()
    live.world.clock.advance(timedelta(seconds=1))
    async with live.world.ca() as restarted:
        for path, serial in sharded.items():
            await restarted.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=serial))
            live.world.clock.advance(timedelta(seconds=1))
            await restarted.publisher.publish_due()
            for each in (path, OLD):
                crl = x509.load_der_x509_crl(restarted.publisher.current[each].der)
                assert crl.get_revoked_certificate_by_serial_number(parse_serial(serial)) is not None


async def named_lists(core: Core, name: str, count: int) -> dict[str, str]:
    """Issue so many; the lists that they name, each with a serial. List and complete list are there and speak of it."""
    found = dict[str, str]()
    for number in range(count):
        answer = (await core.issuance.issue(OPERATOR, request(f"{number}-{name}"))).answer
        (leaf, issuer, *_) = load_chain(answer.chain.encode())
        (url,) = crl_urls(leaf)
        path = url.partition("/crl/")[2]
        for each in (path, OLD):
            crl = VerifiedCrl.verify(core.publisher.current[each].der, issuer, core.clock.now())
            assert crl.covers([url])
        found[path] = answer.serial
    return found


async def test_requests_in_flight_are_answered(made: Path, tmp_path: Path) -> None:
    """Those that come while the issuer changes get certificates, each by the old one or by the new."""
    async with running(made, tmp_path / "pki") as live:
        await live.world.rollover(live.pool).prepare("mldsa")
        await live.following.look()
        await live.world.rollover(live.pool).activate(NEW)
        wanted = [request(f"n{number}.example") for number in range(20)]
        asked = [asyncio.create_task(issuer_of(live.core, item)) for item in wanted[:10]]
        looking = asyncio.create_task(live.following.look())
        found = await asyncio.gather(*asked)
        await looking
        found += await asyncio.gather(*(issuer_of(live.core, item) for item in wanted[10:]))
        assert set(found[:10]) <= {OLD, NEW}
        assert set(found[10:]) == {NEW}


async def test_what_cannot_be_taken_up_changes_nothing(made: Path, tmp_path: Path) -> None:
    """A missing key, or a file that makes no sense, is an error of that look; put right, the next one takes it up."""
    async with running(made, tmp_path / "pki") as live:
        await live.world.rollover(live.pool).prepare("mldsa")
        key = live.world.layout.key("ca", NEW)
        key.rename(key.with_suffix(".away"))
        with pytest.raises(KeyAccessError, match=NEW):
            await live.following.look()
        assert await issuer_of(live.core, request("a.example")) == OLD
        key.with_suffix(".away").rename(key)
        file = live.world.layout.settings("ca")
        text = file.read_text()
        file.write_text(text + "nonsense")
        with pytest.raises(SettingsError):
            await live.following.look()
        file.write_text(text)
        assert await live.following.look()


async def test_an_issuing_ca_below_another_root_is_not_taken_up(made: Path, tmp_path: Path) -> None:
    """Settings that put it below a root which has not certified it are refused, and everything is as before."""
    async with running(made, tmp_path / "pki") as live:
        file = live.world.layout.settings("ca")
        text = file.read_text()
        file.write_text(text.replace('root = "root-ecdsa"', 'root = "root-mldsa"'))
        with pytest.raises(KeyNotFoundError, match="issuing-ecdsa names the root root-mldsa, which has not certified"):
            await live.following.look()
        assert await issuer_of(live.core, request("still.example")) == OLD
        file.write_text(text)
        assert not await live.following.look()


async def test_a_revoked_issuing_ca_issues_nothing_any_more(made: Path, tmp_path: Path) -> None:
    """Once its root has revoked it, requests are refused, after a restart too, until another is activated."""

    async def refused(core: Core) -> None:
        with pytest.raises(UnknownProfileError, match="the family mldsa, of which no issuing CA is active here"):
            await core.issuance.issue(OPERATOR, request("late.example"))

    async with running(made, tmp_path / "pki") as live:
        world, core = live.world, live.core
        serial = core.hierarchy.cas[OLD].issuer.certificate.serial_number
        await revoke_by_root(core.store, "root-mldsa", serial, "keyCompromise", world.clock)
        await core.log.refresh()
        await refused(core)
        file = world.layout.settings("ca")
        file.write_text(file.read_text().replace('id = "issuing-ecdsa"', 'crl_shards = 2\nid = "issuing-ecdsa"', 1))
        world.clock.advance(timedelta(seconds=1))  # for the complete list that speaks of the shards
        assert await live.following.look()
        await refused(core)
        world.clock.advance(timedelta(seconds=2))
        async with world.ca() as restarted:
            await refused(restarted)
        await world.rollover(live.pool).prepare("mldsa")
        await world.rollover(live.pool).activate(NEW)
        assert await live.following.look()
        assert await issuer_of(core, request("new.example")) == NEW


async def test_a_root_comes_with_its_cross_certificates(made: Path, tmp_path: Path) -> None:
    """The CA trusts both; AIA serves each root with the certificate of its key by the other, as PKCS#7."""
    async with running(made, tmp_path / "pki") as live:
        believed: list[tuple[x509.Certificate, ...]] = []
        live.standing.subscribe(believed.append)
        await live.world.root_rollover(live.pool).prepare("ecdsa")
        assert await live.following.look()
        assert len(believed[-1]) == 3
        async with live.status() as http:
            for root, other in (("root-ecdsa", "root-ecdsa-2"), ("root-ecdsa-2", "root-ecdsa")):
                answer = await http.get(f"/aia/{root}.p7c")
                assert answer.headers["content-type"] == "application/pkcs7-mime"
                found = pkcs7.load_der_pkcs7_certificates(answer.content)
                (above,) = load_chain((live.world.layout.trust / f"{other}.pem").read_bytes())
                assert {item.issuer for item in found} == {found[0].subject, above.subject}
                next(item for item in found if item.issuer == above.subject).verify_directly_issued_by(above)
            assert (await http.get("/aia/nobody.p7c")).status_code == 404
            assert (await http.get("/aia/issuing-ecdsa.p7c")).status_code == 404


async def test_alternate_chains_follow_a_rollover(made: Path, tmp_path: Path) -> None:
    """Below the old root the alternate leads to the new one, below the new straight to it; no restart is needed."""
    async with running(made, tmp_path / "pki") as live:
        world, core = live.world, live.core
        assert (await core.issuance.issue(OPERATOR, request("before.example"))).answer.alternates == ()
        await world.root_rollover(live.pool).prepare("mldsa")
        assert await live.following.look()
        old, new = (load_chain((world.layout.trust / f"root-mldsa{end}.pem").read_bytes())[0] for end in ("", "-2"))
        answer = (await core.issuance.issue(OPERATOR, request("old.example"))).answer
        assert ends(answer.chain, *answer.alternates) == [(2, old.subject), (3, new.subject)]
        for step in (
            world.root_rollover(live.pool).activate("root-mldsa-2"),
            world.rollover(live.pool).prepare("mldsa"),
        ):
            await step
        await world.rollover(live.pool).activate(NEW)
        assert await live.following.look()
        answer = (await core.issuance.issue(OPERATOR, request("new.example"))).answer
        assert ends(answer.chain, *answer.alternates) == [(3, old.subject), (2, new.subject)]


def ends(*chains: str) -> list[tuple[int, x509.Name]]:
    """Length and last issuer of each; all are of one leaf, and each certificate is signed by the next."""
    loaded = [load_chain(chain.encode()) for chain in chains]
    assert len({chain[0] for chain in loaded}) == 1
    for chain in loaded:
        for below, above in pairwise(chain):
            below.verify_directly_issued_by(above)
    return [(len(chain), chain[-1].issuer) for chain in loaded]
