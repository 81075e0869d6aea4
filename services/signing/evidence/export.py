"""Makes an archive of evidence, by the steps numbered in the package's docstring, and keeps it for a month."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import structlog

from pkicore.clock import Clock, unix
from pkicore.errors import MalformedError
from services.chassis.audit.archives import Archived
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError
from services.signing.callers import Caller
from services.signing.decisions import caller_name
from services.signing.errors import NotFoundError
from services.signing.evidence.archive import ArchiveFile, EvidenceError, write_archive
from services.signing.evidence.audit_extract import extract
from services.signing.evidence.how_to_verify import SignedPlace, verify_text
from services.signing.evidence.keys import PublicKeyOf, key_files
from services.signing.evidence.manifest import (
    CHECKSUMS,
    EVIDENCE_TYPE,
    MANIFEST,
    SIGNATURE_DIRECTORY,
    VERIFY,
    checksums,
    manifest,
)
from services.signing.evidence.report import Kept, Report, retention_json
from services.signing.evidence.trust import trust_files
from services.signing.incoming import Incoming, OwnStatement
from services.signing.objects import Objects, Scratch
from services.signing.quotas import Quotas
from services.signing.records import first_id
from services.signing.retention import Retention, kept_until
from services.signing.statements import Subject
from services.signing.store import SigningStore, StoredSignature
from services.signing.store.evidence import EvidenceStore, StoredEvidence
from services.signing.store.outbox import OutboxStore
from services.signing.webhooks.events import event
from services.signing.wire import SignatureRecord, SignatureRequest

MAX_SIGNATURES: Final = 100  # of one archive
MAX_OCTETS: Final = 4 << 30
KEPT_DAYS: Final = 30
"""How long the file is there to be fetched; it can be made again as long as its signatures are kept."""
_DAY: Final = 86_400
_PAGE: Final = 100
_AFTER_ALL: Final = "~"  # greater than every id
_DECIDED_BEFORE: Final = 120  # seconds between a decision and the record of what came of it, at most
_RECORDED_AFTER: Final = 600
_EXPORTED: Final = "evidence.exported"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{10,64}", re.ASCII)
_DIGEST: Final = re.compile(r"sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})", re.ASCII)
_CLEAN_UP_SECONDS: Final = 3600.0
_UNNAMED_SECONDS: Final = 3600.0
_log = structlog.get_logger("evidence")


class SignsManifests(Protocol):
    """Signs like any other request: `Signatures` is one."""

    async def sign(self, incoming: Incoming, scratch: Scratch) -> StoredSignature:
        """What was signed, on record."""
        ...


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What an archive is to be about.

    Attributes:
        name: of the release.
        signatures: ids.
        subjects: digests, as sha256:HEX, of which all signatures are taken.
        profile: that signs the manifest.
    """

    name: str
    signatures: tuple[str, ...]
    subjects: tuple[str, ...]
    profile: str

    @classmethod
    def of(cls, members: Any) -> ExportRequest:  # noqa: ANN401 -- parsed JSON
        """Read one.

        Raises:
            MalformedError: it is none; the sentence names the field.
        """
        if not isinstance(members, dict) or members.keys() - set(cls.__slots__):
            raise MalformedError(f"the request must be an object of {', '.join(cls.__slots__)}")
        name, profile = members.get("name"), members.get("profile")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise MalformedError("name must be of letters, digits and ._- and at most 100 characters long")
        if not isinstance(profile, str) or not profile:
            raise MalformedError("profile must say whose keys sign the manifest")
        signatures = _texts(members.get("signatures", []), "signatures", _ID)
        subjects = _texts(members.get("subjects", []), "subjects", _DIGEST)
        if not signatures and not subjects:
            raise MalformedError("give signatures, or subjects by digest")
        return cls(name, signatures, subjects, profile)


