"""What is believed of an archive, and what an attacker who may change any of it gets to be believed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, Signature, key_id, pae
from pkicore.errors import AuditError, BadSignatureError, MalformedError, PkiError
from services.signing.evidence import verify_archive
from services.signing.evidence.archive import EvidenceError
from services.signing.evidence.manifest import EVIDENCE_TYPE
from services.signing.statements import STATEMENT_TYPE, VSA_TYPE
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import NoLogEntryError, VerificationError
from tests.support.evidence_world import PROVENANCE, EvidenceWorld, evidence_world

DIGEST = hashlib.sha256(b"artefact").hexdigest()
NOBODY = TrustedRoot()
Files = dict[str, bytes]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EvidenceWorld]:
    """Two tenants with a hybrid profile each."""
    async with evidence_world(tmp_path) as made:
        yield made


@pytest.fixture
async def archive(world: EvidenceWorld) -> Path:
    """The evidence of a release with provenance."""
    record = await world.sign({"app": DIGEST}, provenance=PROVENANCE)
    return world.evidence.path((await world.export(record.id)).id)


async def test_archive_is_believed_by_its_keys(world: EvidenceWorld, archive: Path) -> None:
    """With both keys of the profile expected, and by either alone."""
    keys = [await world.held.named(name) for name in ("acme.attestation-es256/1", "acme.attestation-mldsa65/1")]
    found = verify_archive(archive, NOBODY, keys)
    assert (found.release, found.tenant, len(found.signatures)) == ("app-1.0", "acme", 1)
    assert found.signed_by == tuple(key_id(key) for key in keys)
    assert (found.bundles, found.unverified, found.log_index) == (5, (), None)
    for key in keys:
        assert verify_archive(archive, NOBODY, [key]).signed_by == (key_id(key),)


async def test_keys_that_did_not_sign(world: EvidenceWorld, archive: Path) -> None:
    """Another tenant's key, or one beside the right one; without any key, only a trusted log would do."""
    own, others = (
        await world.held.named("acme.attestation-es256/1"),
        await world.held.named("other.attestation-es256/1"),
    )
    for keys in ([others], [own, others]):
        with pytest.raises(BadSignatureError, match="not signed, as evidence, by"):
            verify_archive(archive, NOBODY, keys)
    with pytest.raises(NoLogEntryError):
        verify_archive(archive, NOBODY)


def _first(files: Files, ending: str) -> str:
    return next(name for name in sorted(files) if name.endswith(ending) and not name.startswith("manifest-signature"))


