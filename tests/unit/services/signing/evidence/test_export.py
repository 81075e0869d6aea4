"""Archives of evidence, checked with what an auditor's machine has."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.audit.segments import Segment, verify_segment
from pkicore.errors import MalformedError
from services.chassis.audit import Archiver, ArchiveRules, audit_records
from services.chassis.database import AuditEvent
from services.signing.errors import NotFoundError
from services.signing.evidence.archive import EvidenceError
from services.signing.evidence.audit_extract import verify_extract
from services.signing.evidence.export import KEPT_DAYS, ExportRequest
from services.signing.evidence.manifest import EVIDENCE_TYPE
from services.signing.retention import RetentionRule
from services.signing.store import NewSignature, StoredSignature
from services.signing.verification import verify_hybrid
from services.signing.wire import SignatureRecord
from tests.support.evidence_world import ALICE, MALLORY, PROVENANCE, EvidenceWorld, evidence_world
from tests.support.pki import MemoryKey

ARTEFACT = b"the artefact\n"
SBOM = b'{"bomFormat":"CycloneDX","specVersion":"1.6"}' + b" " * 200_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EvidenceWorld]:
    """Signatures of acme are kept ten years."""
    async with evidence_world(tmp_path, RetentionRule(tenant="acme", keep="10y")) as made:
        yield made


async def signed(world: EvidenceWorld, name: str = "app.bin") -> SignatureRecord:
    """A release of one artefact, with SBOM and provenance."""
    return await world.sign({name: hashlib.sha256(ARTEFACT).hexdigest()}, sbom=SBOM, provenance=PROVENANCE)


def unpacked(world: EvidenceWorld, evidence_id: str, directory: Path) -> Path:
    """The archive as `tar` unpacks it."""
    directory.mkdir()
    subprocess.run(["tar", "-xf", world.evidence.path(evidence_id), "-C", directory], check=True)
    (root,) = directory.iterdir()
    return root


async def test_archive_holds_all_of_a_release(world: EvidenceWorld, tmp_path: Path) -> None:
    """Every file that is served, records, keys, policies, audit lines, report and manifest are in it."""
    record = await signed(world)
    archive = await world.export(record.id)
    root = unpacked(world, archive.id, tmp_path / "out")
    assert root.name == "app-1.0"
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    served = {f"signatures/{record.id}/{one.name}" for one in await world.store.artefacts(record.id)}
    assert served < names
    assert {f"signatures/{record.id}/{name}" for name in ("sbom", "provenance", "record.json")} < names
    assert {"keys/acme.es256.1.pem", "keys/acme.mldsa65.1.pem"} < names
    assert {f"policies/{record.policy.sha256}/all.cedar", "trusted_root.json"} < names
    assert {"manifest.json", "SHA256SUMS", "VERIFY.md", "report.md", "report.json", "retention.json"} < names
    assert (root / f"signatures/{record.id}/sbom").read_bytes() == SBOM
    assert (root / f"signatures/{record.id}/record.json").read_bytes() == record.to_json()
    assert world.evidence.path(archive.id).stat().st_mode & 0o077 == 0
    assert hashlib.sha256(world.evidence.path(archive.id).read_bytes()).hexdigest() == archive.sha256


async def test_commands_of_its_own_text_verify_it(world: EvidenceWorld, tmp_path: Path) -> None:
    """The shell blocks 1, 2, 3 and 5 of VERIFY.md pass as they stand, and fail when a file was changed."""
    record = await signed(world)
    root = unpacked(world, (await world.export(record.id)).id, tmp_path / "out")
    (root / "app.bin").write_bytes(ARTEFACT)
    blocks = [part.partition("```")[0] for part in (root / "VERIFY.md").read_text().split("```sh\n")[1:]]
    printed = [_shell(block, root) for block in blocks[:5]]
    assert printed[1] == printed[2] == "Verified OK\n"
    assert printed[4].split()[0] == record.policy.sha256
    changed = root / "report.md"
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(subprocess.CalledProcessError):
        _shell(blocks[0], root)
    (root / "manifest.json").write_bytes(b"{}")
    with pytest.raises(subprocess.CalledProcessError):
        _shell(blocks[1], root)


async def test_manifest_is_signed_as_evidence_by_both_keys_that_attest(world: EvidenceWorld, tmp_path: Path) -> None:
    """The envelope over its digest, of a type of its own, is verified with the classical and the ML-DSA key."""
    archive = await world.export((await signed(world)).id)
    root = unpacked(world, archive.id, tmp_path / "out")
    digest = hashlib.sha256((root / "manifest.json").read_bytes()).digest()
    keys = [await world.held.named(f"acme.attestation-{name}/1") for name in ("es256", "mldsa65")]
    envelope = verify_hybrid((root / "manifest-signature/evidence.dsse.json").read_bytes(), keys, {"sha256": digest})
    statement = json.loads(envelope.payload)
    assert statement["predicateType"] == EVIDENCE_TYPE
    assert statement["predicate"] == {"release": "app-1.0", "tenant": "acme"}
    assert await world.store.signature("acme", archive.manifest_signature) is not None


async def test_manifest_names_each_file_with_its_digest(world: EvidenceWorld, tmp_path: Path) -> None:
    """What the manifest says is what is there, and only signatures, the sums and the text itself are beside it."""
    root = unpacked(world, (await world.export((await signed(world)).id)).id, tmp_path / "out")
    listed = {one["path"]: one for one in json.loads((root / "manifest.json").read_bytes())["files"]}
    for path, one in listed.items():
        content = (root / path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one["size"], one["sha256"])
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    beside = {name for name in names - listed.keys() if not name.startswith("manifest-signature/")}
    assert beside == {"manifest.json", "SHA256SUMS", "VERIFY.md"}


async def test_audit_lines_verify_and_are_those_of_the_log(world: EvidenceWorld, tmp_path: Path) -> None:
    """Decision and signature are among the lines, of this tenant alone though another asked for the very same."""
    await world.sign({"other": "f" * 64}, caller=MALLORY)
    record = await signed(world)
    root = unpacked(world, (await world.export(record.id)).id, tmp_path / "out")
    lines = (root / "audit.jsonl").read_bytes().splitlines(keepends=True)
    found = verify_extract(lines)
    assert [one.record.event for one in found][-2:] == ["sign.decision", "signature.created"]
    assert found[-1].record.detail["id"] == record.id
    whole = [stored async for stored in audit_records(world.database)]
    assert all(one in whole for one in found)
    assert b'"tenant":"other"' not in b"".join(lines)


async def test_audit_lines_that_left_the_database_are_found(world: EvidenceWorld, tmp_path: Path) -> None:
    """In their archive; and where that was removed, its tombstone is in the evidence, signed."""
    record = await signed(world)
    before = unpacked(world, (await world.export(record.id)).id, tmp_path / "before")
    key, archives = MemoryKey.generate("ed25519"), tmp_path / "audit-archive"
    rules = ArchiveRules(archives, above_records=1)
    for _ in range(2):
        await Archiver(world.database, key, rules, world.clock).once()
    after = unpacked(world, (await world.export(record.id)).id, tmp_path / "after")
    assert (after / "audit.jsonl").read_bytes() == (before / "audit.jsonl").read_bytes() != b""
    assert not (after / "audit-removed.jsonl").exists()
    world.clock.advance(timedelta(days=40))
    await Archiver(world.database, key, replace(rules, above_records=0, retain_days=30), world.clock).once()
    last = unpacked(world, (await world.export(record.id)).id, tmp_path / "last")
    assert (last / "audit.jsonl").read_bytes() == b""
    (line,) = (last / "audit-removed.jsonl").read_bytes().splitlines(keepends=True)
    tombstone = Segment.from_line(line)
    verify_segment(tombstone, key.public_key)
    assert (tombstone.kind, tombstone.first) == ("tombstone", 1)


async def test_report_says_what_is_shown_and_what_is_not(world: EvidenceWorld, tmp_path: Path) -> None:
    """SBOM and provenance are shown, the level of the build is not, and the contact is unknown."""
    root = unpacked(world, (await world.export((await signed(world)).id)).id, tmp_path / "out")
    report = json.loads((root / "report.json").read_bytes())
    slsa = {one["reference"]: one["state"] for one in report["slsa"]["findings"] if " L" in one["reference"]}
    assert slsa == {"Build L1": "shown", "Build L2": "not shown", "Build L3": "not shown"}
    cra = {one["requirement"]: one["state"] for one in report["cra"]["findings"]}
    assert cra["SBOM in a commonly used format"] == "shown"
    assert cra["contact for vulnerabilities"] == "unknown"
    assert cra["documentation is kept ten years after placing on the market"] == "shown"
    kept = json.loads((root / "retention.json").read_bytes())["signatures"]
    assert [(one["rule"], one["kept_until"]) for one in kept] == [("keep 10y", "2040-01-01T00:00:00Z")]


async def test_same_files_make_the_same_octets(world: EvidenceWorld) -> None:
    """Two archives of one release differ in nothing but the signature over their manifest."""
    record = await signed(world)
    first, second = await world.export(record.id), await world.export(record.id)
    members = [_members(world.evidence.path(archive.id)) for archive in (first, second)]
    own = {name for name in members[0] if "manifest-signature" in name or name.endswith("VERIFY.md")}
    assert members[0].keys() == members[1].keys()
    assert list(members[0]) == sorted(members[0])
    assert {name: one for name, one in members[0].items() if name not in own} == {
        name: one for name, one in members[1].items() if name not in own
    }


async def test_release_is_found_by_digest(world: EvidenceWorld) -> None:
    """All signatures over a digest make a release, too."""
    record = await signed(world)
    digest = f"sha256:{hashlib.sha256(ARTEFACT).hexdigest()}"
    archive = await world.evidence.export(ALICE, ExportRequest("by-digest", (), (digest,), "default"))
    assert record.id in str(_members(world.evidence.path(archive.id)).keys())


async def test_nothing_of_another_tenant_is_exported(world: EvidenceWorld) -> None:
    """Another tenant's signature, digest and archive look like none."""
    record = await signed(world)
    archive = await world.export(record.id)
    digest = f"sha256:{hashlib.sha256(ARTEFACT).hexdigest()}"
    with pytest.raises(NotFoundError):
        await world.export(record.id, caller=MALLORY)
    with pytest.raises(NotFoundError):
        await world.evidence.export(MALLORY, ExportRequest("x", (), (digest,), "default"))
    with pytest.raises(NotFoundError):
        await world.evidence.find("other", archive.id)


