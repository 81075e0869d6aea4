"""Believe an archive of evidence, offline, or raise: what `pqcsign evidence verify` is made of.

1 the file is a tar of plain files below one directory, each once (`unverified_tar`) · 2 every file that the manifest
names is there with its size and digest, and beside them nothing but the manifest, its sums and signatures, keys, and
VERIFY.md · 3 the manifest was signed, as evidence, by every key that is expected; where none is, a trusted log has the
entry of such a signature · 4 each Sigstore bundle of a key is by a key of the archive, about an artefact of its record,
and its time-stamps and log entry are by what the trusted root has · 5 the lines of the audit log are whole, and chained
where they are neighbours.

Evidence is a statement of a type of its own, which a service makes about its archives alone, by keys that sign nothing
but its statements. Whose keys these are is nothing that an archive can prove. With keys expected, 3 ties it to them; by
the log alone, it says that some key signed it as evidence: `signed_by` is then to be compared with a known key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.dsse import key_hint, key_id
from pkicore.errors import BadSignatureError, MalformedError, PkiError
from pkicore.jose.strict import strict_object
from services.chassis.fields import Fields
from services.signing.evidence.archive import EvidenceError
from services.signing.evidence.audit_extract import verify_extract
from services.signing.evidence.manifest import CHECKSUMS, EVIDENCE_TYPE, FORMAT, MANIFEST, SIGNATURE_DIRECTORY, VERIFY
from services.signing.evidence.unverified_tar import Member, read_members
from services.signing.formats.unverified_bundle import MessageSignature, UnverifiedBundle
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import (
    NoLogEntryError,
    VerificationError,
    WrongArtefactError,
    verify_hybrid,
    verify_with_key,
)
from services.signing.wire import SignatureRecord

_MAX_READ: Final = 16 << 20  # octets of a file that is looked into
_BUNDLE: Final = ".sigstore.json"
_BESIDE: Final = frozenset({MANIFEST, CHECKSUMS, VERIFY})


@dataclass(frozen=True, slots=True)
class VerifiedArchive:
    """What may be believed.

    Attributes:
        release: its name.
        tenant: whose it is.
        signatures: ids of the records in it.
        signed_by: of each key that signed the manifest: SHA-256 of its SPKI, lower-case hexadecimal.
        log_index: of the manifest's entry in a trusted log; None where keys were expected instead.
        files: that the manifest names.
        bundles: that verified.
        unverified: bundles that rule 4 says nothing about: of short-lived certificates, or longer than 16 MiB.
        audit_lines: of the audit log.
    """

    release: str
    tenant: str
    signatures: tuple[str, ...]
    signed_by: tuple[str, ...]
    log_index: int | None
    files: int
    bundles: int
    unverified: tuple[str, ...]
    audit_lines: int


def verify_archive(path: Path, root: TrustedRoot, keys: Sequence[PublicKey] = ()) -> VerifiedArchive:
    """Believe an archive; the steps are numbered above. Nothing is unpacked.

    Args:
        path: of the tar file.
        root: whose logs and time-stamping authorities are trusted.
        keys: all of which must have signed the manifest; without any, a log of `root` must have its entry.

    Raises:
        EvidenceError: rule 1 or 2.
        VerificationError, PkiError: the others.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _verify(_Archive(file, read_members(file)), root, keys)


@dataclass(frozen=True, slots=True)
class _Archive:
    """The files of a tar, by their path below its directory."""

    file: BinaryIO = field(repr=False)
    members: Mapping[str, Member]

    def read(self, name: str) -> bytes:
        """A file that is looked into."""
        member = self.members.get(name)
        if member is None or member.size > _MAX_READ:
            raise EvidenceError(f"{name} is not in the archive, or too long")
        self.file.seek(member.offset)
        return self.file.read(member.size)

    def record(self, name: str) -> SignatureRecord:
        """A record."""
        return SignatureRecord.from_json(self.read(name))

    def below(self, directory: str, ending: str) -> Iterator[str]:
        """Names of files below a directory that end so, sorted."""
        return (name for name in sorted(self.members) if name.startswith(f"{directory}/") and name.endswith(ending))


def _verify(archive: _Archive, root: TrustedRoot, keys: Sequence[PublicKey]) -> VerifiedArchive:
    body = archive.read(MANIFEST)
    manifest = Fields.of(strict_object(body, "the manifest"))
    if manifest.text("format") != FORMAT:
        raise EvidenceError("the manifest is of another format")
    files = _check_files(archive, manifest)  # 2
    held = [_key(archive.read(name)) for name in archive.below("keys", ".pem")]
    log_index, signers = _believe_manifest(archive, body, root, keys, held)  # 3
    records = {record.id: record for record in map(archive.record, archive.below("signatures", "/record.json"))}
    found = [(_record_of(name, records), name) for name in archive.below("signatures", _BUNDLE)]
    unverified = [name for record, name in found if not _is_believed(archive, record, name, root, held)]  # 4
    lines = verify_extract(archive.read("audit.jsonl").splitlines(keepends=True))  # 5
    return VerifiedArchive(
        manifest.text("release"),
        manifest.text("tenant"),
        tuple(records),
        tuple(key_id(key) for key in signers),
        log_index,
        files,
        len(found) - len(unverified),
        tuple(unverified),
        len(lines),
    )


