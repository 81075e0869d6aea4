"""The signing path: decide · commit the decision · check kind, length and scheme against the key · sign · answer.

The decision is taken on caller, tenant and key name before the key is looked up, and committed before the back end is
asked: one commit per request, whatever comes of it. When its turn at the back end has come, the version must still be
enabled. Under an idempotency key nothing is ever signed twice: the key is
taken in the commit of the decision, freed only when the back end surely did nothing, and else keeps the answer, or that
nobody knows it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import orjson
import structlog

from pkicore.clock import Clock, unix
from services.chassis.database import AuditEvent
from services.chassis.errors import DatabaseError, DuplicateError
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.catalogue import Key, KeyVersion
from services.signer_hsm.decisions import Decisions, caller_name, event_of
from services.signer_hsm.errors import (
    BackendError,
    IdempotencyConflictError,
    KeyNotFoundError,
    NotOfferedError,
    OutcomeUnknownError,
    SignerError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.places import explained
from services.signer_hsm.policy import Caller, Decision
from services.signer_hsm.problems import kind_of
from services.signer_hsm.schemes import Scheme, check_payload, scheme_of
from services.signer_hsm.store import Claim, SignerStore
from services.signer_hsm.wire import SignAnswer, SignatureProblem, SignRequest

_POLL_SECONDS: Final = 0.05

_log = structlog.get_logger("signing")


class _Target(NamedTuple):
    """What signs, and how; `fault` is why it does not."""

    key: Key | None
    version: KeyVersion | None
    scheme: Scheme | None
    fault: SignerError | None


class Operations:
    """Signatures and public keys.

    Args:
        store: the rows and the catalogue.
        decisions: what is allowed.
        backends: by name.
        patience: by name of the back end: seconds after which an operation that was begun has surely ended.
        clock: the time.
    """

    def __init__(
        self,
        *,
        store: SignerStore,
        decisions: Decisions,
        backends: Mapping[str, GuardedBackend],
        patience: Mapping[str, float],
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalogue = store.catalogue
        self._decisions = decisions
        self._backends = backends
        self._patience = patience
        self._clock = clock
        self._running: dict[tuple[str, str, str], tuple[bytes, asyncio.Task[bytes]]] = {}

    async def public_key(self, caller: Caller, tenant: str, name: str, version: int | None) -> bytes:
        """The body that tells a version's public key.

        Raises:
            DecisionError: the policy refuses.
            KeyNotFoundError: there is no such key or version.
            WrongStateError: the version was never made.
        """
        decision = await self._decisions.decide(caller, "pubkey", tenant, name)
        await self._decisions.record(decision, version)
        key = self._catalogue.key(f"{tenant}.{name}")
        answer = key.public_keys.get(key.version(version).number)
        if answer is None:
            raise WrongStateError("this version was never made")
        backend = self._backends.get(key.backend)
        return (answer if backend is None else replace(answer, at_once=backend.workers)).to_json()

    async def sign(self, caller: Caller, tenant: str, name: str, request: SignRequest) -> bytes:
        """The body with the signature, or with as many as there are payloads.

        Raises:
            DecisionError: the policy or its limits refuse.
            KeyNotFoundError, WrongStateError, BadPayloadError, NotOfferedError: the key, or not so.
            IdempotencyConflictError, OutcomeUnknownError: the idempotency key was used.
            BackendError: the back end did not sign.
            DatabaseError: the decision is not on record; nothing was signed.
        """
        hashes = [hashlib.sha256(payload).hexdigest() for payload in request.payloads]
        decision = await self._decisions.decide(
            caller, "sign", tenant, name, kind=request.kind, scheme=request.scheme, payload_sha256=hashes
        )
        with await self._decisions.place(decision, request.version, payload_sha256=hashes):
            target = self._target(f"{tenant}.{name}", request)
            number = request.version if target.version is None else target.version.number
            used = decision if target.scheme is None else decision._replace(scheme=target.scheme.name)
            event = event_of(used, number, payload_sha256=hashes)
            if request.idempotency_key is None:
                await self._store.record(event)
                return await self._sign(target, request)
            claim = _claim(decision, request, number or 0, hashes, unix(self._clock.now()))
            if target.fault is None:
                return await self._sign_once(target, request, claim, event)
            await self._store.record(event)
            if await self._store.claimed(claim.place) is None:
                raise target.fault
            return await self._signed_before(claim, target)  # before the key was disabled, say

    def _target(self, key_id: str, request: SignRequest) -> _Target:
        key = self._catalogue.find(key_id)
        if key is None:
            return _Target(None, None, None, KeyNotFoundError("there is no such key"))
        version = scheme = None
        try:
            version = key.version(request.version)
            self._require_enabled(key.id, version.number)
            scheme = scheme_of(key.algorithm, request.scheme or next(iter(version.schemes), None))
            if version.schemes and scheme.name not in version.schemes:
                raise NotOfferedError(f"this key signs with {', '.join(version.schemes)}, not with {scheme.name}")
            for payload in request.payloads:
                check_payload(scheme, request.kind, payload)
            if request.kind not in version.kinds:
                kinds = ", ".join(sorted(version.kinds))
                raise NotOfferedError(f"this key's back end takes {kinds}, not the payload kind {request.kind}")
        except SignerError as error:
            return _Target(key, version, scheme, error)
        return _Target(key, version, scheme, None)

    async def _sign(self, target: _Target, request: SignRequest) -> bytes:
        """Ask the back end; the decision is committed."""
        key, version, scheme, fault = target
        if fault is not None:
            raise fault
        if key is None or version is None or scheme is None or version.handle is None:
            raise WrongStateError("this version was never made")
        backend = self._backends.get(key.backend)
        if backend is None:
            raise UnavailableError(f"the back end {key.backend} is not configured here")
        try:
            results = await backend.sign(
                version.handle,
                scheme,
                request.kind,
                request.payloads,
                tenant=key.tenant,
                public_key=version.loaded_public_key,
                once=request.idempotency_key is not None,
                still=partial(self._require_enabled, key.id, version.number),
            )
        except KeyNotFoundError as error:
            raise await explained(error, version, backend) from error
        if not request.batch and isinstance(first := results[0], BackendError):
            raise first
        signatures = tuple([item if isinstance(item, bytes) else _problem_of(item) for item in results])
        return SignAnswer(key.id, version.number, scheme.name, signatures).to_json(batch=request.batch)

    def _require_enabled(self, key_id: str, number: int) -> None:
        """Whether the version may still sign, as the catalogue has it now.

        Raises:
            WrongStateError: it was disabled or destroyed while the request waited for its commit or its turn.
        """
        version = self._catalogue.key(key_id).version(number)
        if version.state != "enabled":
            raise WrongStateError(f"version {number} is {version.state}")

    async def _sign_once(self, target: _Target, request: SignRequest, claim: Claim, event: AuditEvent) -> bytes:
        """Join the request that holds this idempotency key here, or be the one.

        The work is a task of its own: a caller that goes away does not leave it half done.
        """
        running = self._running.get(claim.place)
        if running is None:
            task = asyncio.get_running_loop().create_task(self._sign_claimed(target, request, claim, event))
            self._running[claim.place] = (claim.request_hash, task)
            task.add_done_callback(lambda _: self._running.pop(claim.place))
            return await asyncio.shield(task)
        await self._store.record(event)
        if running[0] != claim.request_hash:
            raise _conflict()
        return await asyncio.shield(running[1])

    async def _sign_claimed(self, target: _Target, request: SignRequest, claim: Claim, event: AuditEvent) -> bytes:
        try:
            await self._store.begin_signing(claim, event)
        except DuplicateError:
            await self._store.record(event)
            return await self._signed_before(claim, target)
        try:
            answer = await self._sign(target, request)
        except BackendError as error:
            settle = self._store.give_up_signing if error.uncertain else self._store.free
            await self._settled(settle(claim))
            raise
        await self._store.finish_signing(claim, answer)
        return answer

    @staticmethod
    async def _settled(commit: Awaitable[None]) -> None:
        """The back end's error counts more to the caller; a row that stays pending is an unknown outcome by itself."""
        try:
            await commit
        except DatabaseError as error:
            _log.error("the outcome of a signature is not on record", reason=str(error))

    async def _signed_before(self, claim: Claim, target: _Target) -> bytes:
        """What this idempotency key stands for; another process may still be at it."""
        patience = self._patience.get(target.key.backend, 0.0) if target.key is not None else 0.0
        waited = 0.0
        while True:
            held = await self._store.claimed(claim.place)
            if held is None:
                raise UnavailableError("the first request with this idempotency key did nothing", retry_after=0.0)
            if held.request_hash != claim.request_hash:
                raise _conflict()
            if held.answer is not None:
                return held.answer
            age = max(waited, unix(self._clock.now()) - held.at)
            if held.state != "pending" or age >= patience:
                raise OutcomeUnknownError(
                    "a signature under this idempotency key may have been made, and its bytes are lost"
                )
            await asyncio.sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS


def _claim(decision: Decision, request: SignRequest, number: int, hashes: Sequence[str], at: int) -> Claim:
    key_id = f"{decision.tenant}.{decision.key}"
    asked = ["sign", key_id, request.version, request.kind, request.scheme, request.batch, hashes]
    return Claim(
        caller=caller_name(decision.caller),
        tenant=decision.tenant,
        idempotency_key=request.idempotency_key or "",
        request_hash=hashlib.sha256(orjson.dumps(asked)).digest(),
        key=key_id,
        version=number,
        at=at,
    )


def _conflict() -> IdempotencyConflictError:
    return IdempotencyConflictError("this idempotency key was used with another request")


def _problem_of(error: BackendError) -> SignatureProblem:
    return SignatureProblem(kind_of(error), str(error))
