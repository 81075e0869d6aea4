"""What stands between callers and a back end, the same for all of them.

An operation goes, within one deadline, through: 1. the circuit breaker's first look; 2. the fair share of the tenants;
3. the breaker; 4. the back end, and after a pause once more where repeating is safe;
5. for signatures, the check of what came back. Creating, importing and destroying are never repeated, a signature that
must not be made twice only where the back end surely did nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, TypeVar, get_args

import structlog

from pkicore.algorithms import Algorithm, Payload, PrivateKey, PublicKey
from services.chassis.tracing import step
from services.signer_hsm.backends import (
    Attestation,
    Backend,
    BackendHealth,
    BackendKey,
    Destruction,
    Fact,
    KeyLabel,
)
from services.signer_hsm.backends.breaker import BreakerState, CircuitBreaker
from services.signer_hsm.backends.lane import Lane, lane_of
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.backends.settings import CREATE_DEADLINES, BackendSettings
from services.signer_hsm.backends.share import FairShare
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    ThrottledError,
    UnavailableError,
    gravest,
    nothing_done,
)
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import Scheme

__all__ = ["SERVICE", "GuardedBackend"]

SERVICE: Final = ""
"""Whose share it is when the service itself asks, and no tenant."""

_PLACES_PER_WORKER: Final = 4  # enough that no worker waits for the event loop, few enough to take turns
_PAUSES: Final = (0.025, 0.1)  # seconds before a repetition
_HEALTH_SECONDS: Final = 1.0  # an answer serves all who ask within that time
_CLOSE_SECONDS: Final = 10.0
_BUSY_RETRY: Final = 1.0
_PUBLIC_KEYS: Final = 4096  # remembered, for verification

T = TypeVar("T")
Operation: TypeAlias = Literal["create", "import", "find", "load", "sign", "enable", "disable", "destroy", "attest"]
Repeat: TypeAlias = Literal["no", "if-certain", "yes"]
"""Whether to ask again: never, only where surely nothing was done, or after any passing failure."""

_log = structlog.get_logger("backends")


class GuardedBackend:
    """A back end with a deadline, a breaker, fair shares, safe repetitions, checked signatures and metrics.

    It is itself a `Backend`. Whoever acts for a tenant says so where the label does not: `sign(..., tenant=...)`.

    Attributes:
        name: of the back end in the settings.
        type: file, pkcs11, vault, aws_kms or gcp_kms.
        workers: requests that it works on at the same time.
        create_seconds: after so long, a creation that was begun has ended for us.
        breaker: its state is told by health and metrics; `reset` closes it.
    """

    def __init__(
        self,
        backend: Backend,
        settings: BackendSettings,
        metrics: SignerMetrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name: str = backend.name
        self.type: str = backend.type
        self.workers = settings.workers
        self.create_seconds = settings.deadline_seconds * CREATE_DEADLINES
        self.breaker = CircuitBreaker(self.name, monotonic, settings.breaker_failures, settings.breaker_seconds)
        self._backend = backend
        self._seconds = settings.deadline_seconds
        self._verify = settings.verify
        self._metrics = metrics
        self._monotonic = monotonic
        places = min(settings.workers * _PLACES_PER_WORKER, settings.workers + settings.queue)
        self._share = FairShare(self.name, places, settings.queue)
        self._lane = lane_of(backend)
        self._checks = Lane(f"{self.name}-verify", 1, settings.queue)
        self._public_keys: dict[str, PublicKey] = {}
        self._health_alone = asyncio.Lock()
        self._health: tuple[float, BackendHealth] | None = None
        metrics.pool(self.name, workers=settings.workers, in_use=self._in_use, stuck=self._stuck)
        metrics.breaker(self.name, self._breaker_state)
        metrics.expect(self.name, get_args(Operation))

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """The algorithms that keys can be made of."""
        return self._backend.offers

    @property
    def imports(self) -> frozenset[str]:
        """The algorithms whose private keys can be brought in."""
        return self._backend.imports

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key; asked once. an `uncertain` error leaves open whether it was made."""
        return await self._call("create", label.tenant, lambda: self._backend.create(label, algorithm))

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Bring in a key; asked once. an `uncertain` error leaves open whether it was done."""
        return await self._call("import", label.tenant, lambda: self._backend.import_key(label, private_key))

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The key version with this label, None if there is none."""
        return await self._call("find", label.tenant, lambda: self._backend.find(label), repeat="yes")

    async def load(self, handle: str, *, tenant: str = SERVICE) -> BackendKey:
        """The key version behind a handle."""
        return await self._call("load", tenant, lambda: self._backend.load(handle), repeat="yes")

    async def sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        *,
        tenant: str = SERVICE,
        public_key: PublicKey | None = None,
        once: bool = False,
        still: Callable[[], None] | None = None,
    ) -> Sequence[bytes | BackendError]:
        """One signature, or its error, per payload, in their order.

        Args:
            handle: of the key.
            scheme: how to sign.
            kind: of the payloads.
            payloads: checked already.
            tenant: whose share of the back end it takes.
            public_key: what signatures are verified against where the settings say so; None: what the back end says.
            once: never ask for a signature again that may have been made.
            still: raises where nothing is to be signed any more; called when the turn has come, before the back end.

        Raises:
            BackendError: none could be signed; `uncertain` if one may have been all the same.
        """

        async def ask() -> Sequence[bytes | BackendError]:
            if still is not None:
                still()
            return await self._sign(handle, scheme, kind, payloads, public_key, once=once)

        try:
            answers = await self._call("sign", tenant, ask, repeat="if-certain" if once else "yes")
        except BackendError:
            self._metrics.signatures(self.name, scheme.name, "failure", len(payloads))
            raise
        failed = sum(isinstance(answer, BackendError) for answer in answers)
        self._metrics.signatures(self.name, scheme.name, "success", len(answers) - failed)
        if failed:
            self._metrics.signatures(self.name, scheme.name, "failure", failed)
        return answers

    async def set_enabled(self, handle: str, *, enabled: bool, tenant: str = SERVICE) -> None:
        """Disable or enable the key in the back end, where it can."""
        operation: Operation = "enable" if enabled else "disable"
        await self._call(operation, tenant, lambda: self._backend.set_enabled(handle, enabled=enabled))

    async def destroy(self, handle: str, *, tenant: str = SERVICE) -> Destruction:
        """Destroy the key, or schedule it; asked once, safe to ask again."""
        self._public_keys.pop(handle, None)
        return await self._call("destroy", tenant, lambda: self._backend.destroy(handle))

    async def attest(self, handle: str, *, tenant: str = SERVICE) -> Attestation:
        """What the back end can say of how the key is held."""
        return await self._call("attest", tenant, lambda: self._backend.attest(handle), repeat="yes")

    async def health(self) -> BackendHealth:
        """Whether signing would work now; asked once for all who ask within a second."""
        async with self._health_alone:
            if self._health is None or self._monotonic() - self._health[0] >= _HEALTH_SECONDS:
                health = await self._ask_health()
                self._health = (self._monotonic(), health)
                self._metrics.health(self.name, ready=health.ready, detail=health.detail)
            return self._health[1]

    def adopt(self, backend: Backend) -> None:
        """Go on with this back end, which could not be opened before."""
        self._backend, self._lane, self._health = backend, lane_of(backend), None
        self.breaker.reset()

    async def aclose(self) -> None:
        """Close the back end, without waiting for ever."""
        await self._checks.aclose()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._backend.aclose()
        except TimeoutError:
            _log.warning("back end not closed in time", backend=self.name)

    async def _call(
        self, operation: Operation, tenant: str, ask: Callable[[], Awaitable[T]], *, repeat: Repeat = "no"
    ) -> T:
        seconds = self.create_seconds if operation in {"create", "import"} else self._seconds
        try:
            with step(operation, self.name, "client", {"pqcpki.backend.type": self.type}):
                return await self._in_turn(operation, tenant, ask, seconds, repeat=repeat)
        except BackendError as error:
            self._metrics.failure(self.name, operation, error.cause)
            raise

    async def _in_turn(
        self, operation: Operation, tenant: str, ask: Callable[[], Awaitable[T]], seconds: float, *, repeat: Repeat
    ) -> T:
        self.breaker.check()
        deadline = asyncio.get_running_loop().time() + seconds
        started = self._monotonic()
        if not self._share.take_at_once(tenant):
            await self._wait(tenant, deadline - seconds / 2)  # what is begun has half of the time left
        try:
            with self.breaker.attempt():
                try:
                    return await self._answer(ask, deadline, repeat=repeat)
                finally:
                    self._metrics.observe(self.name, operation, self._monotonic() - started)
        finally:
            self._share.give_back(tenant)

    async def _wait(self, tenant: str, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._share.take(tenant)
        except TimeoutError:
            raise BusyError(f"no turn at the back end {self.name} in time", retry_after=_BUSY_RETRY) from None

    async def _answer(self, ask: Callable[[], Awaitable[T]], deadline: float, *, repeat: Repeat) -> T:
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return await ask() if repeat == "no" else await self._repeated(ask, deadline, repeat)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError(f"the back end {self.name} did not answer in time") from None

    async def _repeated(self, ask: Callable[[], Awaitable[T]], deadline: float, repeat: Repeat) -> T:
        for pause in _PAUSES:
            try:
                return await ask()
            except (UnavailableError, ThrottledError) as error:
                if error.uncertain and repeat == "if-certain":
                    raise
                wait = max(error.retry_after or 0.0, pause) * random.uniform(1.0, 2.0)  # noqa: S311 - jitter is no secret
                if asyncio.get_running_loop().time() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)
        return await ask()

    async def _sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        public_key: PublicKey | None,
        *,
        once: bool,
    ) -> Sequence[bytes | BackendError]:
        with nothing_done():  # the key for the check is had first: afterwards its lack would hide a signature
            checker = (public_key or await self._public_key(handle)) if self._verify else None
        answers = await self._backend.sign(handle, scheme, kind, payloads, once=once)
        if len(answers) != len(payloads) or not all(map(_is_answer, answers)):
            raise BadAnswerError(f"the back end {self.name} answered something that is no list of signatures")
        if checker is not None:
            answers = await self._verified(checker, scheme, kind, payloads, answers)
        errors = [answer for answer in answers if isinstance(answer, BackendError)]
        if errors and len(errors) == len(answers):
            raise gravest(errors)
        return answers

    async def _verified(
        self,
        public_key: PublicKey,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        answers: Sequence[bytes | BackendError],
    ) -> Sequence[bytes | BackendError]:
        """The answers, wrong ones replaced by their error; one is checked here, many in a thread."""
        if len(answers) == 1:
            return [_checked(public_key, scheme, kind, payloads[0], answers[0])]

        def check_all() -> list[bytes | BackendError]:
            pairs = zip(payloads, answers, strict=True)
            return [_checked(public_key, scheme, kind, payload, answer) for payload, answer in pairs]

        try:
            return await self._checks.run(check_all)
        except BackendError as error:
            error.uncertain = True  # no room to check what has been signed
            raise

    async def _public_key(self, handle: str) -> PublicKey:
        known = self._public_keys.get(handle)
        if known is None:
            known = (await self._backend.load(handle)).public_key
            if len(self._public_keys) >= _PUBLIC_KEYS:
                del self._public_keys[next(iter(self._public_keys))]
            self._public_keys[handle] = known
        return known

    async def _ask_health(self) -> BackendHealth:
        if self.breaker.misconfigured is not None:  # not even asked: it might spend a PIN's last try
            facts = {"problem": "misconfigured", "reason": self.breaker.misconfigured, "breaker": self.breaker.state}
            return BackendHealth(False, facts)
        detail: dict[str, Fact] = {}
        ready = False
        try:
            async with asyncio.timeout(self._seconds):
                health = await self._backend.health()
            ready = health.ready
            detail.update(health.detail)
        except TimeoutError:
            detail["problem"] = DeadlineError.cause
        except BackendError as error:
            ready = isinstance(error, BusyError)  # so busy that the question itself had no room
            detail["problem"] = error.cause
        exhausted = self._lane is not None and self._lane.exhausted
        return BackendHealth(ready and not exhausted, {**detail, "breaker": self.breaker.state})

    def _in_use(self) -> int:
        return self._share.in_use if self._lane is None else self._lane.in_use

    def _stuck(self) -> int:
        return 0 if self._lane is None else self._lane.stuck

    def _breaker_state(self) -> BreakerState:
        return self.breaker.state


def _is_answer(answer: object) -> bool:
    return isinstance(answer, BackendError) or (isinstance(answer, bytes) and len(answer) > 0)


def _checked(
    public_key: PublicKey, scheme: Scheme, kind: Payload, payload: bytes, answer: bytes | BackendError
) -> bytes | BackendError:
    if isinstance(answer, BackendError):
        return answer
    try:
        verify_payload(public_key, scheme, kind, payload, answer)
    except BadAnswerError as error:
        return error
    return answer