def _change(ending: str, before: bytes, after: bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        name = _first(files, ending)
        assert before in files[name]
        files[name] = files[name].replace(before, after)

    return change


def _relist(files: Files) -> None:
    """Make the manifest say what is there, as an attacker would."""
    manifest = orjson.loads(files["manifest.json"])
    for one in manifest["files"]:
        content = files[one["path"]]
        one |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files["manifest.json"] = orjson.dumps(manifest)


def _add(name: str) -> Callable[[Files], None]:
    return lambda files: files.update({name: b"x"})


def _drop(name: str) -> Callable[[Files], None]:
    def drop(files: Files) -> None:
        del files[name]

    return drop


CHANGES: dict[str, Callable[[Files], None]] = {
    "a report that says more": _change("report.md", b"not shown", b"shown"),
    "a record of another caller": _change("record.json", b"alice", b"mallo"),
    "a longer date": _change("retention.json", b"null", b"true"),
    "a changed line of the audit log": _change("audit.jsonl", b"alice", b"mallo"),
    "a file more": _add("signatures/note.txt"),
    "a file more beside the manifest": _add("README.md"),
    "a file less": _drop("report.md"),
    "no manifest": _drop("manifest.json"),
    "a manifest that is none": lambda files: files.update({"manifest.json": b"[]"}),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_change_is_found(world: EvidenceWorld, archive: Path, tmp_path: Path, name: str) -> None:
    """Whatever is changed, taken away or put in is found, with the right keys expected."""
    forged = _rewritten(archive, tmp_path / "forged.tar", CHANGES[name])
    with pytest.raises((EvidenceError, MalformedError)):
        verify_archive(forged, NOBODY, [await world.held.named("acme.attestation-es256/1")])


@pytest.mark.parametrize("name", list(CHANGES)[:4])
async def test_manifest_that_is_made_to_fit_is_not_signed(
    world: EvidenceWorld, archive: Path, tmp_path: Path, name: str
) -> None:
    """Who writes the manifest anew has no signature over it, whichever key is expected."""

    def forge(files: Files) -> None:
        CHANGES[name](files)
        _relist(files)

    forged = _rewritten(archive, tmp_path / "forged.tar", forge)
    for key in ("acme.attestation-es256/1", "acme.attestation-mldsa65/1"):
        with pytest.raises(BadSignatureError):
            verify_archive(forged, NOBODY, [await world.held.named(key)])


def _evidence(manifest: bytes, key: ec.EllipticCurvePrivateKey, predicate_type: str = EVIDENCE_TYPE) -> bytes:
    """What a deployment with this key would sign."""
    subject = {"name": "manifest.json", "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}
    made = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": predicate_type, "predicate": {}}
    payload = orjson.dumps(made)
    signature = key.sign(pae(IN_TOTO_PAYLOAD, payload), ec.ECDSA(hashes.SHA256()))
    return Envelope(IN_TOTO_PAYLOAD, payload, (Signature("", signature),)).to_json()


async def test_manifest_that_was_signed_as_something_else(archive: Path, tmp_path: Path) -> None:
    """Who may have artefacts and releases signed has no evidence: neither a raw signature nor a summary is any."""
    key = ec.generate_private_key(ec.SECP256R1())

    def forge(files: Files) -> None:
        CHANGES["a report that says more"](files)
        _relist(files)
        files["manifest-signature/evidence.dsse.json"] = _evidence(files["manifest.json"], key, VSA_TYPE)
        files["manifest-signature/raw-es256.sig"] = key.sign(files["manifest.json"], ec.ECDSA(hashes.SHA256()))

    forged = _rewritten(archive, tmp_path / "forged.tar", forge)
    with pytest.raises(BadSignatureError, match="as evidence"):
        verify_archive(forged, NOBODY, [key.public_key()])


async def test_changed_line_in_a_manifest_that_was_signed(archive: Path, tmp_path: Path) -> None:
    """A deployment that signs an extract with a changed line is found out by the line's own hash."""
    key = ec.generate_private_key(ec.SECP256R1())

    def forge(files: Files) -> None:
        CHANGES["a changed line of the audit log"](files)
        _relist(files)
        files["manifest-signature/evidence.dsse.json"] = _evidence(files["manifest.json"], key)

    forged = _rewritten(archive, tmp_path / "forged.tar", forge)
    with pytest.raises(AuditError, match="was changed"):
        verify_archive(forged, NOBODY, [key.public_key()])


async def test_bundle_by_a_key_that_the_archive_does_not_have(archive: Path, tmp_path: Path) -> None:
    """Likewise where the manifest is signed, and a key that signed the release is left out."""
    key = ec.generate_private_key(ec.SECP256R1())

    def forge(files: Files) -> None:
        name = "keys/acme.es256.1.pem"
        del files[name]
        manifest = orjson.loads(files["manifest.json"])
        manifest["files"] = [one for one in manifest["files"] if one["path"] != name]
        files["manifest.json"] = orjson.dumps(manifest)
        files["manifest-signature/evidence.dsse.json"] = _evidence(files["manifest.json"], key)

    forged = _rewritten(archive, tmp_path / "forged.tar", forge)
    with pytest.raises(BadSignatureError, match="does not have"):
        verify_archive(forged, NOBODY, [key.public_key()])


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"twice", b"outside"]
)
async def test_members_that_no_archive_has(world: EvidenceWorld, archive: Path, tmp_path: Path, kind: bytes) -> None:
    """Links, devices, directories, a second file of a name, or one in another directory end it; nothing is unpacked."""
    more = tarfile.TarInfo("app-1.0/manifest.json" if kind == b"twice" else "app-1.0/keys/x.pem")
    if kind == b"outside":
        more.name = "../keys/x.pem"
    elif kind != b"twice":
        more.type, more.linkname = kind, "/etc/passwd"
    forged = _rewritten(archive, tmp_path / "forged.tar", lambda _: None, more)
    with pytest.raises(EvidenceError, match="no plain file"):
        verify_archive(forged, NOBODY, [await world.held.named("acme.attestation-es256/1")])


@pytest.mark.parametrize("content", [b"", b"\0" * 10_240, b"x" * 2000, b"\x1f\x8b\x08" + b"\0" * 600])
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    """Empty, of zeros, of anything, or compressed: an error that says so."""
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises((EvidenceError, PkiError, VerificationError)):
        verify_archive(path, NOBODY)


def _rewritten(archive: Path, path: Path, change: Callable[[Files], None], more: tarfile.TarInfo | None = None) -> Path:
    """The archive with other files in it, in their order."""
    with tarfile.open(archive) as old:
        files = {one.name.partition("/")[2]: (old.extractfile(one) or io.BytesIO()).read() for one in old}
    change(files)
    with tarfile.open(path, "w") as new:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(f"app-1.0/{name}")
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
        if more is not None:
            new.addfile(more)
    return path
