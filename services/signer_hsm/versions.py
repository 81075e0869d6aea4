"""What is done to one key version in its back end, and how it ends well after any interruption.

Each version is worked on by one task at a time in this process; another process is told by the database that it came
second. `sweep` completes what was interrupted: at start, and every few seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

import structlog

from pkicore.clock import Clock, unix
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.catalogue import Key, KeyVersion, State
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    KeyNotFoundError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.imports import public_der
from services.signer_hsm.places import explained, misplaced, require_proof
from services.signer_hsm.store import Claim, SignerStore
from services.signer_hsm.wire import DestructionRecord

SWEEP_SECONDS: Final = 10.0
ASK_AGAIN_SECONDS: Final = 3600
"""A destruction that is not final is asked for again when its time is over, and not more often than so."""
_SERVICE: Final = "signer-hsm"
_RETRY_SECONDS: Final = 2.0
_MARGIN_SECONDS: Final = 5.0  # between the end of a creation for us and its surely being over

_log = structlog.get_logger("keys")


class Versions:
    """Key versions and their back ends.

    Args:
        store: the rows.
        backends: by name, guarded.
        clock: the time.
    """

    def __init__(self, store: SignerStore, backends: Mapping[str, GuardedBackend], clock: Clock) -> None:
        self._store = store
        self._backends = backends
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._steps: Mapping[State, Callable[[Key, KeyVersion], Awaitable[None]]] = {
            "creating": self.settle,
            "destroying": self.destroy,
        }

    def backend(self, name: str) -> GuardedBackend:
        """The back end of a key.

        Raises:
            UnavailableError: the settings do not have it any more.
        """
        found = self._backends.get(name)
        if found is None:
            raise UnavailableError(f"the back end {name} is not configured here")
        return found

    @asynccontextmanager
    async def alone(self, key_id: str) -> AsyncIterator[None]:
        """No other task of this process works on the key."""
        lock = self._locks.get(key_id)
        if lock is None:
            lock = self._locks[key_id] = asyncio.Lock()
        async with lock:
            yield

    async def make(
        self, key: Key, number: int, claim: Claim, ask: Callable[[Backend, KeyLabel], Awaitable[BackendKey]]
    ) -> None:
        """Have the back end make the version whose intent is committed.

        Raises:
            BackendError: it was not made; if `uncertain`, it may have been, and `settle` finds out.
        """
        backend = self.backend(key.backend)
        try:
            made = await ask(backend, KeyLabel(key.tenant, key.name, number))
        except BackendError as error:
            if not error.uncertain:
                await self._fail(key, number, claim, error.cause)
            raise
        await self._adopt(key, number, made, claim)

    async def settle(self, key: Key, version: KeyVersion, claim: Claim | None = None) -> None:
        """Find out what became of an intent.

        Raises:
            UnavailableError: the back end may still be at it.
            BackendError: the back end does not say.
        """
        label = KeyLabel(key.tenant, key.name, version.number)
        found = await self.backend(key.backend).find(label)
        if found is not None:
            await self._adopt(key, version.number, found, claim)
            return
        health = await self.backend(key.backend).health()
        elsewhere = misplaced(self._store.catalogue, key.backend, health.detail)
        if elsewhere is not None:
            raise UnavailableError(elsewhere)
        if unix(self._clock.now()) - version.created_at < self.backend(key.backend).create_seconds + _MARGIN_SECONDS:
            raise UnavailableError("the back end may still be making this key", retry_after=_RETRY_SECONDS)
        await self._fail(key, version.number, claim, "not-made")

    async def _adopt(self, key: Key, number: int, made: BackendKey, claim: Claim | None) -> None:
        public_key = public_der(made.public_key)
        imported = key.versions[number].imported_key
        digest = hashlib.sha256(public_key)
        if made.algorithm.name != key.algorithm.name or (imported is not None and imported != digest.digest()):
            await self._fail(key, number, claim, BadAnswerError.cause)
            raise BadAnswerError(f"the back end {key.backend} has another key under this name")
        version = KeyVersion(
            number,
            "enabled",
            key.versions[number].created_at,
            made.handle,
            public_key,
            imported,
            made.kinds,
            dict(made.evidence),
            schemes=made.schemes,
        )
        detail = {"backend": key.backend, "algorithm": key.algorithm.name, "public_key_sha256": digest.hexdigest()}
        event = _event("key.made", key, number, claim, **detail)
        try:
            await self._store.complete_version(key, version, claim, event)
        except ConflictError:
            await self._store.refresh()  # another process was quicker, and came to the same key

    async def _fail(self, key: Key, number: int, claim: Claim | None, cause: str) -> None:
        _log.warning("key version not made", key=key.id, version=number, backend=key.backend, cause=cause)
        event = _event("key.failed", key, number, claim, backend=key.backend, cause=cause)
        try:
            await self._store.fail_version(key, number, claim, event)
        except ConflictError:
            await self._store.refresh()

    async def set_enabled(self, key: Key, version: KeyVersion, claim: Claim, *, enabled: bool) -> None:
        """Have the back end follow, then complete the change.

        Raises:
            BackendError: it does not; a retry goes on here.
        """
        backend = self.backend(key.backend)
        try:
            await backend.set_enabled(_handle(version), enabled=enabled, tenant=key.tenant)
        except KeyNotFoundError as error:
            raise await explained(error, version, backend) from error
        to: State = "enabled" if enabled else "disabled"
        event = _event(f"key.{to}", key, version.number, claim)
        await self._store.finish_change(key, version, to, claim, event)

    async def destroy(self, key: Key, version: KeyVersion, claim: Claim | None = None) -> None:
        """Have the back end destroy the version, and keep the proof.

        Raises:
            BackendError: it does not, or finds no key where the key was not; a retry goes on here.
        """
        done = await self.backend(key.backend).destroy(_handle(version), tenant=key.tenant)
        require_proof(version, done)
        soonest = 0 if done.final else unix(self._clock.now()) + ASK_AGAIN_SECONDS
        record = DestructionRecord(max(unix(done.at), soonest), done.final, dict(done.proof))
        detail = {"final": record.final, "at": record.at, "proof": dict(record.proof)}
        event = _event("key.destruction", key, version.number, claim, **detail)
        try:
            await self._store.record_destruction(key, version.number, record, claim, event)
        except ConflictError:
            await self._store.refresh()

    async def recover(self) -> None:
        """At start: what a dead process left is completed as far as the back ends answer; the rest is swept later."""
        await self.sweep()
        for key, version in self._store.catalogue.in_state("disabled"):
            try:
                await self.backend(key.backend).set_enabled(_handle(version), enabled=False)
            except BackendError as error:  # it is disabled here in any case
                _log.warning("not disabled in its back end", key=key.id, version=version.number, cause=error.cause)

    async def sweep(self) -> None:
        """Complete every interrupted act whose outcome can be had now."""
        for key, version in self._store.catalogue.unsettled():
            if version.destruction is not None and version.destruction.at > unix(self._clock.now()):
                continue
            async with self.alone(key.id):
                present = self._store.catalogue.key(key.id)
                if present.versions[version.number].state == version.state:
                    await self._sweep_one(present, present.versions[version.number])

    async def _sweep_one(self, key: Key, version: KeyVersion) -> None:
        try:
            await self._steps[version.state](key, version)
        except (BackendError, DatabaseError) as error:
            _log.info("not settled yet", key=key.id, version=version.number, state=version.state, reason=str(error))

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()


def _handle(version: KeyVersion) -> str:
    if version.handle is None:
        raise WrongStateError(f"version {version.number} was never made")
    return version.handle


def _event(name: str, key: Key, number: int, claim: Claim | None, **detail: object) -> AuditEvent:
    """What came of an act; the decision is on record before it."""
    actor = _SERVICE if claim is None else claim.caller
    return AuditEvent(name, actor, {"key": key.id, "version": number, **detail})
