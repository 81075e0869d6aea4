"""What `ztca keys` does to a stopped deployment: rolling, under the deployment's own key policy, and the files' end."""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pkicore.algorithms import ALGORITHMS, algorithm_of, generate_private_key, known_public_key
from pkicore.crl import VerifiedCrl
from pkicore.errors import PkiError, RevokedError
from pkicore.ocsp import build_request, verify_response
from pkicore.x509.certificate import load_chain
from pkicore.x509.chain import verify_chain
from pkicore.x509.names import Names
from services.ca.core import Core
from services.ca.errors import CeremonyError
from services.ca.wire import CertificateRequest, Identifier, RevocationRequest
from services.signer_hsm.wire import ApprovalRequest
from tests.support.ca_world import OPERATOR
from tests.support.pki import make_csr
from tests.support.signer_world import ADMIN, SECOND
from tests.support.stopped_world import BACKEND, StoppedWorld

OLD, NEW = "issuing-mldsa", "issuing-mldsa-2"
ECDSA = "issuing-ecdsa"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with file keys, fresh from its ceremony; tests work on copies."""
    directory = tmp_path_factory.mktemp("ceremony") / "pki"
    asyncio.run(StoppedWorld.make(directory))
    return directory


@pytest.fixture(scope="module")
def made_equipped(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after its ECDSA key was moved: it has signer-hsm and a key policy of its own."""
    world = StoppedWorld.copied(made, tmp_path_factory.mktemp("equipped") / "pki")
    asyncio.run(world.migration.migrate(BACKEND, rehearse_only=False, backends=world.backends, only=[ECDSA]))
    return world.layout.root


@pytest.fixture
def world(made: Path, tmp_path: Path) -> StoppedWorld:
    """File keys, no signer-hsm."""
    return StoppedWorld.copied(made, tmp_path / "pki")


@pytest.fixture
def equipped(made_equipped: Path, tmp_path: Path) -> StoppedWorld:
    """signer-hsm has the ECDSA key."""
    return StoppedWorld.copied(made_equipped, tmp_path / "pki")


async def issue(core: Core, name: str) -> x509.Certificate:
    """An ML-DSA certificate for a workload, as an operator asks for it."""
    csr = make_csr(generate_private_key(ALGORITHMS["ml-dsa-65"]), names=Names.build(dns=[name]))
    wanted = CertificateRequest(csr, "server", (Identifier("dns", name),), name)
    issued = (await core.issuance.issue(OPERATOR, wanted)).answer
    return x509.load_pem_x509_certificate(issued.certificate.encode())


async def is_good(core: Core, world: StoppedWorld, leaf: x509.Certificate, name: str) -> bool:
    """By the chain to the root, and by the issuer's CRL and OCSP, which say the same."""
    issuer, now = core.hierarchy.cas[name].issuer.certificate, world.clock.now()
    verify_chain(leaf, (issuer,), load_chain(world.layout.trust_bundle.read_bytes()), now, "server")
    crl = VerifiedCrl.verify(core.publisher.current[name].der, issuer, now)
    answer = (await core.answers.answer(build_request(leaf, issuer))).der
    if leaf.serial_number in crl.serials:
        with pytest.raises(RevokedError):
            verify_response(answer, leaf, issuer, now)
        return False
    return verify_response(answer, leaf, issuer, now).serial == leaf.serial_number


async def test_an_ml_dsa_issuer_rolls_to_a_key_of_signer_hsm(world: StoppedWorld) -> None:
    """Certificates of old and new issuer verify with chain, CRL and OCSP; the old one's can still be revoked.

    When they have expired, the old issuer's files end, its OCSP responder's with them.
    """
    async with world.ca() as core:
        old = await issue(core, "old.example")
    (rolled,) = await world.migration.roll(BACKEND, rehearse_only=False, backends=world.backends, only=[OLD])
    assert (rolled.successor, rolled.key, rolled.payload_kind) == (NEW, f"signer-hsm:ca.{NEW}/1", "mu")
    assert {item.id: item.retired for item in world.settings.issuers} == {ECDSA: False, OLD: True, NEW: False}
    async with world.ca() as core:
        certificate = core.hierarchy.cas[NEW].issuer.certificate
        assert algorithm_of(known_public_key(certificate.public_key())).name == "ml-dsa-65"
        new = await issue(core, "new.example")
        assert new.issuer == certificate.subject != old.issuer
        assert await is_good(core, world, old, OLD)
        assert await is_good(core, world, new, NEW)
        await core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=f"{old.serial_number:x}"))
        world.clock.advance(timedelta(seconds=1))
        await core.publisher.publish_due()
        assert not await is_good(core, world, old, OLD)
        assert await is_good(core, world, new, NEW)
    await there_and_back(world, new)
    await the_files_end(world)
    async with world.ca() as core:
        last = await issue(core, "last.example")
        assert await is_good(core, world, last, NEW)
    with pytest.raises(CeremonyError, match="nothing to go back to"):
        await world.migration.roll_back()