async def test_file_that_was_changed_on_disk_is_not_exported(world: EvidenceWorld) -> None:
    """An object with other octets than its record says ends the export; no half archive is left."""
    record = await signed(world)
    (sbom,) = [one for one in await world.store.artefacts(record.id) if one.name == "sbom"]
    path = world.objects.path(sbom.sha256)
    path.write_bytes(SBOM[:-1] + b"x")
    with pytest.raises(EvidenceError, match="not what its record says"):
        await world.export(record.id)
    path.unlink()
    with pytest.raises(EvidenceError, match="not there"):
        await world.export(record.id)
    assert list(world.directory.iterdir()) == []


async def test_hostile_names_stay_data(world: EvidenceWorld, tmp_path: Path) -> None:
    """A subject's name is no command in VERIFY.md, no markup in the report, and no path of the archive."""
    name = "$(touch owned)`touch owned`|<script> ``` # ../../x"
    record = await world.sign({name: hashlib.sha256(ARTEFACT).hexdigest()})
    root = unpacked(world, (await world.export(record.id)).id, tmp_path / "out")
    assert "touch" not in (root / "VERIFY.md").read_text()
    assert not [line for line in (root / "report.md").read_text().splitlines() if line.startswith(("```", "# .."))]
    assert all(".." not in path.parts for path in root.rglob("*"))


