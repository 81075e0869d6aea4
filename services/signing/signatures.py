"""`POST /v1/signatures`: the nine steps from a request to what its caller is answered.

1 who calls: one credential · 2 the request is read and checked, documents go to disk · 3 what the tenant may take ·
4 the idempotency key: the same key and request have the same answer, and what a crash cut short is done again ·
5 the SBOM is checked by its format's rules, the provenance against the subjects · 6 the policy decides, and its answer
is on record before anything is signed · 7 signer-hsm signs, and every signature is verified · 8 time-stamps and log
entries · 9 files, then record, audit event and outbox row in one commit; the answer.

Steps 1 and 2 are `services.signing.api`'s, the others are here. Two commits: the decision is durable before signer-hsm
is asked, since nothing is signed without one on record, and the record cannot be written before the signature is there.
Until the second one nothing can be seen of a request: what it wrote are files that nothing names, which go with it, or
after a crash by `services.signing.upkeep`. Signing the same once more harms nobody, so step 4 keeps no unfinished work:
of two that race with one idempotency key, one commits, and the other answers what that one did.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from pkicore.clock import Clock, from_unix, unix
from services.chassis.database import AuditEvent, Write
from services.chassis.errors import DuplicateError
from services.signing.callers import Caller
from services.signing.decisions import Decisions, caller_name
from services.signing.errors import IdempotencyConflictError, IdentityNeededError
from services.signing.jobs import Job, Profile, Profiles, StatementToSign, check_attestable, check_job, needs_statement
from services.signing.keys import JobKey, SigningKeys
from services.signing.making import Made, Making
from services.signing.metrics import SigningMetrics
from services.signing.objects import Objects, Scratch, WrittenFile
from services.signing.policy import AccessRequest, Decision
from services.signing.provenance import PROVENANCE_TYPE, Provenance, read_provenance
from services.signing.quotas import Quotas
from services.signing.sbom import Sbom
from services.signing.statements import (
    STATEMENT_TAIL,
    VSA_TYPE,
    Attestation,
    VerificationSummary,
    statement,
    statement_chunks,
    statement_head,
)
from services.signing.store import Claim, NewSignature, SigningStore, StoredSignature
from services.signing.wire import LogPlace, PolicyUsed, SignatureRecord, SignatureRequest
from services.signing.witnesses import Witnesses

BASE: Final = "/v1/signatures"
_NAMED: Final = 16  # subjects that the audit log names one by one
_EPHEMERAL: Final = frozenset({"ecdsa-p256"})
_VERSION: Final = {"pqcpki": "1"}


class Checker(Protocol):
    """Checks SBOMs: `SbomChecker` is one."""

    async def check_sbom(self, path: Path, declared_media_type: str | None) -> Sbom:
        """What it is; SbomError where it is none."""
        ...


class Certifier(Protocol):
    """Makes keys with short-lived certificates for OIDC identities."""

    def certified(self, caller: Caller) -> AbstractAsyncContextManager[JobKey]:
        """A key for one request, which is gone when the block ends."""
        ...


Announce = Callable[[SignatureRecord], Sequence[Write]]
"""What puts a new signature in the outbox, for the commit of its record."""


class DocumentFile(NamedTuple):
    """A document that came along, and the media type it was declared to be of."""

    file: WrittenFile
    media_type: str | None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that was read (steps 1 and 2).

    Attributes:
        caller: who asks.
        request: what is asked.
        request_hash: SHA-256 of all of it, documents included.
        idempotency_key: None where there is none.
        sbom: on disk.
        provenance: its octets as they came.
    """

    caller: Caller
    request: SignatureRequest
    request_hash: bytes
    idempotency_key: str | None
    sbom: DocumentFile | None = None
    provenance: bytes | None = None

    @property
    def octets(self) -> int:
        """Of the documents."""
        return (0 if self.sbom is None else self.sbom.file.size) + len(self.provenance or b"")


