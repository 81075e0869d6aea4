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
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pkicore.clock import Clock, from_unix, unix
from services.chassis.database import Write
from services.chassis.errors import DuplicateError
from services.signing.callers import Action, Caller
from services.signing.decisions import Decisions, caller_name
from services.signing.delivery import Delivery, Made
from services.signing.errors import IdempotencyConflictError, IdentityNeededError
from services.signing.incoming import Approved, Checked, Incoming, Keys, policy_used
from services.signing.jobs import Profile, Profiles, check_attestable, check_job
from services.signing.keys import JobKey, SigningKeys
from services.signing.making import Making
from services.signing.metrics import SigningMetrics, Step
from services.signing.objects import Objects, Scratch
from services.signing.policy import AccessRequest, Decision
from services.signing.provenance import read_provenance
from services.signing.quotas import Quotas
from services.signing.records import BASE, created, first_id, found_by, new_id, record_of, statements_of
from services.signing.sbom import Sbom
from services.signing.store import Claim, NewSignature, SigningStore, StoredSignature
from services.signing.wire import OF_ARTEFACTS, OF_STATEMENTS, SignatureRecord
from services.signing.witnesses import Witnesses

__all__ = ["Announce", "Certifier", "Checker", "Equipment", "Incoming", "Signatures", "first_id"]

