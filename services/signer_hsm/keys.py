"""The life cycle of keys: nothing is half-done, wherever the process dies.

Making a version: 1 decide · 2 commit the intent (state `creating`) with the decision · 3 ask the back end under the
version's label · 4 commit `enabled`. After an unknown outcome (no answer in time, a crash) the back end is asked for
the label: what it has is adopted, what it has not is `failed`, and its number is never used again.

Disabling takes effect here before the back end is asked, enabling after it; destroying has its intent (`destroying`)
and keeps the back end's proof. All three are safe to repeat in the back end, so a retry simply goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from pkicore.algorithms import ALGORITHMS, PrivateKey
from pkicore.clock import Clock, unix
from pkicore.encoding import canonical_json
from services.chassis.errors import ConflictError, DuplicateError
from services.signer_hsm.approvals import Approvals
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.catalogue import Key, State
from services.signer_hsm.decisions import Decisions, caller_name, event_of
from services.signer_hsm.errors import (
    IdempotencyConflictError,
    NotOfferedError,
    SignerError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.imports import public_der, read_private_key
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy import BoundAct, Caller, Decision
from services.signer_hsm.store import Claim, SignerStore, VersionIntent
from services.signer_hsm.versions import Versions
from services.signer_hsm.wire import LifeCycleRequest, NewKeyRequest

Change: TypeAlias = Literal["disable", "enable", "destroy"]
_FROM: Final[Mapping[Change, frozenset[State]]] = {
    "disable": frozenset({"enabled", "disabled"}),
    "enable": frozenset({"enabled", "disabled"}),
    "destroy": frozenset({"enabled", "disabled", "destroying"}),
}
_TO: Final[Mapping[Change, State]] = {"disable": "disabled", "enable": "enabled", "destroy": "destroying"}


class LifeCycle:
    """Makes, rotates, disables, enables and destroys keys."""

    def __init__(
        self,
        *,
        store: SignerStore,
        decisions: Decisions,
        versions: Versions,
        approvals: Approvals,
        clock: Clock,
        metrics: SignerMetrics,
    ) -> None:
        self._store = store
        self._decisions = decisions
        self._versions = versions
        self._approvals = approvals
        self._clock = clock
        self._metrics = metrics

    async def create(self, caller: Caller, request: NewKeyRequest) -> Key:
        """Make a key, or bring one in.

        Raises:
            DecisionError: the policy, its limits or missing approvals.
            IdempotencyConflictError: the idempotency key was used for something else.
            WrongStateError: there is such a key.
            NotOfferedError, BadPayloadError: it cannot be made so.
            BackendError: the back end is not open, or did not make it; `DeadlineError`: nobody knows yet.
        """
        what: Literal["create", "import"] = "create" if request.private_key is None else "import"
        decision = await self._decisions.decide(caller, what, request.tenant, request.name)
        async with self._acting(decision, request.idempotency_key, _facts(request)) as act:
            held = await self._resume(act)
            if held is not None:
                return held
            key = await self._planned(decision, request)
            private_key = None
            parameters = {"algorithm": key.algorithm.name, "backend": key.backend}
            if request.private_key is not None:
                private_key = await read_private_key(request.private_key, key.algorithm)
                parameters["public_key_sha256"] = hashlib.sha256(public_der(private_key.public_key())).hexdigest()
            await self._begin(act, key, None, parameters)
            return await self._make(act, private_key)

    async def rotate(self, caller: Caller, tenant: str, name: str, request: LifeCycleRequest) -> Key:
        """Make the next version, which signs from then on; the one before stays as it is.

        Raises:
            WrongStateError: nothing of the key is left, or `version` is not the current one.
            SignerError: else as `create`.
        """
        decision = await self._decisions.decide(caller, "rotate", tenant, name)
        async with self._acting(decision, request.idempotency_key, {"version": request.version}) as act:
            held = await self._resume(act)
            if held is not None:
                return held
            key = self._rotatable(act, request.version)
            await self._begin(act, key, key.current, {})
            try:
                made = await self._make(act, None)
            except SignerError:
                self._metrics.rotation("failure")
                raise
            self._metrics.rotation("success")
            return made

    async def change(self, caller: Caller, what: Change, tenant: str, name: str, request: LifeCycleRequest) -> Key:
        """Disable, enable or destroy a version, the current one if none is named.

        Raises:
            KeyNotFoundError: there is no such key or version.
            WrongStateError: the version cannot be changed so.
            SignerError: else as `create`; a retry goes on where the back end failed.
        """
        decision = await self._decisions.decide(caller, what, tenant, name)
        async with self._acting(decision, request.idempotency_key, {"version": request.version}) as act:
            held = await self._resume(act)
            if held is not None:
                return held
            key = self._store.catalogue.key(act.key_id)
            version = key.version(request.version)
            act.number = version.number
            if version.state not in _FROM[what]:
                raise WrongStateError(f"version {version.number} is {version.state}")
            used = await self._approvals.used_by(decision, BoundAct(what, tenant, name, version.number, {}))
            to: State = version.state if what == "enable" else _TO[what]
            with _racing():
                await self._store.begin_change(key, version, to, act.claim(), used, event_of(decision, version.number))
            act.recorded = True
            return await self._follow(act, what)

    async def _follow(self, act: _Act, what: Change) -> Key:
        """Have the back end follow an intent that is committed."""
        key = self._store.catalogue.key(act.key_id)
        version = key.versions[act.number]
        if what == "destroy":
            await self._versions.destroy(key, version, act.claim())
        else:
            await self._versions.set_enabled(key, version, act.claim(), enabled=what == "enable")
        return self._store.catalogue.key(act.key_id)

    @asynccontextmanager
    async def _acting(
        self, decision: Decision, idempotency_key: str, facts: Mapping[str, object]
    ) -> AsyncIterator[_Act]:
        """One act at a time on a key; its decision is recorded once, however it ends."""
        act = _Act(decision, idempotency_key, facts, unix(self._clock.now()))
        with await self._decisions.place(decision):
            try:
                async with self._versions.alone(act.key_id):
                    yield act
            finally:
                if not act.recorded:
                    await self._decisions.record(decision, act.number or None)

    async def _resume(self, act: _Act) -> Key | None:
        """What this idempotency key has led to, completed if need be; None where the act is still to be done."""
        claim = await self._store.claimed(act.claim().place)
        if claim is None:
            return None
        if claim.request_hash != act.claim().request_hash:
            raise IdempotencyConflictError("this idempotency key was used with another request")
        act.number = claim.version
        if claim.state == "pending":
            await self._complete(act, claim)
        if await self._store.claimed(claim.place) is None:
            return None  # it was not done, which frees the key
        return self._store.catalogue.key(act.key_id)

    async def _complete(self, act: _Act, claim: Claim) -> None:
        await self._store.refresh()
        key = self._store.catalogue.key(claim.key)
        version = key.versions[claim.version]
        what = act.decision.act
        if version.state == "creating":
            await self._versions.settle(key, version, claim)
        elif version.state == "failed":
            await self._store.free(claim)
        elif what == "destroy" and version.state != "destroyed":
            await self._versions.destroy(key, version, claim)
        elif what in {"disable", "enable"} and version.state in _FROM["enable"]:
            await self._versions.set_enabled(key, version, claim, enabled=what == "enable")
        else:
            await self._store.finish_claim(claim)

    async def _planned(self, decision: Decision, request: NewKeyRequest) -> Key:
        """The key as it is to be."""
        algorithm = ALGORITHMS.get(request.algorithm)
        if algorithm is None:
            raise NotOfferedError(f"the algorithm {request.algorithm!r} is not offered")
        allowed = decision.policy.tenants[request.tenant].backends
        name = request.backend or allowed[0]
        if name not in allowed:
            raise NotOfferedError(f"this tenant's keys live in {', '.join(allowed)}")
        backend = self._versions.backend(name)
        if algorithm.name not in (backend.offers if decision.act == "create" else backend.imports):
            await _require_open(backend)
            raise NotOfferedError(f"the back end {name} does not {decision.act} keys of algorithm {algorithm.name}")
        key_id = f"{request.tenant}.{request.name}"
        held = self._store.catalogue.find(key_id)
        if held is not None and (held.current or not held.is_gone):
            raise WrongStateError("there is a key of this name, or there was one")
        if self._store.catalogue.alive(request.tenant) >= decision.policy.tenants[request.tenant].max_keys:
            raise WrongStateError("the tenant has as many keys as it may have")
        if held is not None:
            return replace(held, backend=name, algorithm=algorithm)
        at = unix(self._clock.now())
        return Key(key_id, request.tenant, request.name, name, algorithm, 0, at, 0, {})

    def _rotatable(self, act: _Act, version: int | None) -> Key:
        key = self._store.catalogue.key(act.key_id)
        if not key.current or key.is_gone:
            raise WrongStateError("the key has no version that could be followed by another")
        if version is not None and version != key.current:
            raise WrongStateError(f"version {version} is not the current one")
        if any(held.state == "creating" for held in key.versions.values()):
            raise WrongStateError("the next version is being made already")
        if key.alive >= act.decision.policy.tenants[key.tenant].max_versions:
            raise WrongStateError("the key has as many versions as it may have: destroy old ones")
        return key

    async def _begin(self, act: _Act, key: Key, approved_version: int | None, parameters: Mapping[str, str]) -> None:
        """Commit the intent to make the next version of a key."""
        decision = act.decision
        act.number = key.next_version
        bound = BoundAct(decision.act, key.tenant, key.name, approved_version, parameters)
        used = await self._approvals.used_by(decision, bound)
        digest = parameters.get("public_key_sha256")
        imported = None if digest is None else bytes.fromhex(digest)
        tenant = decision.policy.tenants[key.tenant]
        intent = VersionIntent(key, act.number, imported, act.at, tenant.max_keys, tenant.max_versions)
        with _racing():
            await self._store.begin_version(intent, act.claim(), used, event_of(decision, act.number))
        act.recorded = True

    async def _make(self, act: _Act, private_key: PrivateKey | None) -> Key:
        key = self._store.catalogue.key(act.key_id)

        async def ask(backend: Backend, label: KeyLabel) -> BackendKey:
            if private_key is None:
                return await backend.create(label, key.algorithm)
            return await backend.import_key(label, private_key)

        await self._versions.make(key, act.number, act.claim(), ask)
        return self._store.catalogue.key(act.key_id)


@dataclass
class _Act:
    """An act that the policy allows; `number` is the version that it is about, once that is known."""

    decision: Decision
    idempotency_key: str
    facts: Mapping[str, object]
    at: int
    number: int = 0
    recorded: bool = False

    @property
    def key_id(self) -> str:
        """The key that it is about."""
        return f"{self.decision.tenant}.{self.decision.key}"

    def claim(self) -> Claim:
        """Its idempotency key, taken by this very request."""
        asked = canonical_json([self.decision.act, self.key_id, dict(self.facts)])
        return Claim(
            caller=caller_name(self.decision.caller),
            tenant=self.decision.tenant,
            idempotency_key=self.idempotency_key,
            request_hash=hashlib.sha256(asked).digest(),
            key=self.key_id,
            version=self.number,
            at=self.at,
        )


@contextmanager
def _racing() -> Iterator[None]:
    """Another process was quicker, or the tenant's last place or an approval was taken meanwhile: nothing was done."""
    try:
        yield
    except (DuplicateError, ConflictError) as error:
        raise WrongStateError("the key, its tenant or an approval was changed meanwhile: try again") from error


async def _require_open(backend: GuardedBackend) -> None:
    """What is not open yet offers nothing; that is no word on what it will offer.

    Raises:
        UnavailableError: it is not open, and why.
    """
    if backend.offers:
        return
    health = await backend.health()
    if not health.ready:
        reason = health.detail.get("reason", health.detail.get("problem", "it is not open"))
        raise UnavailableError(f"the back end {backend.name} is not ready: {reason}")


def _facts(request: NewKeyRequest) -> Mapping[str, object]:
    private_key = request.private_key
    return {
        "algorithm": request.algorithm,
        "backend": request.backend,
        "private_key_sha256": None if private_key is None else hashlib.sha256(private_key).hexdigest(),
    }
