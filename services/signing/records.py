"""What is said of a request that was signed: in statements, in the record, in the audit log."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from services.chassis.database import AuditEvent
from services.signing.decisions import caller_name
from services.signing.delivery import Made
from services.signing.incoming import Approved, DocumentFile
from services.signing.jobs import StatementToSign
from services.signing.provenance import PROVENANCE_TYPE, Provenance
from services.signing.sbom import Sbom
from services.signing.statements import (
    STATEMENT_TAIL,
    VSA_TYPE,
    Attestation,
    Subject,
    VerificationSummary,
    statement,
    statement_chunks,
    statement_head,
)
from services.signing.wire import LogPlace, SignatureRecord

BASE: Final = "/v1/signatures"
POLICY_BASE: Final = "/v1/policy"
_VERSION: Final = {"pqcpki": "1"}


def new_id(at: int) -> str:
    """An id that nobody can guess, greater than those of earlier seconds."""
    return f"{first_id(at)}{secrets.token_hex(8)}"


def first_id(at: int) -> str:
    """What all ids of a second begin with, and is not greater than any of them."""
    return f"{at:010x}"


def statements_of(approved: Approved, verifier: str) -> tuple[StatementToSign, ...]:
    """What is signed about the artefacts: the summary, then what came along; nothing where no key attests.

    What this service itself has to say is signed alone.

    Args:
        approved: the request.
        verifier: URL of this service.
    """
    checked, incoming = approved.checked, approved.incoming
    if not checked.profile.attestation_keys:
        return ()
    subjects = incoming.request.subjects
    if incoming.own is not None:
        kind, predicate_type, predicate = incoming.own
        return (StatementToSign.of(kind, predicate_type, statement(subjects, predicate_type, predicate)),)
    place = f"{verifier}{BASE}/{approved.id}"
    found, looked_at = [], []
    if incoming.sbom is not None and checked.sbom is not None:
        found.append(_about_sbom(subjects, incoming.sbom, checked.sbom))
        looked_at.append(Attestation(f"{place}/sbom", incoming.sbom.file.sha256))
    if incoming.provenance is not None and checked.provenance is not None:
        content = statement(subjects, PROVENANCE_TYPE, checked.provenance.predicate)
        found.append(StatementToSign.of("provenance", PROVENANCE_TYPE, content))
        looked_at.append(Attestation(f"{place}/provenance", hashlib.sha256(incoming.provenance).hexdigest()))
    summary = VerificationSummary(
        verifier_id=verifier,
        verifier_version=_VERSION,
        time_verified=approved.at,
        resource_uri=incoming.request.context.get("resource_uri") or f"urn:sha256:{subjects[0].sha256}",
        policy_uri=f"{verifier}{POLICY_BASE}/{approved.policy.sha256}",
        policy_sha256=approved.policy.sha256,
        attestations=tuple(looked_at),
        passed=True,
        has_provenance=checked.provenance is not None,
    )
    return (StatementToSign.of("vsa", VSA_TYPE, statement(subjects, VSA_TYPE, summary.to_json())), *found)


def _about_sbom(subjects: tuple[Subject, ...], document: DocumentFile, sbom: Sbom) -> StatementToSign:
    """The SBOM stays the file that came: it is spliced in piece by piece."""
    path, predicate_type = document.file.path, sbom.predicate_type
    length = len(statement_head(subjects, predicate_type)) + document.file.size + len(STATEMENT_TAIL)
    return StatementToSign("sbom", predicate_type, length, lambda: statement_chunks(subjects, predicate_type, path))


def record_of(approved: Approved, made: Made, log_origin: str | None) -> SignatureRecord:
    """What the caller is answered, and everybody who asks later."""
    checked, incoming, entry = approved.checked, approved.incoming, made.entry
    log = None
    if entry is not None and log_origin is not None:
        log = LogPlace(entry.index, entry.inclusion_proof.tree_size, log_origin)
    return SignatureRecord(
        id=approved.id,
        created=approved.at,
        tenant=incoming.caller.tenant,
        caller=caller_name(incoming.caller),
        subjects=incoming.request.subjects,
        signatures=tuple(made.signatures),
        bundles=tuple(made.bundles),
        urls={"self": f"{BASE}/{approved.id}", **made.urls, "policy": f"{POLICY_BASE}/{approved.policy.sha256}"},
        policy=approved.policy,
        context=incoming.request.context,
        log=log,
        sbom=None if checked.sbom is None else checked.sbom.to_members(),
        provenance=None if checked.provenance is None else _described(checked.provenance),
    )


def found_by(record: SignatureRecord, predicate_types: frozenset[str]) -> list[str]:
    """What a signature is searched by."""
    digests = {f"{name}:{text}" for one in record.subjects for name, text in one.digest.items()}
    return sorted(digests | predicate_types)


def created(record: SignatureRecord, request_hash: bytes) -> AuditEvent:
    """What the audit log keeps of a signature; the decision before it has the same `request_sha256`."""
    detail = {
        "id": record.id,
        "tenant": record.tenant,
        "request_sha256": request_hash.hex(),
        "keys": sorted({one.key for one in record.signatures}),
        "formats": sorted({one.format for one in record.signatures} | {one.kind for one in record.bundles}),
        "policy_sha256": record.policy.sha256,
        "log_index": None if record.log is None else record.log.index,
    }
    return AuditEvent("signature.created", record.caller, detail, logged=False)


def _described(provenance: Provenance) -> Mapping[str, Any]:
    members = asdict(provenance)
    del members["predicate"]
    return members