_NAMED: Final = 16  # subjects that the audit log names one by one
_EPHEMERAL: Final = frozenset({"ecdsa-p256"})


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


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What signatures are made with.

    Attributes:
        certifier: None where there are no short-lived certificates.
        verifier: URL of this service, as summaries name it.
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

        What is answered from the record is not counted among the day's octets once more.

        Args:
            incoming: what was read.
            scratch: the request's temporary files.

        Raises:
            SigningError, SigningPolicyError, SbomError, MalformedError, UnsupportedError: it is refused, and why.
            DatabaseError: nothing was kept.
        """
        place = _place(incoming)
        if place is None:
            return await self._make(incoming, scratch)
        return await self._once(place, incoming, scratch)  # 4

    async def _once(self, place: tuple[str, str, str], incoming: Incoming, scratch: Scratch) -> StoredSignature:
        """Join the request that has this idempotency key here, or be the one."""
        running = self._running.get(place)
        if running is not None:
            _require_same(running[0], incoming)
            return await asyncio.shield(running[1])
        answer: asyncio.Future[StoredSignature] = asyncio.get_running_loop().create_future()
        self._running[place] = (incoming.request_hash, answer)
        try:
            stored = await self._claimed(place, incoming) or await self._make(incoming, scratch)
            answer.set_result(stored)
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # seen, whether anybody waits for it or not
            raise
        finally:
            answer.cancel()  # does nothing where there is an answer: those who wait end with a request that was cut off
            del self._running[place]
        return stored

    async def _claimed(self, place: tuple[str, str, str], incoming: Incoming) -> StoredSignature | None:
        """What was signed under an idempotency key before."""
        claim = await self._with.store.claimed(*place)
        if claim is None:
            return None
        _require_same(claim.request_hash, incoming)
        stored = await self._with.store.signature(incoming.caller.tenant, claim.signature)
        if stored is None:
            raise IdempotencyConflictError(
                "what was signed under this idempotency key is no longer kept: use another one"
            )
        return stored

    async def _make(self, incoming: Incoming, scratch: Scratch) -> StoredSignature:
        if incoming.octets:
            await self._with.quotas.take_octets(incoming.caller.tenant, incoming.octets)  # 3
        checked = await self._check(incoming)  # 5
        if not incoming.request.identity:
            keys = await self._keys(checked.profile)
            check_job(checked.job(keys))
            return await self._sign(await self._approve(checked, keys), scratch)
        if incoming.caller.kind != "oidc" or self._with.certifier is None:
            raise IdentityNeededError("short-lived certificates are made here for the bearers of OIDC tokens alone")
        decisions = await self._decide(checked, Keys((), ()))
        async with self._with.certifier.certified(incoming.caller) as key:
            profile = checked.profile
            keys = Keys((key,) if profile.keys else (), (key,) if profile.attestation_keys else ())
            check_job(checked.job(keys))
            return await self._sign(self._approved(checked, keys, decisions), scratch)

    async def _keys(self, profile: Profile) -> Keys:
        artefacts = [await self._with.keys.key(key_id) for key_id in profile.keys]
        return Keys(tuple(artefacts), tuple([await self._with.keys.key(key_id) for key_id in profile.attestation_keys]))

    async def _check(self, incoming: Incoming) -> Checked:
        """Step 5."""
        profile = self._with.profiles.wanted(incoming.caller, incoming.request)
        if incoming.own is not None:  # is no artefact of a caller's, and is not signed like one
            profile = profile._replace(keys=())
        provenance = sbom = None
        if incoming.sbom is not None or incoming.provenance is not None:
            check_attestable(profile)
        if incoming.provenance is not None:
            provenance = await asyncio.to_thread(read_provenance, incoming.provenance, incoming.request.subjects)
        if incoming.sbom is not None:
            with self._timed("sbom"):
                sbom = await self._with.sboms.check_sbom(incoming.sbom.file.path, incoming.sbom.media_type)
        return Checked(incoming, profile, sbom, provenance)

    async def _approve(self, checked: Checked, keys: Keys) -> Approved:
        return self._approved(checked, keys, await self._decide(checked, keys))

    def _approved(self, checked: Checked, keys: Keys, decisions: Sequence[Decision]) -> Approved:
        now = unix(self._with.clock.now())
        return Approved(checked, keys, policy_used(decisions), new_id(now), now)

    async def _decide(self, checked: Checked, keys: Keys) -> Sequence[Decision]:
        """Step 6: one answer for each key, about what that one signs; without keys, one for a certificate."""
        incoming = checked.incoming
        caller, subjects = incoming.caller, incoming.request.subjects
        formats, types, count = frozenset[str](checked.profile.formats), checked.predicate_types(), len(subjects)
        nothing = frozenset[str]()
        asked = [_asked(caller, *_described(key), formats & OF_ARTEFACTS, nothing, count) for key in keys.artefacts]
        asked += [_asked(caller, *_described(key), formats & OF_STATEMENTS, types, count) for key in keys.statements]
        asked = asked or [_asked(caller, None, _EPHEMERAL, formats, types, count)]
        about: dict[str, Any] = {"request_sha256": incoming.request_hash.hex(), "subjects": len(subjects)}
        about["sha256"] = [subject.sha256 for subject in subjects[:_NAMED]]
        with self._timed("decide"):
            return await self._with.decisions.allow(asked, about)

    async def _sign(self, approved: Approved, scratch: Scratch) -> StoredSignature:
        """Steps 7 to 9."""
        checked, profile = approved.checked, approved.checked.profile
        job = checked.job(approved.keys, statements_of(approved, self._with.verifier))
        making = Making(job, self._with.witnesses, from_unix(approved.at))
        with self._timed("sign"):
            plan = await making.sign()  # 7
        if profile.timestamp or profile.log:
            with self._timed("witness"):
                await making.witness(plan)  # 8
        with self._timed("store"):  # 9
            delivery = Delivery(job, f"{BASE}/{approved.id}", scratch)
            made = await delivery.deliver(plan)
            await self._keep_documents(delivery, made, checked, scratch)
            return await self._keep(approved, made, sum(one.made.log_entry is not None for one in plan.signatures()))

    @staticmethod
    async def _keep_documents(delivery: Delivery, made: Made, checked: Checked, scratch: Scratch) -> None:
        """What came along is served as it came."""
        incoming = checked.incoming
        if incoming.sbom is not None and checked.sbom is not None:
            made.urls["sbom"] = delivery.keep("sbom", checked.sbom.media_type, incoming.sbom.file)
        if incoming.provenance is not None:
            file = await asyncio.to_thread(scratch.write, [incoming.provenance])
            made.urls["provenance"] = delivery.keep("provenance", "application/json", file)

    async def _keep(self, approved: Approved, made: Made, log_entries: int) -> StoredSignature:
        """The one commit that makes the signature be."""
        incoming, log = approved.incoming, self._with.witnesses.log
        record = record_of(approved, made, None if log is None else log.origin)
        stored = StoredSignature(record.id, record.tenant, record.created, record.to_json())
        new = NewSignature(stored, found_by(record, approved.checked.predicate_types()), made.artefacts, log_entries)
        place = _place(incoming)
        claim = None if place is None else Claim(*place, incoming.request_hash, record.id, record.created)
        octets = sum(one.size for one in made.artefacts) - incoming.octets
        await self._with.quotas.take_octets(record.tenant, octets)
        event, told = created(record, incoming.request_hash), self._with.announce(record)
        try:
            async with self._with.objects.kept(made.files):
                await self._with.store.keep(new, event, claim, told)
        except DuplicateError:
            found = None if place is None else await self._claimed(place, incoming)
            if found is None:
                raise
            return found  # another process was quicker with this idempotency key
        for algorithm in made.algorithms:
            self._with.metrics.kept(algorithm)
        return stored

    def _timed(self, step: Step) -> _Timed:
        return _Timed(self._with.metrics, step)


class _Timed:
    """Times a step, failed ones too."""

    __slots__ = ("_began", "_metrics", "_step")

    def __init__(self, metrics: SigningMetrics, step: Step) -> None:
        self._metrics = metrics
        self._step: Step = step

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._metrics.step(self._step, time.perf_counter() - self._began)


def _place(incoming: Incoming) -> tuple[str, str, str] | None:
    """Whose idempotency key it is: tenant, caller, key; None where there is none."""
    if incoming.idempotency_key is None:
        return None
    return incoming.caller.tenant, caller_name(incoming.caller), incoming.idempotency_key


def _require_same(request_hash: bytes, incoming: Incoming) -> None:
    if request_hash != incoming.request_hash:
        raise IdempotencyConflictError("this idempotency key was used with another request")


def _described(key: JobKey) -> tuple[str, frozenset[str]]:
    """A key as policies know it: its name in the tenant, and its algorithm."""
    return key.key_id.partition(".")[2], frozenset({key.algorithm.name})


def _asked(
    caller: Caller,
    key: str | None,
    algorithms: frozenset[str],
    formats: frozenset[str],
    predicate_types: frozenset[str],
    subjects: int,
) -> AccessRequest:
    action: Action = "sign_certificate" if key is None else "sign"
    return AccessRequest(caller, action, caller.tenant, key, formats, algorithms, predicate_types, subjects)