async def there_and_back(world: StoppedWorld, new: x509.Certificate) -> None:
    """The old issuer issues again, and what the new one has issued can be revoked; forward again it is the same one."""
    await world.migration.roll_back()
    assert {item.id: item.retired for item in world.settings.issuers} == {ECDSA: False, OLD: False, NEW: True}
    async with world.ca() as core:
        again = await issue(core, "again.example")
        assert await is_good(core, world, again, OLD)
        assert await is_good(core, world, new, NEW)
        await core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=f"{new.serial_number:x}"))
        world.clock.advance(timedelta(seconds=1))
        await core.publisher.publish_due()
        assert not await is_good(core, world, new, NEW)
    (rolled,) = await world.migration.roll(BACKEND, rehearse_only=False, only=[OLD])
    assert (rolled.successor, rolled.is_new) == (NEW, False)
    assert {item.id: item.retired for item in world.settings.issuers} == {ECDSA: False, OLD: True, NEW: False}


async def the_files_end(world: StoppedWorld) -> None:
    """Not before the last certificate has expired, and both, also where the first attempt is cut short in between."""
    files = [world.layout.key("ca", name) for name in (OLD, f"ocsp-{OLD}")]
    sealed = [file.read_bytes() for file in files]
    with pytest.raises(CeremonyError, match="are valid until"):
        await world.destruction.destroy_files(after=timedelta(0))
    world.clock.advance(timedelta(days=400))
    files[1].unlink()
    files[1].mkdir()  # so that it cannot be destroyed
    with pytest.raises(OSError, match="directory"):
        await world.destruction.destroy_files(after=timedelta(0))
    files[1].rmdir()
    files[1].write_bytes(sealed[1])
    gone = await world.destruction.destroy_files(after=timedelta(0))
    hashes = [hashlib.sha256(content).hexdigest() for content in sealed]
    ended = [(item["file"], item["sealed_sha256"]) for item in reversed(gone)]  # the issuer's own key is the last to go
    assert ended == list(zip(map(str, files), hashes, strict=True))
    assert not any(file.exists() for file in files)
    recorded = [detail["sealed_sha256"] for _, detail in await world.events("key.file-destroyed")]
    assert set(recorded) == set(hashes)
    assert [item.id for item in world.settings.issuers] == [ECDSA, NEW]
    assert world.layout.key("ca", f"ocsp-{NEW}").exists()
    assert "previous" not in world.layout.settings("ca").read_text()


async def test_without_approvals_a_migration_goes_on_as_it_did(equipped: StoppedWorld) -> None:
    """The default policy lets operators import; the second key follows under it, after a rehearsal."""
    (moved,) = await equipped.migration.migrate(BACKEND, rehearse_only=False)
    assert moved.after == f"signer-hsm:ca.{OLD}/1"
    assert equipped.said[0].startswith(f"rehearsal of {OLD}")
    await back_to_the_files(equipped)


async def back_to_the_files(world: StoppedWorld) -> None:
    """After the way back the CA signs with its files; forward again it takes the keys that are in the back end."""
    told = await world.migration.roll_back()
    assert [item.after for item in told] == [f"file:{world.layout.key('ca', name)}" for name in (ECDSA, OLD)]
    assert {item.key for item in world.settings.issuers} == {item.after for item in told}
    async with world.ca() as core:
        leaf = await issue(core, "back.example")
        assert await is_good(core, world, leaf, OLD)
    again = await world.migration.migrate(BACKEND, rehearse_only=False)
    assert [item.after for item in again] == [f"signer-hsm:ca.{name}/1" for name in (ECDSA, OLD)]


async def test_a_missing_root_key_is_found_at_the_rehearsal(equipped: StoppedWorld) -> None:
    """The roots are offline: without theirs nothing begins."""
    before = equipped.layout.settings("ca").read_text()
    equipped.layout.root_key("mldsa").unlink()
    with pytest.raises(PkiError, match=r"root-mldsa\.key"):
        await equipped.migration.roll(BACKEND, rehearse_only=True)
    assert equipped.layout.settings("ca").read_text() == before


def want_approvals(world: StoppedWorld) -> None:
    """Life-cycle acts need one other from now on."""
    world.change_key_policy('id = "operators-life-cycle"\n', 'id = "operators-life-cycle"\napprovals = 1\n')