@dataclass(frozen=True, kw_only=True)
class ArchiveEquipment:
    """What archives are made with.

    Attributes:
        public_key: of a key as records name it, TENANT.NAME/VERSION; KeyAccessError where there is none.
        trusted_root: as it is served; None where there is none.
        directory: where archives are; it is there.
    """

    store: SigningStore
    archives: EvidenceStore
    outbox: OutboxStore
    retention: Retention
    objects: Objects
    signer: SignsManifests
    quotas: Quotas
    public_key: PublicKeyOf
    trusted_root: Callable[[], bytes | None]
    directory: Path
    clock: Clock


class Evidence:
    """Archives of evidence; whoever calls has seen to it that the policy lets the caller export."""

    def __init__(self, equipment: ArchiveEquipment) -> None:
        self._with = equipment

    async def export(self, caller: Caller, wanted: ExportRequest) -> StoredEvidence:
        """Make an archive, sign its manifest, and commit what it promises; counts as one of the tenant's requests.

        Raises:
            NotFoundError: the tenant has no such signatures.
            EvidenceError: a file is not what its record says.
            MalformedError: too many signatures, or too long files.
            SigningError, SigningPolicyError: the manifest may not, or cannot, be signed.
            DatabaseError, OSError: nothing was kept.
        """
        with self._with.quotas.place(caller.tenant):
            return await self._export(caller, wanted)

    async def _export(self, caller: Caller, wanted: ExportRequest) -> StoredEvidence:
        records = await self._records(caller.tenant, wanted)
        kept = [await self._kept(caller.tenant, record) for record in records]
        files = await self._files(wanted.name, records, kept)
        if sum(file.size for file in files) > MAX_OCTETS:
            raise MalformedError(f"an archive has at most {MAX_OCTETS} octets: name fewer signatures")
        body = manifest(wanted.name, caller.tenant, files)
        signed = await self._sign(caller, wanted, body)
        place = SignedPlace(SIGNATURE_DIRECTORY, SignatureRecord.from_json(signed.record))
        files += [ArchiveFile.of(MANIFEST, body), ArchiveFile.of(CHECKSUMS, checksums(files))]
        files += await self._served(place)
        there = {file.path for file in files}
        keys = await key_files(self._with.public_key, [place.record], (await self._audit([place.record])).records)
        files += [key for key in keys if key.path not in there]
        places = [SignedPlace(_directory(record), record) for record in records]
        policies = sorted({record.policy.sha256 for record in records})
        files.append(ArchiveFile.of(VERIFY, verify_text(place, places, policies)))
        return await self._keep(caller, wanted.name, records, kept, files, signed.id)

    def path(self, evidence_id: str) -> Path:
        """Where an archive is."""
        return self._with.directory / f"{evidence_id}.tar"

    async def find(self, tenant: str, evidence_id: str) -> StoredEvidence:
        """An archive that can be fetched.

        Raises:
            NotFoundError: the tenant has none of that id, or its file has had its time.
        """
        found = None
        if _ID.fullmatch(evidence_id):
            found = await self._with.archives.find(tenant, evidence_id)
        if found is None:
            raise NotFoundError("there is no such archive of evidence")
        return found

    async def page(self, tenant: str, after: str | None) -> tuple[list[StoredEvidence], str | None]:
        """Archives of the tenant, the newest first, and the `after` of the next page.

        Raises:
            MalformedError: `after` is no id.
        """
        if after is not None and not _ID.fullmatch(after):
            raise MalformedError("after must be the id of an archive")
        found = await self._with.archives.page(tenant, after or _AFTER_ALL, _PAGE)
        return found, found[-1].id if len(found) == _PAGE else None

    async def clean_up(self) -> None:
        """Remove archives that have had their time, and what crashes left, for ever."""
        while True:
            try:
                await self.clean_up_once()
            except DatabaseError as error:
                _log.warning("archives not cleaned up", error=str(error))
            await asyncio.sleep(_CLEAN_UP_SECONDS)

    async def clean_up_once(self) -> None:
        """Remove archives that are older than a month, first the row, then the file; and old files without a row."""
        before = unix(self._with.clock.now()) - KEPT_DAYS * _DAY
        for evidence_id in await self._with.archives.made_before(before):
            removed = AuditEvent("evidence.removed", "signing", {"id": evidence_id, "rule": f"keep {KEPT_DAYS}d"})
            try:
                await self._with.archives.forget(evidence_id, removed)
            except ConflictError:  # another process was quicker
                continue
            await asyncio.to_thread(self.path(evidence_id).unlink, missing_ok=True)
        for path in await asyncio.to_thread(_old_archives, self._with.directory):
            if not await self._with.archives.is_kept(path.stem):  # a crash came between the file and its row
                await asyncio.to_thread(path.unlink, missing_ok=True)

    # what goes in

    async def _records(self, tenant: str, wanted: ExportRequest) -> list[SignatureRecord]:
        found: dict[str, StoredSignature] = {}
        for signature in wanted.signatures:
            stored = await self._with.store.signature(tenant, signature)
            if stored is None:
                raise NotFoundError(f"there is no signature {signature}")
            found[stored.id] = stored
        for digest in wanted.subjects:
            page = await self._with.store.page(tenant, [digest], most=MAX_SIGNATURES)
            if not page:
                raise NotFoundError(f"nothing was signed that has the digest {digest}")
            found |= {stored.id: stored for stored in page}
        if len(found) > MAX_SIGNATURES:
            raise MalformedError(f"an archive is about at most {MAX_SIGNATURES} signatures: name them by id")
        return [SignatureRecord.from_json(found[signature].record) for signature in sorted(found)]

    async def _kept(self, tenant: str, record: SignatureRecord) -> Kept:
        rule = self._with.retention.rule(tenant)
        keeping = await self._with.retention.keeping(tenant, record.id)
        by_rule = 0 if rule is None else kept_until(record.created, rule.keep)
        until = max(by_rule, keeping.promised_until)
        name = f"keep {rule.keep}" if rule is not None and by_rule == until else None
        return Kept(record.id, name, until or None, keeping.held_at is not None)

    async def _files(self, name: str, records: Sequence[SignatureRecord], kept: Sequence[Kept]) -> list[ArchiveFile]:
        report, audit = Report(name, records, kept), await self._audit(records)
        lines = audit.records
        files = [
            ArchiveFile.of("report.json", report.to_json()),
            ArchiveFile.of("report.md", report.to_markdown()),
            ArchiveFile.of("retention.json", retention_json(kept)),
            ArchiveFile.of("audit.jsonl", extract(lines)),
        ]
        if audit.removed:  # by the audit log's own retention: whoever misses a line finds why
            tombstones = dict.fromkeys(segment.to_line() for segment in audit.removed)
            files.append(ArchiveFile.of("audit-removed.jsonl", b"".join(tombstones)))
        root = self._with.trusted_root()
        files += [] if root is None else trust_files(root)
        for record in records:
            files += await self._served(SignedPlace(_directory(record), record))
        for sha256 in sorted({record.policy.sha256 for record in records}):
            files += await self._policies(sha256)
        return files + await key_files(self._with.public_key, records, lines)

    async def _served(self, place: SignedPlace) -> list[ArchiveFile]:
        files = [ArchiveFile.of(f"{place.directory}/record.json", place.record.to_json())]
        for one in await self._with.store.artefacts(place.record.id):
            if not _FILE_NAME.fullmatch(one.name):
                raise EvidenceError(f"a file of {place.record.id} has a name that no archive can hold")
            content = self._with.objects.path(one.sha256) if one.content is None else one.content
            files.append(ArchiveFile(f"{place.directory}/{one.name}", one.size, one.sha256, content))
        return files

    async def _policies(self, sha256: str) -> list[ArchiveFile]:
        found = await self._with.store.policies(sha256)
        texts = {} if found is None else found.files
        return [
            ArchiveFile.of(f"policies/{sha256}/{name}", text.encode())
            for name, text in texts.items()
            if _FILE_NAME.fullmatch(name)
        ]

    async def _audit(self, records: Sequence[SignatureRecord]) -> Archived:
        """What is on record of them: by their ids, and the decisions before them by the hashes of their requests."""
        found = Archived([], [])
        for record in records:
            about = await self._recorded(record, record.id)
            hashes = {one.record.detail.get("request_sha256") for one in about.records}
            for each in (about, *[await self._recorded(record, str(request)) for request in hashes - {None}]):
                found.records.extend(each.records)
                found.removed.extend(each.removed)
        return found

    async def _recorded(self, record: SignatureRecord, word: str) -> Archived:
        """Lines about a tenant's own: another tenant's request may have the same hash. Exports tell of themselves."""
        since, until = record.created - _DECIDED_BEFORE, record.created + _RECORDED_AFTER
        found = await self._with.archives.audit_records(f'"{word}"', since, until)
        own = [one for one in found.records if one.record.detail.get("tenant") == record.tenant]
        return Archived([one for one in own if one.record.event != _EXPORTED], found.removed)

    # signing and keeping

    async def _sign(self, caller: Caller, wanted: ExportRequest, body: bytes) -> StoredSignature:
        """As a statement that nobody else can have signed: an artefact of that name and digest is anybody's."""
        digest = {"sha256": hashlib.sha256(body).hexdigest(), "sha384": hashlib.sha384(body).hexdigest()}
        digest["sha512"] = hashlib.sha512(body).hexdigest()
        context = {"purpose": "evidence"}
        request = SignatureRequest(
            (Subject(MANIFEST, digest),), profile=wanted.profile, formats=("dsse", "bundle"), context=context
        )
        request_hash = hashlib.sha256(request.to_json()).digest()
        own = OwnStatement("evidence", EVIDENCE_TYPE, orjson.dumps({"release": wanted.name, "tenant": caller.tenant}))
        async with self._with.objects.scratch() as scratch:
            return await self._with.signer.sign(Incoming(caller, request, request_hash, None, own=own), scratch)

    async def _keep(
        self,
        caller: Caller,
        name: str,
        records: Sequence[SignatureRecord],
        kept: Sequence[Kept],
        files: Sequence[ArchiveFile],
        manifest_signature: str,
    ) -> StoredEvidence:
        now = unix(self._with.clock.now())
        evidence_id = f"{first_id(now)}{secrets.token_hex(8)}"
        path = self.path(evidence_id)
        newest = max(record.created for record in records)
        file = await asyncio.to_thread(write_archive, path, name, files, newest)
        dates = [one.until for one in kept]
        earliest = None if None in dates else min(date for date in dates if date is not None)
        archive = StoredEvidence(
            evidence_id,
            caller.tenant,
            name,
            file.size,
            file.sha256,
            manifest_signature,
            earliest,
            now,
            caller_name(caller),
        )
        try:
            await self._commit(archive, kept)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return archive

    async def _commit(self, archive: StoredEvidence, kept: Sequence[Kept]) -> None:
        writes = [
            write
            for one in kept
            if one.until is not None
            for write in self._with.retention.promising(archive.tenant, one.signature, one.until)
        ]
        data = {"id": archive.id, "name": archive.name, "sha256": archive.sha256}
        told = event(_EXPORTED, archive.id, archive.tenant, archive.created_at, data)
        promised = {one.signature: one.until for one in kept}
        detail = {**data, "tenant": archive.tenant, "promised": promised, "manifest": archive.manifest_signature}
        record = AuditEvent(_EXPORTED, archive.created_by, detail)
        await self._with.archives.keep(archive, [*writes, self._with.outbox.announcing(told)], record)


def _old_archives(directory: Path) -> list[Path]:
    """Files that no export under way is about to name; both times are the file system's own."""
    youngest = time.time() - _UNNAMED_SECONDS
    return [path for path in directory.glob("*.tar") if path.stat().st_ctime < youngest]


def _directory(record: SignatureRecord) -> str:
    return f"signatures/{record.id}"


def _texts(values: Any, name: str, form: re.Pattern[str]) -> tuple[str, ...]:  # noqa: ANN401 -- parsed JSON
    fits = isinstance(values, list) and len(values) <= MAX_SIGNATURES
    if not fits or not all(isinstance(value, str) and form.fullmatch(value) for value in values):
        raise MalformedError(f"{name} must be a list of at most {MAX_SIGNATURES} {name}")
    return tuple(dict.fromkeys(values))