async def test_key_that_is_gone_does_not_keep_the_evidence_back(world: EvidenceWorld, tmp_path: Path) -> None:
    """Where signer-hsm no longer tells a public key, the archive is made without it."""
    record = await signed(world)
    gone = SignatureRecord.from_json(record.to_json().replace(b"acme.es256/1", b"acme.es256/7"))
    archive = await world.export(await _rewritten(world, gone))
    root = unpacked(world, archive.id, tmp_path / "out")
    assert not (root / "keys/acme.es256.7.pem").exists()
    assert (root / "VERIFY.md").exists()


async def test_archives_go_after_a_month_and_can_be_made_again(world: EvidenceWorld) -> None:
    """The file is removed and that is on record; the promise stays, and so does what it is about."""
    record = await signed(world)
    archive = await world.export(record.id)
    world.later(KEPT_DAYS)
    await world.evidence.clean_up_once()
    assert world.evidence.path(archive.id).exists()
    world.later(1)
    await world.evidence.clean_up_once()
    assert not world.evidence.path(archive.id).exists()
    with pytest.raises(NotFoundError):
        await world.evidence.find("acme", archive.id)
    assert (await world.retention.keeping("acme", record.id)).promised_until > 0
    assert (await world.export(record.id)).id != archive.id


@pytest.mark.parametrize(
    "members",
    [
        None,
        [],
        {},
        {"name": "a", "profile": "default"},
        {"name": "a/b", "profile": "default", "signatures": ["0" * 26]},
        {"name": "..", "profile": "default", "signatures": ["0" * 26]},
        {"name": "a\n", "profile": "default", "signatures": ["0" * 26]},
        {"name": "a", "profile": "", "signatures": ["0" * 26]},
        {"name": "a", "profile": "default", "signatures": ["../../etc/passwd"]},
        {"name": "a", "profile": "default", "signatures": "0" * 26},
        {"name": "a", "profile": "default", "signatures": ["0" * 26] * 101},
        {"name": "a", "profile": "default", "subjects": ["md5:" + "0" * 32]},
        {"name": "a", "profile": "default", "signatures": ["0" * 26], "more": 1},
    ],
)
def test_requests_that_make_no_sense(members: object) -> None:
    """A request names a release, a profile, and signatures or digests in their form."""
    with pytest.raises(MalformedError):
        ExportRequest.of(members)


def _members(path: Path) -> dict[str, tuple[bytes, int, int, int, str]]:
    with tarfile.open(path) as archive:
        return {
            one.name: ((archive.extractfile(one) or io.BytesIO()).read(), int(one.mtime), one.uid, one.mode, one.uname)
            for one in archive.getmembers()
        }


async def _rewritten(world: EvidenceWorld, record: SignatureRecord) -> str:
    """Keep a record under another id, as if it had been made with other keys."""
    stored = StoredSignature("f" * 26, record.tenant, record.created, replace(record, id="f" * 26).to_json())
    await world.store.keep(NewSignature(stored, [], []), AuditEvent("signature.created", "test"))
    return stored.id


def _shell(block: str, directory: Path) -> str:
    ran = subprocess.run(["bash", "-eu", "-c", block], cwd=directory, check=True, capture_output=True, text=True)
    return ran.stdout