def _check_files(archive: _Archive, manifest: Fields) -> int:
    """Rule 2; answers how many files the manifest names."""
    listed = {}
    for entry in manifest.objects("files"):
        fields = Fields.of(entry, {"path", "size", "sha256"})
        name, sha256 = fields.text("path"), fields.text("sha256")
        member = archive.members.get(name)
        if member is None or member.size != entry.get("size") or member.sha256 != sha256:
            raise EvidenceError(f"{name[:200]!a} is not what the manifest says, or not there")
        listed[name] = sha256
    for name in archive.members.keys() - listed.keys() - _BESIDE:
        if not name.startswith((f"{SIGNATURE_DIRECTORY}/", "keys/")):
            raise EvidenceError(f"{name[:200]!a} is not in the manifest")
    return len(listed)


def _key(pem: bytes) -> PublicKey:
    try:
        return known_public_key(load_pem_public_key(pem))
    except ValueError as error:
        raise MalformedError("a public key of the archive does not parse") from error


def _believe_manifest(
    archive: _Archive, body: bytes, root: TrustedRoot, keys: Sequence[PublicKey], held: Sequence[PublicKey]
) -> tuple[int | None, Sequence[PublicKey]]:
    """Rule 3; answers the log index where no key is expected, and who signed."""
    digests = {name: hashlib.new(name, body).digest() for name in ("sha256", "sha384", "sha512")}
    for key in keys:
        _require_signed(archive, digests, key)
    if keys:
        return None, keys
    for name in archive.below(SIGNATURE_DIRECTORY, _BUNDLE):
        data = archive.read(name)
        signer = _key_of(UnverifiedBundle.parse(data), held)
        if signer is not None:
            verified = verify_with_key(data, signer, digests, root=root)
            _require_evidence(verified.payload or b"")
            return verified.log_index, [signer]
    raise NoLogEntryError("no trusted log has a signature over the manifest: say which keys must have signed it")


def _require_signed(archive: _Archive, digests: Mapping[str, bytes], key: PublicKey) -> None:
    for name in archive.below(SIGNATURE_DIRECTORY, ""):
        try:
            if name.endswith(".dsse.json"):
                _require_evidence(verify_hybrid(archive.read(name), [key], digests).payload)
            elif name.endswith(_BUNDLE):
                _require_evidence(verify_with_key(archive.read(name), key, digests).payload or b"")
            else:
                continue
        except (PkiError, VerificationError):  # another key's, perhaps
            continue
        return
    raise BadSignatureError("the manifest is not signed, as evidence, by a key that must have signed it")


def _require_evidence(statement: bytes) -> None:
    """The statement says that its subject is the manifest of an archive; who signs artefacts cannot say so."""
    if strict_object(statement, "the Statement").get("predicateType") != EVIDENCE_TYPE:
        raise WrongArtefactError("the manifest is signed, but not as evidence")


def _is_believed(
    archive: _Archive, record: SignatureRecord, name: str, root: TrustedRoot, held: Sequence[PublicKey]
) -> bool:
    """Rule 4: believes a bundle, or raises; False where it is of a certificate, or too long to be looked into."""
    if archive.members[name].size > _MAX_READ:
        return False
    data = archive.read(name)
    bundle = UnverifiedBundle.parse(data)
    if bundle.certificate is not None:
        return False
    key = _key_of(bundle, held)
    if key is None:
        raise BadSignatureError(f"{name} is by a key that the archive does not have")
    digests = _digests_of(record, bundle)
    verify_with_key(data, key, digests, root=root if bundle.log_entries else None)
    return True


def _record_of(name: str, records: Mapping[str, SignatureRecord]) -> SignatureRecord:
    """Of a file below `signatures/ID/`."""
    record = records.get(name.split("/")[1])
    if record is None:
        raise EvidenceError(f"{name} is of no record of the archive")
    return record


def _key_of(bundle: UnverifiedBundle, held: Sequence[PublicKey]) -> PublicKey | None:
    return next((key for key in held if key_hint(key) == bundle.hint), None)


def _digests_of(record: SignatureRecord, bundle: UnverifiedBundle) -> dict[str, bytes]:
    """Digests of the artefact that a bundle is about, which must be one of its record's."""
    for subject in record.subjects:
        digests = {name: bytes.fromhex(text) for name, text in subject.digest.items()}
        if not isinstance(bundle.content, MessageSignature) or bundle.content.digest in digests.values():
            return digests
    raise WrongArtefactError(f"a bundle of {record.id} is about an artefact that its record does not name")