@dataclass(frozen=True, slots=True)
class _Documents:
    """What came along, checked (step 5)."""

    sbom: Sbom | None
    provenance: Provenance | None


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What signatures are made with.

    Attributes:
        verifier: URI of this service, as summaries name it.
    """

    store: SigningStore
    objects: Objects
    keys: SigningKeys
    profiles: Profiles
    quotas: Quotas
    decisions: Decisions
    sboms: Checker
    witnesses: Witnesses
    certifier: Certifier | None
    announce: Announce
    metrics: SigningMetrics
    clock: Clock
    verifier: str


class Signatures:
    """Makes signatures, and keeps them."""

    def __init__(self, equipment: Equipment) -> None:
        self._with = equipment
        self._running: dict[tuple[str, str, str], tuple[bytes, asyncio.Future[StoredSignature]]] = {}

    async def sign(self, incoming: Incoming, scratch: Scratch) -> StoredSignature:
        """Steps 3 to 9; the caller has a place among its tenant's requests.

        Args:
            incoming: what was read.
            scratch: the request's temporary files.

        Raises:
            SigningError, SigningPolicyError, SbomError, MalformedError, UnsupportedError: it is refused, and why.
            DatabaseError: nothing was kept.
        """
        if incoming.octets:
            await self._with.quotas.take_octets(incoming.caller.tenant, incoming.octets)  # 3
        if incoming.idempotency_key is None:
            return await self._make(incoming, scratch, None)
        return await self._once(incoming, incoming.idempotency_key, scratch)  # 4

    async def _once(self, incoming: Incoming, idempotency_key: str, scratch: Scratch) -> StoredSignature:
        """Step 4."""
        place = (incoming.caller.tenant, caller_name(incoming.caller), idempotency_key)
        running = self._running.get(place)
        if running is not None:
            _require_same(running[0], incoming)
            return await asyncio.shield(running[1])
        answer: asyncio.Future[StoredSignature] = asyncio.get_running_loop().create_future()
        self._running[place] = (incoming.request_hash, answer)
        try:
            stored = await self._claimed(place, incoming) or await self._make(incoming, scratch, idempotency_key)
            answer.set_result(stored)
        except BaseException as error:
            answer.set_exception(error) if isinstance(error, Exception) else answer.cancel()
            if not answer.cancelled():
                answer.exception()  # whether anybody waited for it or not
            raise
        finally:
            del self._running[place]
        return stored

    async def _claimed(self, place: tuple[str, str, str], incoming: Incoming) -> StoredSignature | None:
        """What was signed under an idempotency key before."""
        claim = await self._with.store.claimed(*place)
        if claim is None:
            return None
        _require_same(claim.request_hash, incoming)
        return await self._with.store.signature(incoming.caller.tenant, claim.signature)

    async def _make(self, incoming: Incoming, scratch: Scratch, idempotency_key: str | None) -> StoredSignature:
        profile = self._with.profiles.wanted(incoming.caller, incoming.request)
        if incoming.sbom is not None or incoming.provenance is not None:
            check_attestable(profile.formats)
        documents = await self._check(incoming)  # 5
        if not incoming.request.identity:
            keys = [await self._with.keys.key(key_id) for key_id in profile.keys]
            check_job(_job(incoming, keys, profile))
            decisions = await self._decide(incoming, documents, profile, keys)  # 6
            return await self._sign(incoming, documents, profile, keys, decisions, scratch, idempotency_key)
        if incoming.caller.kind != "oidc" or self._with.certifier is None:
            raise IdentityNeededError("short-lived certificates are made here for the bearers of OIDC tokens alone")
        decisions = await self._decide(incoming, documents, profile, [])
        async with self._with.certifier.certified(incoming.caller) as key:
            check_job(_job(incoming, [key], profile))
            return await self._sign(incoming, documents, profile, [key], decisions, scratch, idempotency_key)

    async def _check(self, incoming: Incoming) -> _Documents:
        """Step 5."""
        provenance = sbom = None
        if incoming.provenance is not None:
            provenance = await asyncio.to_thread(read_provenance, incoming.provenance, incoming.request.subjects)
        if incoming.sbom is not None:
            with self._timed("sbom"):
                sbom = await self._with.sboms.check_sbom(incoming.sbom.file.path, incoming.sbom.media_type)
        return _Documents(sbom, provenance)

    async def _decide(
        self, incoming: Incoming, documents: _Documents, profile: Profile, keys: Sequence[JobKey]
    ) -> Sequence[Decision]:
        """Step 6."""
        caller, request = incoming.caller, incoming.request
        types = _predicate_types(documents, profile)
        formats, count = frozenset(profile.formats), len(request.subjects)
        asked = [
            AccessRequest(
                caller,
                "sign",
                caller.tenant,
                key.key_id.partition(".")[2],
                formats,
                frozenset({key.algorithm.name}),
                types,
                count,
            )
            for key in keys
        ] or [AccessRequest(caller, "sign_certificate", caller.tenant, None, formats, _EPHEMERAL, types, count)]
        about: dict[str, Any] = {"request_sha256": incoming.request_hash.hex(), "subjects": count}
        about["sha256"] = [subject.sha256 for subject in request.subjects[:_NAMED]]
        with self._timed("decide"):
            return await self._with.decisions.allow(asked, about)

    async def _sign(
        self,
        incoming: Incoming,
        documents: _Documents,
        profile: Profile,
        keys: Sequence[JobKey],
        decisions: Sequence[Decision],
        scratch: Scratch,
        idempotency_key: str | None,
    ) -> StoredSignature:
        """Steps 7 to 9."""
        now = unix(self._with.clock.now())
        identifier = new_id(now)
        base = f"{BASE}/{identifier}"
        policy = _policy_used(decisions)
        statements = self._statements(incoming, documents, profile, policy, base, now)
        job = _job(incoming, keys, profile, statements)
        making = Making(job, base, self._with.witnesses, scratch, from_unix(now))
        with self._timed("sign"):
            signed = await making.sign()  # 7
        with self._timed("witness"):
            signed = await making.witness(signed)  # 8
        with self._timed("store"):  # 9
            made = await making.deliver(signed)
            await self._keep_documents(making, made, incoming, documents, scratch)
            record = self._record(identifier, now, incoming, documents, made, policy, base)
            return await self._keep(incoming, record, made, documents, profile, idempotency_key)

    def _statements(
        self,
        incoming: Incoming,
        documents: _Documents,
        profile: Profile,
        policy: PolicyUsed,
        base: str,
        now: int,
    ) -> tuple[StatementToSign, ...]:
        if not needs_statement(profile.formats):
            return ()
        subjects = incoming.request.subjects
        found = []
        looked_at = []
        if incoming.sbom is not None and documents.sbom is not None:
            path, predicate_type = incoming.sbom.file.path, documents.sbom.predicate_type
            length = len(statement_head(subjects, predicate_type)) + incoming.sbom.file.size + len(STATEMENT_TAIL)
            found.append(
                StatementToSign(
                    "sbom", predicate_type, length, lambda: statement_chunks(subjects, predicate_type, path)
                )
            )
            looked_at.append(Attestation(f"{self._with.verifier}{base}/sbom", incoming.sbom.file.sha256))
        if documents.provenance is not None and incoming.provenance is not None:
            content = statement(subjects, PROVENANCE_TYPE, documents.provenance.predicate)
            found.append(StatementToSign.of("provenance", PROVENANCE_TYPE, content))
            digest = hashlib.sha256(incoming.provenance).hexdigest()
            looked_at.append(Attestation(f"{self._with.verifier}{base}/provenance", digest))
        summary = VerificationSummary(
            verifier_id=self._with.verifier,
            verifier_version=_VERSION,
            time_verified=now,
            resource_uri=incoming.request.context.get("resource_uri") or f"urn:sha256:{subjects[0].sha256}",
            policy_uri=f"{self._with.verifier}/v1/policy/{policy.sha256}",
            policy_sha256=policy.sha256,
            attestations=tuple(looked_at),
            passed=True,
            has_provenance=documents.provenance is not None,
        )
        return (StatementToSign.of("vsa", VSA_TYPE, statement(subjects, VSA_TYPE, summary.to_json())), *found)

    async def _keep_documents(
        self, making: Making, made: Made, incoming: Incoming, documents: _Documents, scratch: Scratch
    ) -> None:
        """What came along is served as it came."""
        if incoming.sbom is not None and documents.sbom is not None:
            made.urls["sbom"] = making.keep("sbom", documents.sbom.media_type, incoming.sbom.file)
        if incoming.provenance is not None:
            file = await asyncio.to_thread(scratch.write, [incoming.provenance])
            made.urls["provenance"] = making.keep("provenance", "application/json", file)

    def _record(
        self,
        identifier: str,
        now: int,
        incoming: Incoming,
        documents: _Documents,
        made: Made,
        policy: PolicyUsed,
        base: str,
    ) -> SignatureRecord:
        log, entry, provenance = self._with.witnesses.log, made.entry, documents.provenance
        return SignatureRecord(
            id=identifier,
            created=now,
            tenant=incoming.caller.tenant,
            caller=caller_name(incoming.caller),
            subjects=incoming.request.subjects,
            signatures=tuple(made.signatures),
            bundles=tuple(made.bundles),
            urls={"self": base, **made.urls, "policy": f"/v1/policy/{policy.sha256}"},
            policy=policy,
            context=incoming.request.context,
            log=None
            if log is None or entry is None
            else LogPlace(entry.index, entry.inclusion_proof.tree_size, log.origin),
            sbom=None if documents.sbom is None else documents.sbom.to_members(),
            provenance=None if provenance is None else _described(provenance),
        )

    async def _keep(
        self,
        incoming: Incoming,
        record: SignatureRecord,
        made: Made,
        documents: _Documents,
        profile: Profile,
        idempotency_key: str | None,
    ) -> StoredSignature:
        stored = StoredSignature(record.id, record.tenant, record.created, record.to_json())
        found_by = {f"{name}:{text}" for one in record.subjects for name, text in one.digest.items()}
        new = NewSignature(stored, sorted(found_by | _predicate_types(documents, profile)), made.artefacts)
        claim = None
        if idempotency_key is not None:
            request_hash = incoming.request_hash
            claim = Claim(record.tenant, record.caller, idempotency_key, request_hash, record.id, record.created)
        kept = sum(one.size for one in made.artefacts) - incoming.octets
        await self._with.quotas.take_octets(record.tenant, kept)
        try:
            async with self._with.objects.kept(made.files):
                await self._with.store.keep(new, _created(record, incoming), claim, self._with.announce(record))
        except DuplicateError:
            if idempotency_key is None:
                raise
            found = await self._claimed((record.tenant, record.caller, idempotency_key), incoming)
            if found is None:
                raise
            return found
        for algorithm in made.algorithms:
            self._with.metrics.kept(algorithm)
        return stored

    def _timed(self, step: Any) -> _Timed:  # noqa: ANN401 - one of the metric's words
        return _Timed(self._with.metrics, step)


class _Timed:
    """Times a step, failed ones too."""

    __slots__ = ("_began", "_metrics", "_step")

    def __init__(self, metrics: SigningMetrics, step: Any) -> None:  # noqa: ANN401 - one of the metric's words
        self._metrics = metrics
        self._step = step

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._metrics.step(self._step, time.perf_counter() - self._began)


def new_id(now: int) -> str:
    """An id that nobody can guess, greater than those of earlier seconds."""
    return f"{first_id(now)}{secrets.token_hex(8)}"


def first_id(at: int) -> str:
    """What all ids of a second begin with, and is not greater than any of them."""
    return f"{at:010x}"


def _job(
    incoming: Incoming, keys: Sequence[JobKey], profile: Profile, statements: tuple[StatementToSign, ...] = ()
) -> Job:
    request = incoming.request
    return Job(subjects=request.subjects, keys=tuple(keys), profile=profile, mu=request.mu, statements=statements)


def _require_same(request_hash: bytes, incoming: Incoming) -> None:
    if request_hash != incoming.request_hash:
        raise IdempotencyConflictError("this idempotency key was used with another request")


def _predicate_types(documents: _Documents, profile: Profile) -> frozenset[str]:
    found = {VSA_TYPE} if needs_statement(profile.formats) else set()
    if documents.sbom is not None:
        found.add(documents.sbom.predicate_type)
    if documents.provenance is not None:
        found.add(PROVENANCE_TYPE)
    return frozenset(found)


def _policy_used(decisions: Sequence[Decision]) -> PolicyUsed:
    determining = sorted({policy for decision in decisions for policy in decision.determining})
    return PolicyUsed(decisions[0].policy_hash, decisions[0].policy_version, tuple(determining))


def _described(provenance: Provenance) -> Mapping[str, Any]:
    members = asdict(provenance)
    del members["predicate"]
    return members


def _created(record: SignatureRecord, incoming: Incoming) -> AuditEvent:
    """What the audit log keeps of a signature; the decision before it has the same `request_sha256`."""
    detail = {
        "id": record.id,
        "tenant": record.tenant,
        "request_sha256": incoming.request_hash.hex(),
        "keys": sorted({one.key for one in record.signatures}),
        "formats": sorted({one.format for one in record.signatures} | {one.kind for one in record.bundles}),
        "policy_sha256": record.policy.sha256,
        "log_index": None if record.log is None else record.log.index,
    }
    return AuditEvent("signature.created", record.caller, detail, logged=False)