async def approve(world: StoppedWorld, sentence: str, *approvers: object) -> None:
    """Type what a refusal says, as each of these operators, while the deployment runs."""
    found = re.search(r"`keyctl approvals approve (\S+) (\S+)((?: --parameter \S+=\S+)+)`", sentence)
    assert found is not None, sentence
    parameters = dict(pair.split("=", 1) for pair in found[3].replace(" --parameter", "").split())
    async with world.signer() as signer:
        for approver in approvers:
            assert approver in {ADMIN, SECOND}
            client = signer.client(ADMIN if approver == ADMIN else SECOND)
            await client.approve(ApprovalRequest(found[1], found[2], None, parameters))


@pytest.mark.parametrize("roll", [False, True], ids=["import", "create"])
async def test_a_migration_needs_the_approvals_of_the_key_policy(equipped: StoppedWorld, roll: bool) -> None:  # noqa: FBT001 - a parameter
    """None, or the operator's own, is a refusal that names the command; another's lets it through, once."""
    want_approvals(equipped)

    async def go(*, rehearse_only: bool = False) -> object:
        act = equipped.migration.roll if roll else equipped.migration.migrate
        return await act(BACKEND, rehearse_only=rehearse_only)

    before = equipped.layout.settings("ca").read_text()
    with pytest.raises(CeremonyError, match=r"no rehearsal: .*keys\.toml does not let .*operator/admin"):
        await go(rehearse_only=True)
    with pytest.raises(CeremonyError, match="1 more must approve") as refused:
        await go()
    await approve(equipped, str(refused.value), ADMIN)
    with pytest.raises(CeremonyError, match="1 more must approve"):
        await go()
    assert equipped.layout.settings("ca").read_text() == before
    await approve(equipped, str(refused.value), SECOND)
    assert await go()
    async with equipped.signer() as signer:
        assert [item.approver for item in await signer.client(ADMIN).approvals("ca")] == [
            f'{{"spiffe_id":"{ADMIN}"}}'
        ]  # the other's is used up


async def test_files_are_not_destroyed_past_the_key_policy(equipped: StoppedWorld) -> None:
    """Where destroying a key takes approvals, its file stays, and the sentence says what to do."""
    want_approvals(equipped)
    with pytest.raises(CeremonyError, match=f"destroy ca.{ECDSA} with others' approval .*count"):
        await equipped.destruction.destroy_files(after=timedelta(0))
    assert equipped.layout.key("ca", ECDSA).exists()
    assert await equipped.events("key.file-destr") == []
    equipped.change_key_policy("approvals = 1\n", "")
    (gone,) = await equipped.destruction.destroy_files(after=timedelta(0))
    assert gone["file"] == str(equipped.layout.key("ca", ECDSA))


@pytest.mark.parametrize("act", ["import", "create", "destroy"])
async def test_what_no_rule_allows_the_operator_is_refused(equipped: StoppedWorld, act: str) -> None:
    """The sentence says which act to add."""
    equipped.change_key_policy(f'    "{act}",\n', "")
    acts = {
        "import": equipped.migration.migrate(BACKEND, rehearse_only=False),
        "create": equipped.migration.roll(BACKEND, rehearse_only=False),
        "destroy": equipped.destruction.destroy_files(after=timedelta(0)),
    }
    refused = acts.pop(act)
    for other in acts.values():
        other.close()
    with pytest.raises(CeremonyError, match=f'add "{act}" to the `acts`'):
        await refused


@pytest.mark.parametrize("roll", [False, True], ids=["import", "roll"])
async def test_a_key_that_the_ca_could_not_sign_with_is_refused_in_the_rehearsal(
    equipped: StoppedWorld,
    roll: bool,  # noqa: FBT001 - a parameter
) -> None:
    """keys.toml allows digests only, and an ML-DSA key takes mu: the sentence says what to add, to which rule."""
    equipped.change_key_policy('    "mu",\n', "")
    act = equipped.migration.roll if roll else equipped.migration.migrate
    with pytest.raises(CeremonyError, match='add "mu" to `kinds` of the rule ca-signs, and count `version` up'):
        await act(BACKEND, rehearse_only=True)
    async with equipped.signer() as signer:
        states = {key.id: key.state for key in (await signer.client(ADMIN).keys("ca")).keys}
    assert {state for name, state in states.items() if "rehearsal" in name} == {"destroyed"}
    assert not any(OLD in name for name in states)


async def test_a_signer_that_is_elsewhere_gets_no_twin(equipped: StoppedWorld) -> None:
    """Its settings were moved to another host: the commands do not equip the deployment anew, over its key policy."""
    equipped.layout.settings("signer-hsm").unlink()
    policy = equipped.layout.key_policy.read_bytes()
    with pytest.raises(CeremonyError, match="take it back for this"):
        await equipped.migration.migrate(BACKEND, rehearse_only=False, backends=equipped.backends)
    with pytest.raises(CeremonyError, match="take it back for this"):
        await equipped.destruction.destroy_files(after=timedelta(0))
    assert equipped.layout.key_policy.read_bytes() == policy
